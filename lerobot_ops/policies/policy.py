"""What every policy can do, and its processors made from a dataset's statistics."""

import copy
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.processors.features import ACTION
from lerobot_ops.processors.normalize import Normalize, Unnormalize
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, Pipeline
from lerobot_ops.processors.steps import Batch, RenameObservations, ToBatch, ToDevice
from lerobot_ops.processors.tokenizer import Tokenize

if TYPE_CHECKING:
    from lerobot_ops.policies.peft import Adapter


class Policy(nn.Module):
    """A policy in normalised units: its batches come from a preprocessor, its actions go to a postprocessor.

    `config` says what it reads. `forward` is training, `predict_chunk` inference, `select_action` the latter one step
    at a time. A subclass implements the first two.
    """

    config: PolicyConfig

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.adapter: Adapter | None = None
        self.queue: deque[Tensor] = deque()
        self.window: deque[Batch] = deque(maxlen=config.n_obs_steps)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch with `action` (B, T, A) and `action_is_pad` (B, T), and what it is made of; scalars."""
        raise NotImplementedError

    def predict_chunk(self, batch: Batch) -> Tensor:
        """The actions (B, T, A) that the policy would take from the present observations on.

        Observations are (B, n_obs_steps, ...) for a policy that sees several of them. One whose `config.is_random`
        takes `draws` too, where its random numbers come from.
        """
        raise NotImplementedError

    def combined(self, chunk: Tensor) -> Tensor:
        """The action (B, A) to take now, given the chunk (B, T, A) that was predicted now, and those before.

        For a policy whose `config.remembers_chunks_only`.
        """
        raise NotImplementedError

    def resume(self, step: int) -> None:
        """Called before a training goes on that has made so many steps, its weights being those of then."""

    def adapts(self, name: str, module: nn.Module) -> bool:
        """Whether the module `name` gets an adapter when nobody names any: all linear layers that are trained.

        LeRobot's policy must compute with a layer of this name and kind, too, or an adapter would be lost on it.
        """
        return type(module) is nn.Linear

    def check_adaptable(self) -> None:
        """Raise ConfigError when an adapter beside these weights could not be trained."""

    def saved_weights(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it: the state dict, or the adapter's alone; the tensors themselves."""
        return self.state_dict() if self.adapter is None else self.adapter.weights()

    def train(self, mode: bool = True) -> Self:
        """As torch's; beside an adapter nothing else changes, statistics of frozen normalisations neither."""
        super().train(mode)
        if mode and self.adapter is not None:
            for module in self.modules():
                if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
                    module.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters to optimise, in groups with options of their own."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def reset(self) -> None:
        """Forget the episode so far."""
        self.queue.clear()
        self.window.clear()

    def slim(self) -> None:
        """Give up what only training needs; from then on the policy predicts, faster, and is not saved."""

    def for_episode(self) -> Self:
        """A policy that shares the weights and has a memory of its own."""
        policy = copy.copy(self)
        policy.queue, policy.window = deque(), deque(maxlen=self.config.n_obs_steps)
        policy.reset()
        return policy

    @torch.no_grad()
    def select_action(self, batch: Batch) -> Tensor:
        """The next action (B, A); a chunk is predicted when the actions of the last one are used up.

        Called with every observation (B, ...) in turn, since a policy may see several of them.
        """
        batch = self._with_earlier(batch)
        if not self.queue:
            self.queue.extend(self.predict_chunk(batch)[:, : self.config.n_actions].unbind(dim=1))
        return self.queue.popleft()

    def _with_earlier(self, batch: Batch) -> Batch:
        """The last n_obs_steps observations as (B, n_obs_steps, ...); before the first there was the first."""
        if self.config.n_obs_steps == 1:
            return batch
        names = list(self.config.input_features)
        self.window.append({name: batch[name] for name in names})
        seen = [self.window[0]] * (self.config.n_obs_steps - len(self.window)) + list(self.window)
        return {**batch, **{name: torch.stack([step[name] for step in seen], dim=1) for name in names}}


def make_processors(
    config: PolicyConfig,
    stats: Mapping[str, Mapping[str, Any]],
    device: str,
    rename_map: Mapping[str, str] | None = None,
) -> tuple[Pipeline, Pipeline]:
    """The pre- and the postprocessor of a new policy; raises ValueError when statistics that it needs are missing.

    `rename_map` (an observation's name outside -> the policy's) is for observations; `stats` have the policy's names.
    """
    features = {**config.input_features, **config.output_features}
    read = [Tokenize(**config.tokenizer)] if config.tokenizer else []
    scale = Normalize(features, config.normalization, stats)
    pre = Pipeline(
        PREPROCESSOR, [RenameObservations(dict(rename_map or {})), ToBatch(), *read, ToDevice(device), scale]
    )
    actions = {ACTION: config.output_features[ACTION]}
    post = Pipeline(POSTPROCESSOR, [Unnormalize(actions, config.normalization, stats), ToDevice("cpu")])
    return pre, post
