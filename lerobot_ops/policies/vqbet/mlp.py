"""Linear layers with ReLU between them."""

from itertools import pairwise

from torch import nn


def mlp(*widths: int) -> nn.Sequential:
    """(…, widths[0]) -> (…, widths[-1])."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
