"""Computing in 16 bits where it is faster, and weights in 32: autocast, and for fp16 a scale that keeps gradients."""

import contextlib
import json
from pathlib import Path
from typing import Literal

import torch

from lerobot_ops.errors import CheckpointError

MixedPrecision = Literal["no", "bf16", "fp16"]
STATE = "grad_scaler.json"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How one training computes."""

    def __init__(self, kind: MixedPrecision, device: str) -> None:
        self.device_type = torch.device(device).type
        self.dtype = _DTYPES.get(kind)
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=kind == "fp16")

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Around the forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def state(self) -> dict[str, float] | None:
        """The scale, where there is one."""
        return self.scaler.state_dict() if self.scaler.is_enabled() else None

    def load(self, directory: Path) -> None:
        """Go on with the scale of a checkpoint; raises CheckpointError when it is missing or damaged."""
        if self.scaler.is_enabled():
            try:
                self.scaler.load_state_dict(json.loads((directory / STATE).read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise CheckpointError("the scale of fp16 cannot be read", file=directory, found=str(error)) from None


def default_precision(use_amp: bool, device: str) -> MixedPrecision:
    """What LeRobot's `policy.use_amp` means: torch's own choice of 16 bits for the device."""
    if not use_amp:
        return "no"
    return "fp16" if torch.get_autocast_dtype(torch.device(device).type) == torch.float16 else "bf16"
