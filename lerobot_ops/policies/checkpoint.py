"""The folder `pretrained_model`: a policy's configuration, weights and two processors, as LeRobot lays it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lerobot_ops.artifacts import write_json
from lerobot_ops.hub.checkpoints import ADAPTER, CONFIG, WEIGHTS
from lerobot_ops.policies.peft import is_adapter, save_adapter
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.registry import load_config, load_policy
from lerobot_ops.policies.weights import load_weights, read_tensors, save_weights
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, Pipeline, load_pipeline, save_pipeline


@dataclass(frozen=True)
class Checkpoint:
    """A policy ready to act: `postprocessor.action(policy.predict_chunk(preprocessor(observation)))`."""

    policy: Policy
    preprocessor: Pipeline
    postprocessor: Pipeline


def save_checkpoint(
    directory: Path,
    policy: Policy,
    preprocessor: Pipeline,
    postprocessor: Pipeline,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the folder's files into `directory`. Equal policies give equal bytes, on whatever machine.

    `weights` is written in place of the policy's own `saved_weights`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / CONFIG, policy.config.portable().entry(), indent=4)
    weights = policy.saved_weights() if weights is None else weights
    if policy.adapter is None:
        save_weights(weights, directory)
    else:
        save_adapter(policy.adapter, weights, directory)
    save_pipeline(preprocessor, directory)
    save_pipeline(postprocessor, directory)


def restore(policy: Policy, folder: Path) -> None:
    """Go on from a checkpoint of this very policy: of one with an adapter, the adapter alone changes."""
    if policy.adapter is None:
        load_weights(policy, folder)
    else:
        policy.adapter.load(folder)


def stored_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, as `Policy.saved_weights` gave them."""
    return read_tensors(folder / (ADAPTER if is_adapter(folder) else WEIGHTS))


def load_checkpoint(path: Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint folder; raises CheckpointError when a file is missing, damaged or does not fit the others."""
    load_config(path)  # its message is the plainest when this is no checkpoint at all
    preprocessor, postprocessor = load_pipeline(path, PREPROCESSOR), load_pipeline(path, POSTPROCESSOR)
    return Checkpoint(load_policy(path, device), preprocessor.to(device), postprocessor)
