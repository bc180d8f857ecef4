"""What the losses of several policies share."""

from torch import Tensor


def mean_without_padding(error: Tensor, padded: Tensor) -> Tensor:
    """The mean of an error (B, T, A) over the actions that are none behind an episode's end, where `padded` (B, T)."""
    valid = ~padded.unsqueeze(-1)
    return (error * valid).sum() / (valid.sum() * error.shape[-1]).clamp_min(1)
