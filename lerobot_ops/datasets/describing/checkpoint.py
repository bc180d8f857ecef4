"""What a checkpoint holds, from its JSON files and the header of its weights: no policy is built."""

import json
from pathlib import Path
from typing import Any

from lerobot_ops.config import Config
from lerobot_ops.datasets.describing.text import aligned, size_text
from lerobot_ops.errors import CheckpointError
from lerobot_ops.hub.checkpoints import checkpoint_digest, provenance

_CONFIG, _WEIGHTS, _TRAINING = "config.json", "model.safetensors", "train_config.json"
_ADAPTER_CONFIG, _ADAPTER = "adapter_config.json", "adapter_model.safetensors"
_ADAPTER_FACTS = {"kind": "peft_type", "rank": "r", "base": "base_model_name_or_path"}
_PROCESSORS = {"preprocessor": "policy_preprocessor.json", "postprocessor": "policy_postprocessor.json"}
_LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


class CheckpointSummary(Config):
    """A policy and how it was trained."""

    name: str
    type: str
    digest: str | None
    inputs: dict[str, str]
    """Feature to kind and shape."""
    outputs: dict[str, str]
    settings: dict[str, int | float | str]
    """What tells how it acts and was made: observations and actions of a chunk, seed, batch size, steps."""
    dataset: str | None
    """The dataset that it was trained on, as the training's configuration names it."""
    parameters: int | None
    """Numbers in the weights; None without the file."""
    dtypes: list[str]
    bytes: int
    processors: dict[str, list[str]]
    """Steps of the preprocessor and postprocessor."""
    provenance: dict[str, int | str]
    """What it was made of, and by which runs; see `hub.checkpoints.provenance`."""
    adapter: dict[str, int | str | None] = {}
    """Of an adapter: its kind, its rank and its base."""

    def __str__(self) -> str:
        weights = "no weights" if self.parameters is None else f"{self.parameters:,} numbers, {', '.join(self.dtypes)}"
        facts = [("weights", f"{weights}, {size_text(self.bytes)} in all")]
        facts += [("dataset", self.dataset)] if self.dataset else []
        facts += [(name.replace("_", " "), str(value)) for name, value in self.settings.items()]
        facts += [(name, " → ".join(steps)) for name, steps in self.processors.items()]
        facts += [(f"adapter {name}", str(value)) for name, value in self.adapter.items()]
        facts += [(name.replace("_", " "), str(value)) for name, value in self.provenance.items()]
        facts += [("version", self.digest)] if self.digest else []
        lines = [f"{self.name}: checkpoint of a policy of type {self.type}", *aligned(facts)]
        for title, features in (("reads", self.inputs), ("gives", self.outputs)):
            lines += ["", title, *aligned(features.items())] if features else []
        return "\n".join(lines)


def describe_checkpoint(folder: Path, *, with_digest: bool = False) -> CheckpointSummary:
    """Describe a folder with config.json; raises CheckpointError when a file in it cannot be read."""
    config = _json(folder / _CONFIG)
    if "type" not in config:
        raise CheckpointError(
            "this is no policy's configuration", file=folder / _CONFIG, field="type", expected="the type of a policy"
        )
    training = _json(folder / _TRAINING)
    step = _json(folder.parent / "training_state" / "training_step.json").get("step")
    settings = {name: config.get(name) for name in ("n_obs_steps", "chunk_size", "horizon", "n_action_steps")}
    settings |= {"trained_steps": step, "steps": training.get("steps")}
    settings |= {name: training.get(name) for name in ("batch_size", "seed")}
    adapter = _json(folder / _ADAPTER_CONFIG)
    parameters, dtypes = _weights(folder / (_ADAPTER if adapter else _WEIGHTS))
    return CheckpointSummary(
        name=str(folder),
        type=str(config["type"]),
        digest=checkpoint_digest(folder) if with_digest else None,
        inputs=_features(config.get("input_features")),
        outputs=_features(config.get("output_features")),
        settings={name: value for name, value in settings.items() if isinstance(value, int | float | str)},
        dataset=_dataset(training.get("dataset")),
        parameters=parameters,
        dtypes=dtypes,
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        processors={name: _steps(folder / file) for name, file in _PROCESSORS.items() if (folder / file).exists()},
        provenance=provenance(folder),
        adapter={name: adapter.get(field) for name, field in _ADAPTER_FACTS.items()} if adapter else {},
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise CheckpointError("a file of the checkpoint cannot be read", file=path, found=str(error)) from None
    if not isinstance(content, dict):
        raise CheckpointError("a file of the checkpoint cannot be read", file=path, expected="a JSON object")
    return content


def _features(features: Any) -> dict[str, str]:
    if not isinstance(features, dict):
        return {}
    return {
        name: f"{entry.get('type', '')} {'×'.join(map(str, entry.get('shape') or ()))}".strip()
        for name, entry in features.items()
        if isinstance(entry, dict)
    }


def _dataset(entry: Any) -> str | None:
    entry = entry if isinstance(entry, dict) else {}
    name = entry.get("repo_id") or entry.get("root")
    return f"{name}@{entry['revision']}" if name and entry.get("revision") else name


def _steps(path: Path) -> list[str]:
    steps = _json(path).get("steps") or ()
    return [str(step.get("registry_name") or step.get("class", "?")) for step in steps if isinstance(step, dict)]


def _weights(path: Path) -> tuple[int | None, list[str]]:
    """(Numbers, dtypes) from the header of a safetensors file, which is JSON after its length in eight bytes."""
    if not path.is_file():
        return None, []
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(size)) if size <= _LARGEST_HEADER else None
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        count = 0
        for entry in tensors:
            numbers = 1
            for length in entry["shape"]:
                numbers *= length
            count += numbers
        return count, sorted({str(entry["dtype"]) for entry in tensors})
    except (ValueError, AttributeError, KeyError, TypeError):
        raise CheckpointError(
            "the weights cannot be read", file=path, expected="a safetensors file", fix="copy or train it again"
        ) from None
