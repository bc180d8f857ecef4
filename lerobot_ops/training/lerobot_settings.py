"""Settings of LeRobot's training that are not ours: those that change nothing are left out, others say what to do.

So a command line of `lerobot-train`, and the `train_config.json` in LeRobot's checkpoints, can be used as they are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lerobot_ops.datasets.remote import lerobot_home

CHANGES_NOTHING = {
    "persistent_workers",
    "dataloader_multiprocessing_context",
    "checkpoint_path",
    "dataset.video_backend",
    "dataset.return_uint8",
    "accelerator.ddp",
    "accelerator.fsdp",
    "eval.use_async_envs",
}
"""About processes that read data, decoders and wrappers, which are others here."""

OFF: dict[str, tuple[tuple[Any, ...], str]] = {
    "wandb": ((None,), "metrics are logged to MLflow (see --tracking): leave wandb out, or --wandb.enable=false"),
    "job": ((None,), "jobs of Hugging Face are not started from here: leave job out, or run this on the machine"),
    "save_checkpoint_to_hub": ((False,), "`lerobot-ops publish` puts a checkpoint on the Hub"),
    "sample_weighting": ((None,), "dataset.task_weights draws frames of a task more often"),
    "reward_model": ((None,), "reward models are not trained here"),
    "checkpoint_format": (("safetensors",), "checkpoints are safetensors, of sharded trainings, too"),
    "dataset.repo_type": (("dataset",), "training reads a directory: --dataset.root"),
    "dataset.streaming": ((False,), "training reads a directory: --dataset.root"),
    "dataset.revision": ((None,), "training reads a directory: --dataset.root"),
    "dataset.depth_output_unit": (("mm",), "depth is in millimetres"),
    "dataset.exclude_episodes": ((None, []), "dataset.episodes names those to learn from"),
    "parallelism.context_parallel": ((None, {"ring_degree": 1, "ulysses_degree": 1}), "only data is parallel here"),
    "parallelism.cfg_parallel": ((1,), "only data is parallel here"),
    "accelerator.compile": ((None, False), "--compile=true"),
    "accelerator.activation_checkpointing": ((None, False), "activations are kept; a smaller batch_size needs less"),
    "eval.recording": ((False,), "`lerobot-ops eval --clips.enable=true` makes videos"),
    "eval.recording_repo_id": ((None,), "`lerobot-ops eval --clips.enable=true` makes videos"),
    "eval.recording_private": ((False,), "`lerobot-ops eval --clips.enable=true` makes videos"),
}
"""The values that a setting may have, since they turn it off, and what to do about another one."""


def without_lerobots(values: dict[str, Any]) -> dict[str, Any]:
    """`values` of a training without LeRobot's own settings; raises ValueError when one of them asks for something."""
    written = isinstance(values.get("wandb"), dict) and "project" in values["wandb"]  # by LeRobot, with every default
    result = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    _take_off(result, "wandb", "enable", (False,))
    _take_off(result, "job", "target", (None, "local"))
    for name in CHANGES_NOTHING:
        _taken(result, name)
    problems = []
    for name, (off, fix) in OFF.items():
        found = _taken(result, name)
        if found and found[0] not in off:
            problems.append(f"{name}={found[0]} is a setting of LeRobot that is not used here; {fix}")
    if problems:
        raise ValueError("\n  ".join(problems))
    if result.get("env_eval_freq") == 0:  # LeRobot's way to say: never
        result = {name: value for name, value in result.items() if name not in ("env", "env_eval_freq")}
    every = values.get("save_freq")
    if isinstance(every, int) and every < 0:
        result["save_freq"] = 0
    if written and result.get("use_policy_training_preset", True):
        result = {name: value for name, value in result.items() if name not in ("optimizer", "scheduler")}
    for name in ("output_dir", "env", "peft"):
        if name in result and result[name] is None:
            del result[name]
    _find_root(result)
    return result


def goes_on_from(arguments: Sequence[str]) -> list[str]:
    """The arguments, where `--config_path` names a checkpoint: its `train_config.json`, and with `--resume` its run."""
    result = list(arguments)
    for number, argument in enumerate(arguments):
        name, _, text = argument.partition("=")
        path = Path(text)
        if name != "--config_path" or not (path.is_dir() or path.name == "train_config.json"):
            continue
        folder = path if path.is_dir() else path.parent
        result[number] = f"--config_path={folder / 'train_config.json'}"
        run = folder.absolute().parent.parent
        given = any(other.startswith("--output_dir") for other in arguments)
        if run.name == "checkpoints" and not given and any(other.startswith("--resume") for other in arguments):
            result.append(f"--output_dir={run.parent}")
    return result


def _take_off(values: dict[str, Any], name: str, switch: str, off: tuple[Any, ...]) -> None:
    """Remove a group of settings that is switched off."""
    group = values.get(name)
    if isinstance(group, dict) and group.get(switch, off[0]) in off:
        del values[name]


def _taken(values: dict[str, Any], name: str) -> list[Any]:
    """Remove the value at a dotted name; a list of it, or of nothing."""
    *path, last = name.split(".")
    for key in path:
        inner = values.get(key)
        if not isinstance(inner, dict):
            return []
        values[key] = values = dict(inner)
    return [values.pop(last)] if last in values else []


def _find_root(values: dict[str, Any]) -> None:
    """A dataset that is named and has no directory is in `$HF_LEROBOT_HOME/<repo_id>`, if it is there."""
    dataset = values.get("dataset")
    if isinstance(dataset, dict) and dataset.get("root") is None:
        dataset.pop("root", None)
        place = lerobot_home() / str(dataset.get("repo_id"))
        if dataset.get("repo_id") and place.is_dir():
            dataset["root"] = place
