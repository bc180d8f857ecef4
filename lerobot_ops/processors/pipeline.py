"""A pipeline of processor steps, and its files: `<name>.json` beside one safetensors file per step that has a state.

A batch is a flat dict: `observation.*`, `action`, `<key>_is_pad` and `task`. Only the steps registered here can be
loaded: a checkpoint's JSON cannot name a class of ours or anyone's to import.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lerobot_ops.artifacts import write_bytes, write_json
from lerobot_ops.errors import CheckpointError, did_you_mean
from lerobot_ops.processors.features import ACTION
from lerobot_ops.processors.normalize import Normalize, Unnormalize
from lerobot_ops.processors.steps import Batch, RenameObservations, ToBatch, ToDevice
from lerobot_ops.processors.tokenizer import NewLine, Tokenize

PREPROCESSOR = "policy_preprocessor"
POSTPROCESSOR = "policy_postprocessor"


class Step(Protocol):
    """One transformation of a batch. It may keep tensors (its state), which are saved beside its configuration."""

    registry_name: str

    def __call__(self, batch: Batch) -> Batch: ...

    def config(self) -> dict[str, Any]:
        """The JSON object that `from_config` makes an equal step of, without its state."""

    def state(self) -> dict[str, Tensor]:
        """Float32 tensors on the CPU; empty when there is nothing to keep."""

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


STEPS: dict[str, Any] = {
    step.registry_name: step
    for step in (RenameObservations, ToBatch, NewLine, Tokenize, ToDevice, Normalize, Unnormalize)
}
"""The steps that a processor file may name."""


@dataclass(frozen=True)
class Pipeline:
    """Steps that are applied to a batch one after another."""

    name: str
    steps: Sequence[Step]

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        """The processed batch; the input stays as it is."""
        result = dict(batch)
        for step in self.steps:
            result = step(result)
        return result

    def action(self, action: Tensor) -> Tensor:
        """The processed action alone: (..., A) -> (..., A)."""
        processed: Tensor = self({ACTION: action})[ACTION]
        return processed

    def to(self, device: str) -> "Pipeline":
        """The same pipeline with its device steps set to `device`; a postprocessor keeps ending on the CPU."""
        if self.name == POSTPROCESSOR:
            return self
        steps = [ToDevice(device, step.float_dtype) if isinstance(step, ToDevice) else step for step in self.steps]
        return Pipeline(self.name, steps)

    def renaming(self, rename_map: Mapping[str, str]) -> "Pipeline":
        """The same pipeline that first gives observations other names (old -> new), in place of those that it gave."""
        others = [step for step in self.steps if not isinstance(step, RenameObservations)]
        return Pipeline(self.name, [RenameObservations(dict(rename_map)), *others])


def save_pipeline(pipeline: Pipeline, directory: Path) -> None:
    """Write the pipeline's JSON and states into `directory`, with LeRobot's file names."""
    entries = []
    for place, step in enumerate(pipeline.steps):
        entry: dict[str, Any] = {"registry_name": step.registry_name, "config": step.config()}
        state = step.state()
        if state:
            entry["state_file"] = f"{pipeline.name}_step_{place}_{step.registry_name}.safetensors"
            write_bytes(directory / entry["state_file"], save({name: state[name] for name in sorted(state)}))
        entries.append(entry)
    write_json(directory / f"{pipeline.name}.json", {"name": pipeline.name, "steps": entries})


def load_pipeline(directory: Path, name: str) -> Pipeline:
    """Read the pipeline `name` from a checkpoint directory.

    Raises CheckpointError when the file is missing or not valid, names a step that is not registered, or when a
    normaliser comes without the statistics that it needs: a policy with a lost normaliser fails silently.
    """
    path = directory / f"{name}.json"
    entries = list(_entries(path))
    steps = [_load_step(path, place, entry) for place, entry in enumerate(entries)]
    return Pipeline(name, steps)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["steps"]
        if not all(isinstance(entry, dict) and isinstance(entry.get("config", {}), dict) for entry in entries):
            raise TypeError("each step is an object")
        yield from entries
    except FileNotFoundError:
        raise CheckpointError(
            "the checkpoint has no processor, and so no normaliser: what the policy would see and do were wrong",
            file=path,
            fix=f"of one from before LeRobot's processors: lerobot-ops migrate {path.parent} NEW_FOLDER; of any other "
            "copy the policy_*processor* files, too",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            "the processor file is not valid", file=path, found=str(error), expected='{"name": …, "steps": […]}'
        ) from None


def _load_step(path: Path, place: int, entry: dict[str, Any]) -> Step:
    name = entry.get("registry_name")
    if name not in STEPS:
        raise CheckpointError(
            "the processor has a step that is not known here",
            file=path,
            field=f"steps[{place}]",
            found=name or entry.get("class"),
            fix=did_you_mean(str(name or entry.get("class")), STEPS),
        )
    try:
        step: Step = STEPS[name].from_config(entry.get("config", {}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the processor step {name} has a bad configuration", file=path, field=f"steps[{place}]", found=str(error)
        ) from None
    state = _read_state(path, place, entry["state_file"]) if "state_file" in entry else {}
    try:
        step.load_state(state)
    except ValueError as error:
        raise CheckpointError(str(error), file=path, field=f"steps[{place}].state_file") from None
    return step


def _read_state(path: Path, place: int, name: str) -> dict[str, torch.Tensor]:
    file = path.parent / name
    if Path(name).name != name:
        raise CheckpointError("a state file lies beside its processor", file=path, field=f"steps[{place}]", found=name)
    try:
        return load_file(file)
    except FileNotFoundError:
        raise CheckpointError("the processor's state file is missing", file=file) from None
    except SafetensorError as error:
        raise CheckpointError("the processor's state file cannot be read", file=file, found=str(error)) from None
