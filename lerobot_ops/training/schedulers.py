"""A policy's learning-rate schedule at work on an optimiser, and its state as LeRobot's JSON."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from lerobot_ops.artifacts import write_json
from lerobot_ops.errors import CheckpointError
from lerobot_ops.policies.schedules import Schedule

STATE = "scheduler_state.json"


def make_scheduler(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int) -> LambdaLR:
    """What sets the optimiser's rates for each of `steps` steps: `step()` is called after each of its own."""
    return LambdaLR(optimizer, lambda step: schedule.factor(step, steps))


def write_scheduler(state: dict[str, Any], directory: Path) -> None:
    """Write a scheduler's `state_dict`: where in its schedule a training is."""
    write_json(directory / STATE, state, indent=4)


def load_scheduler(scheduler: LambdaLR, directory: Path) -> None:
    """Continue where `write_scheduler` was called; raises CheckpointError when its file is missing or damaged."""
    try:
        scheduler.load_state_dict(json.loads((directory / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError("the schedule's state cannot be read", file=directory / STATE, found=str(error)) from None
