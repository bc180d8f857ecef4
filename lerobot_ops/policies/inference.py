"""A trained policy as the evaluator and the robot use it: an observation in, the actions to execute out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lerobot_ops.errors import ConfigError, did_you_mean
from lerobot_ops.policies.checkpoint import Checkpoint, load_checkpoint
from lerobot_ops.policies.device import best_device
from lerobot_ops.processors.pipeline import Pipeline
from lerobot_ops.processors.steps import RenameObservations


class PolicyRunner:
    """A checkpoint that acts. One observation is one batch, so an answer does not depend on what else is asked."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        config = checkpoint.policy.config
        self.type: str = config.type
        self.n_action_steps: int = config.n_actions
        self.n_obs_steps: int = config.n_obs_steps
        outside = _outside_names(checkpoint.preprocessor)
        self.observation_keys: list[str] = [outside.get(name, name) for name in config.input_features]
        self.cameras: list[str] = [outside.get(name, name) for name in config.image_features]
        self._shapes = {outside.get(name, name): f.shape for name, f in config.input_features.items()}
        self._bound = False

    @classmethod
    def from_checkpoint(cls, path: Path | str, device: str | None = "cpu") -> "PolicyRunner":
        """Load the folder `path`; raises CheckpointError when it is incomplete or does not fit together."""
        return cls(load_checkpoint(Path(path), best_device(device)))

    def episode(self) -> "PolicyRunner":
        """A runner for one episode, which shares the weights and remembers nothing of the others."""
        runner = PolicyRunner(self._checkpoint)
        runner._checkpoint = Checkpoint(
            self._checkpoint.policy.for_episode(), self._checkpoint.preprocessor, self._checkpoint.postprocessor
        )
        runner._bound = True
        return runner

    @torch.no_grad()
    def act(self, observation: Mapping[str, NDArray[Any]], task: str = "") -> NDArray[np.float32]:
        """The next actions (n_action_steps, A) in the units of the dataset.

        `observation` is unbatched: vectors, and uint8 images (H, W, 3), for each of `observation_keys`. Raises
        ConfigError when one is missing or has another shape. A policy whose `config.keeps_memory` acts only through
        `episode()`.
        """
        policy = self._checkpoint.policy
        if policy.config.keeps_memory and not self._bound:
            raise ConfigError("this policy remembers its earlier queries", fix="act through PolicyRunner.episode()")
        tensors: dict[str, Any] = {name: self._tensor(observation, name) for name in self.observation_keys}
        batch = self._checkpoint.preprocessor({**tensors, "task": task})
        if policy.config.keeps_memory:
            actions = policy.select_action(batch).unsqueeze(1)
        else:
            actions = policy.predict_chunk(batch)[:, : self.n_action_steps]
        result: NDArray[np.float32] = self._checkpoint.postprocessor.action(actions)[0].float().numpy()
        return result

    def _tensor(self, observation: Mapping[str, NDArray[Any]], name: str) -> torch.Tensor:
        if name not in observation:
            raise ConfigError(
                "the policy reads an observation that is not there",
                field=name,
                found=", ".join(sorted(observation)),
                fix=did_you_mean(name, observation) if observation else None,
            )
        value = observation[name]
        if name in self.cameras:
            value = value.transpose(2, 0, 1) if value.ndim == 3 else value
        if value.shape != self._shapes[name]:
            raise ConfigError(
                "an observation has another shape than the policy was trained with",
                field=name,
                found=value.shape,
                expected=self._shapes[name],
            )
        tensor = torch.from_numpy(np.array(value, order="C"))
        return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def _outside_names(preprocessor: Pipeline) -> dict[str, str]:
    """The policy's names of observations -> the names that they come with, which the preprocessor renames."""
    renaming = [step.rename_map for step in preprocessor.steps if isinstance(step, RenameObservations)]
    return {new: old for names in renaming for old, new in names.items()}
