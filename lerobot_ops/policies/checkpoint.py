"""The folder `pretrained_model`: a policy's configuration, weights and two processors, as LeRobot lays it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lerobot_ops.artifacts import write_json
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.registry import CONFIG, load_config, load_policy
from lerobot_ops.policies.weights import save_weights
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

    `weights` is a state dict to write in place of the policy's own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / CONFIG, policy.config.portable().entry(), indent=4)
    save_weights(policy.state_dict() if weights is None else weights, directory)
    save_pipeline(preprocessor, directory)
    save_pipeline(postprocessor, directory)


def load_checkpoint(path: Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint folder; raises CheckpointError when a file is missing, damaged or does not fit the others."""
    load_config(path)  # its message is the plainest when this is no checkpoint at all
    preprocessor, postprocessor = load_pipeline(path, PREPROCESSOR), load_pipeline(path, POSTPROCESSOR)
    return Checkpoint(load_policy(path, device), preprocessor.to(device), postprocessor)
