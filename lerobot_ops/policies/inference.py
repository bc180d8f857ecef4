"""A trained policy as the evaluator and the robot use it: an observation in, the actions to execute out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lerobot_ops.errors import ConfigError, did_you_mean
from lerobot_ops.hub.checkpoints import checkpoint_folder
from lerobot_ops.policies.checkpoint import Checkpoint, load_checkpoint
from lerobot_ops.policies.device import best_device
from lerobot_ops.policies.draws import SeededDraws
from lerobot_ops.policies.peft import merge
from lerobot_ops.processors.pipeline import Pipeline
from lerobot_ops.processors.steps import Batch, RenameObservations


class Moment(NamedTuple):
    """What a policy knows when it decides."""

    observation: Mapping[str, NDArray[Any]]
    """Unbatched: vectors, and uint8 images (H, W, 3). When the runner's `last` is more than 1, every key has the last
    observations, oldest first, as (last, ...)."""
    task: str = ""
    """In natural language."""
    key: tuple[int, ...] | None = None
    """Names the random numbers of this decision, such as (an episode's seed, the step); none draws from torch's own."""


class PolicyRunner:
    """A checkpoint that acts."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        config = checkpoint.policy.config
        self.type: str = config.type
        self.n_action_steps: int = config.n_actions
        self.n_obs_steps: int = config.n_obs_steps
        self.alone: bool = config.keeps_memory and not config.remembers_chunks_only
        """Whether every episode asks for itself, with each of its observations in turn."""
        self.last: int = 1 if self.alone else config.n_obs_steps
        """How many of the latest observations a decision is shown."""
        outside = _outside_names(checkpoint.preprocessor)
        self.observation_keys: list[str] = [outside.get(name, name) for name in config.input_features]
        self.cameras: list[str] = [outside.get(name, name) for name in config.image_features]
        self._shapes = {outside.get(name, name): f.shape for name, f in config.input_features.items()}
        self._bound = False

    @classmethod
    def from_checkpoint(
        cls, path: Path | str, device: str | None = "cpu", rename_map: Mapping[str, str] | None = None
    ) -> "PolicyRunner":
        """Load the checkpoint at `path`, a folder or OWNER/NAME[@REVISION] on the Hub.

        `rename_map` (an observation's name here -> the policy's) takes the place of the one in the checkpoint. Raises
        CheckpointError when the checkpoint is incomplete or does not fit together, and ConfigError for a name that the
        policy does not read.
        """
        checkpoint = load_checkpoint(checkpoint_folder(path), best_device(device))
        if rename_map is not None:
            inputs = checkpoint.policy.config.input_features
            for new in rename_map.values():
                if new not in inputs:
                    raise ConfigError(
                        "the policy does not read this observation",
                        field="rename_map",
                        found=new,
                        expected="names here, each with a name of the policy",
                        fix=did_you_mean(new, inputs),
                    )
            checkpoint = replace(checkpoint, preprocessor=checkpoint.preprocessor.renaming(rename_map))
        merge(checkpoint.policy)
        checkpoint.policy.slim()
        return cls(checkpoint)

    def episode(self) -> "PolicyRunner":
        """A runner for one episode, which shares the weights and remembers nothing of the others."""
        runner = PolicyRunner(self._checkpoint)
        runner._checkpoint = Checkpoint(
            self._checkpoint.policy.for_episode(), self._checkpoint.preprocessor, self._checkpoint.postprocessor
        )
        runner._bound = True
        return runner

    def act(self, observation: Mapping[str, NDArray[Any]], task: str = "") -> NDArray[np.float32]:
        """The next actions (n_action_steps, A) in the units of the dataset; see `act_together`."""
        return act_together([(self, Moment(observation, task))])[0]

    def _prepare(self, moment: Moment) -> Batch:
        """The policy's batch of one; what the policy reads is (1, last, ...) when `last` is more than 1."""
        policy = self._checkpoint.policy
        if policy.config.keeps_memory and not self._bound:
            raise ConfigError("this policy remembers its earlier queries", fix="act through PolicyRunner.episode()")
        if self.last == 1:
            return self._one(moment.observation, moment.task)
        for name in self.observation_keys:
            if name in moment.observation and len(moment.observation[name]) != self.last:
                shape = moment.observation[name].shape
                raise ConfigError("another number of observations", field=name, found=shape, expected=self.last)
        steps = [
            self._one({name: value[step] for name, value in moment.observation.items()}, moment.task)
            for step in range(self.last)
        ]
        seen = {name: torch.stack([step[name] for step in steps], dim=1) for name in policy.config.input_features}
        return {**steps[-1], **seen}

    def _one(self, observation: Mapping[str, NDArray[Any]], task: str) -> Batch:
        tensors: dict[str, Any] = {name: self._tensor(observation, name) for name in self.observation_keys}
        return self._checkpoint.preprocessor({**tensors, "task": task})

    def _chunks(self, rows: list[Batch], keys: list[tuple[int, ...] | None], size: int) -> torch.Tensor:
        """The chunks (len(rows), T, A) of rows that are computed in one batch of `size`."""
        policy, padding = self._checkpoint.policy, size - len(rows)
        batch = _joined(rows + rows[:1] * padding)
        if not policy.config.is_random or None in keys:
            return policy.predict_chunk(batch)[: len(rows)]
        draws = SeededDraws([key for key in keys + keys[:1] * padding if key is not None])
        chunks: torch.Tensor = cast(Any, policy).predict_chunk(batch, draws)
        return chunks[: len(rows)]

    def _taken(self, chunk: torch.Tensor) -> NDArray[np.float32]:
        """The actions (n_action_steps, A) that are executed, of a chunk (1, T, A)."""
        policy = self._checkpoint.policy
        if policy.config.keeps_memory:
            chunk = policy.combined(chunk).unsqueeze(1)
        return self._outside(chunk[:, : self.n_action_steps])

    def _selected(self, moment: Moment) -> NDArray[np.float32]:
        """The action (1, A) of a policy that sees every observation in turn."""
        _seed(moment.key)
        return self._outside(self._checkpoint.policy.select_action(self._prepare(moment)).unsqueeze(1))

    def _outside(self, actions: torch.Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._checkpoint.postprocessor.action(actions)[0].float().numpy()
        return result

    def _made_up(self, generator: np.random.Generator) -> dict[str, NDArray[Any]]:
        """An observation of the right shapes that shows nothing."""
        lead = (self.last,) if self.last > 1 else ()
        seen: dict[str, NDArray[Any]] = {}
        for name, shape in self._shapes.items():
            if name in self.cameras:
                channels, height, width = shape
                seen[name] = generator.integers(0, 256, (*lead, height, width, channels), np.uint8)
            else:
                seen[name] = generator.standard_normal((*lead, *shape)).astype(np.float32)
        return seen

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


@torch.no_grad()
def act_together(asked: Sequence[tuple[PolicyRunner, Moment]], size: int = 1) -> list[NDArray[np.float32]]:
    """The next actions (n_action_steps, A), in the units of the dataset, of each runner of one checkpoint.

    The policy computes batches of exactly `size` rows; what lacks is filled up. So the bits of a row do not depend on
    how many are asked at once (see `places_matter` for what else they may depend on). A runner that is `alone` computes
    for itself. A policy whose `config.keeps_memory` acts only through `PolicyRunner.episode()`. Raises ConfigError when
    an observation is missing or has another shape.
    """
    if asked[0][0].alone:
        return [runner._selected(moment) for runner, moment in asked]
    results = []
    for begin in range(0, len(asked), size):
        part = asked[begin : begin + size]
        _seed(part[0][1].key)
        rows = [runner._prepare(moment) for runner, moment in part]
        chunks = part[0][0]._chunks(rows, [moment.key for _, moment in part], size)
        results += [runner._taken(chunk.unsqueeze(0)) for (runner, _), chunk in zip(part, chunks, strict=True)]
    return results


@torch.no_grad()
def places_matter(runner: PolicyRunner, size: int) -> bool:
    """Whether a row's bits depend on its place in a batch of `size`, or on the rows beside it.

    Libraries for matrices may sum in another order at the edge of a batch, which depends on device, library and shapes;
    so this is tried with the policy as it is: made-up observations, in every order that a rotation gives.
    """
    bound, generator = runner.episode(), np.random.default_rng(0)
    rows = [bound._prepare(Moment(bound._made_up(generator), "do something")) for _ in range(size)]
    keys: list[tuple[int, ...] | None] = [(number,) for number in range(size)]
    seen = set()
    for shift in range(size):
        _seed((0,))
        chunks = bound._chunks(rows[shift:] + rows[:shift], keys[shift:] + keys[:shift], size)
        seen.add(chunks.roll(shift, dims=0).cpu().numpy().tobytes())
    return len(seen) > 1


def draws_from_torch(runner: PolicyRunner) -> bool:
    """Whether a decision draws from torch's own generator, which all threads share; tried on a made-up observation."""
    bound = runner.episode()
    moment = Moment(bound._made_up(np.random.default_rng(0)), "do something", (0,))
    _seed(moment.key)
    before = torch.get_rng_state()
    act_together([(bound, moment)])
    return not torch.equal(before, torch.get_rng_state())


def _joined(rows: list[Batch]) -> Batch:
    """Batches of one as one batch."""
    if len(rows) == 1:
        return rows[0]
    joined: Batch = {}
    for name, value in rows[0].items():
        if isinstance(value, torch.Tensor):
            joined[name] = torch.cat([row[name] for row in rows])
        else:
            joined[name] = [item for row in rows for item in row[name]] if isinstance(value, list) else value
    return joined


def _seed(key: tuple[int, ...] | None) -> None:
    """Make torch's own generator depend on the decision alone, for policies that draw from it."""
    if key is not None:
        torch.manual_seed(int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]))


def _outside_names(preprocessor: Pipeline) -> dict[str, str]:
    """The policy's names of observations -> the names that they come with, which the preprocessor renames."""
    renaming = [step.rename_map for step in preprocessor.steps if isinstance(step, RenameObservations)]
    return {new: old for names in renaming for old, new in names.items()}
