"""One training in several processes, as `torchrun` starts them: who is who, what they agree on, and how they share it.

Every process learns from a part of each batch and averages its gradients with the others': either all hold all of the
policy (torch's DistributedDataParallel), or each holds a part of the weights and of the optimiser's state (FSDP2,
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). Process 0 alone writes and logs. A training of
one process has no group: everything here then gives back what it was given.
"""

import contextlib
import datetime
import itertools
import logging
import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lerobot_ops.errors import ConfigError, OpsError
from lerobot_ops.policies.device import best_device
from lerobot_ops.training.ranks import process

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from lerobot_ops.training.config import ParallelismConfig, TrainConfig

T = TypeVar("T")
DECISIONS = datetime.timedelta(days=2)
"""How long the others wait for what process 0 does alone: an evaluation, a cache of frames, a slow disk."""

NO_FP16 = "the scale of fp16 is not kept for a policy that is sharded"
LAST_WORDS = datetime.timedelta(seconds=20)
"""How long the others stay for the one that has failed to say why."""


class _FailedInMainError(Exception):
    """Process 0 failed, and says why itself."""


class World:
    """The processes of a training, and which one this is; alone, all that they agree on is what this one says."""

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        mesh: "DeviceMesh | None" = None,
        group: Any = None,
        patience: datetime.timedelta | None = None,
    ) -> None:
        self.rank, self.size, self.mesh = rank, size, mesh
        self._patience = patience or DECISIONS
        self._group = group
        """For decisions, in memory of the CPU: no device waits, whatever the gradients travel by."""
        self._asked: tuple[dist.Work, Tensor] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return self.mesh is not None

    def gathered(self, value: Tensor, patience: datetime.timedelta | None = None) -> list[Tensor]:
        """The `value` of every process, of one shape and dtype, on the CPU; they may be `patience` apart."""
        if self.size == 1:
            return [value]
        own = value.detach().cpu().contiguous()
        found = [torch.empty_like(own) for _ in range(self.size)]
        work = dist.all_gather(found, own, group=self._group, async_op=True)
        assert work is not None
        work.wait(patience or self._patience)
        return found

    def greatest(self, value: int, patience: datetime.timedelta | None = None) -> int:
        """The greatest `value` of all processes."""
        if self.size == 1:
            return value
        return max(int(found) for found in self.gathered(torch.tensor(value), patience))

    def greatest_so_far(self, value: int) -> int:
        """The greatest `value` of all processes, as it was when they called this last: nobody waits for the answer.

        Every process is to call this as often as the others. Alone, the answer is `value` itself.
        """
        if self.size == 1:
            return value
        before = self.settle()
        found = torch.tensor(value)
        work = dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = work, found
        return before

    def settle(self) -> int:
        """The answer that is still under way, if any, else 0."""
        if self._asked is None:
            return 0
        (work, found), self._asked = self._asked, None
        work.wait(self._patience)
        return int(found)

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` gave process 0, which alone does it; if it fails there, the other processes end silently."""
        if self.size == 1:
            return work()
        given: list[Any] = [None]
        with self.together():
            if self.is_main:
                given = [work()]
        dist.broadcast_object_list(given, 0, group=self._group)
        result: T = given[0]
        return result

    @contextlib.contextmanager
    def main_first(self) -> Generator[None]:
        """A block that the others begin when process 0 has ended it: it may download, and they find what it left.

        Only within `together`.
        """
        if self.size == 1:
            yield
            return
        if not self.is_main and self.greatest(0, DECISIONS):
            raise _FailedInMainError
        try:
            yield
        except Exception:
            if self.is_main:
                self.greatest(1, DECISIONS)
            raise
        if self.is_main:
            self.greatest(0, DECISIONS)

    @contextlib.contextmanager
    def together(self) -> Generator[None]:
        """A block that ends when all processes have ended it; if it failed in some, the first of them says why."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # whatever it is, it is raised below, once the others know
            if self.size == 1:
                raise
            failure = error
        if self.size == 1:
            return
        told = self.gathered(torch.tensor(failure is not None), DECISIONS)
        failed = [number for number, bad in enumerate(told) if bad]
        if failure is not None and failed[0] == self.rank:
            raise failure
        if failed:
            # torchrun ends all processes as soon as one has ended: the one that has something to say goes first
            with contextlib.suppress(RuntimeError):
                dist.barrier(group=self._group, async_op=True).wait(LAST_WORDS)
            raise SystemExit(2 if isinstance(failure, ConfigError) else 1)


@contextlib.contextmanager
def joined(config: "TrainConfig") -> Iterator[World]:
    """The processes that a launcher started with this one, together for the block.

    Raises ConfigError where the configuration does not fit their number, and OpsError when another one is lost.
    """
    rank, size, local = process()
    check_parallelism(config, size)
    if size == 1:
        yield World()
        return
    device = _device_type(config, local)
    backend = "nccl" if device == "cuda" else "gloo"
    ours = logging.getLogger("lerobot_ops")
    level = ours.level
    patience = datetime.timedelta(seconds=config.parallelism.timeout_s)
    try:
        dist.init_process_group(
            backend,
            store=_all_here(rank, size),
            rank=rank,
            world_size=size,
            timeout=patience,
        )
        ours.setLevel(level if rank == 0 else logging.ERROR)
        group = dist.new_group(backend="gloo", timeout=DECISIONS)
        world = World(rank, size, _mesh(config.parallelism, device, size), group, patience)
        yield world
        world.settle()
        dist.destroy_process_group()
    except (dist.DistError, RuntimeError) as error:
        if not _lost(error):
            raise
        raise OpsError(
            f"process {rank} of this training has lost the others: one of them ended, or did not answer for "
            f"{config.parallelism.timeout_s:.0f} s",
            found=str(error).splitlines()[0],
            fix="what ended says so itself, above or in its own output; --resume=true goes on from the last checkpoint",
        ) from None
    finally:
        ours.setLevel(level)


def _all_here(rank: int, size: int) -> dist.Store:
    """Where the processes find each other; process 0 may come late, since it first computes the dataset's version."""
    found, _, _ = next(dist.rendezvous("env://", rank, size, timeout=DECISIONS))
    # torchrun's store outlives processes that it starts again; what those before them left must not be met
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", found)
    store.set(f"process {rank}", "here")
    store.wait([f"process {number}" for number in range(size)], DECISIONS)
    return store


def check_parallelism(config: "TrainConfig", size: int) -> None:
    """Raise ConfigError unless `config` can be trained by `size` processes."""
    wanted = config.parallelism
    replicas, shards = layout(wanted, size)
    name = f"dp_replicate={wanted.dp_replicate} and dp_shard={wanted.dp_shard}"
    if size == 1 and (wanted.dp_shard > 1 or wanted.dp_replicate > 1):
        raise ConfigError(
            "the training is to be shared, and is one process",
            field="parallelism",
            found=name,
            fix=f"`torchrun --nproc-per-node={replicas * max(shards, 1)} -m lerobot_ops.cli train …` starts several",
        )
    if replicas * shards != size:
        raise ConfigError(
            "the processes cannot be arranged so",
            field="parallelism",
            found=f"{name} for {size} process(es)",
            expected="dp_replicate * dp_shard processes",
            fix="--parallelism.dp_shard=-1 takes what there are",
        )
    if size > 1 and config.policy.device and ":" in config.policy.device:
        raise ConfigError(
            "every process has a GPU of its own",
            field="policy.device",
            found=config.policy.device,
            expected="cuda; CUDA_VISIBLE_DEVICES says which there are",
        )
    if shards > 1 and config.compile:
        raise ConfigError("a policy that is sharded is not compiled here", field="compile", found=True, expected=False)
    if shards > 1 and config.accelerator.mixed_precision == "fp16":
        raise ConfigError(
            NO_FP16,
            field="accelerator.mixed_precision",
            found="fp16",
            fix="bf16, or --parallelism.dp_shard=1",
        )


def layout(wanted: "ParallelismConfig", size: int) -> tuple[int, int]:
    """How many groups of processes hold the whole policy, and how many parts it has in each."""
    if wanted.dp_shard == -1:
        return wanted.dp_replicate, size // wanted.dp_replicate
    if wanted.dp_shard == 1 and wanted.dp_replicate == 1:
        return size, 1
    return wanted.dp_replicate, wanted.dp_shard


def _mesh(wanted: "ParallelismConfig", device: str, size: int) -> "DeviceMesh | None":
    replicas, shards = layout(wanted, size)
    if shards == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh  # what only sharding needs takes a second to import

    if replicas == 1:
        return init_device_mesh(device, (shards,), mesh_dim_names=("dp_shard",))
    return init_device_mesh(device, (replicas, shards), mesh_dim_names=("dp_replicate", "dp_shard"))


def _device_type(config: "TrainConfig", local: int) -> str:
    """`cuda`, which from now on is this process's own GPU, or `cpu`."""
    if config.policy.device != "cpu" and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise ConfigError(
                "there are more processes than GPUs",
                found=f"process {local} of this machine, which has {torch.cuda.device_count()} GPU(s)",
                fix=f"torchrun --nproc-per-node={torch.cuda.device_count()}",
            )
        torch.cuda.set_device(local)
    device = best_device(config.policy.device)
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            "processes cannot share a training on this device",
            field="policy.device",
            found=device,
            fix="--policy.device=cpu, or a single process",
        )
    return device


def _lost(error: Exception) -> bool:
    """Whether this is what torch's backends say when another process is gone."""
    signs = ("gloo", "nccl", "timeout", "timed out", "connection")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)


class Shared:
    """A policy's forward pass whose backward pass averages gradients over the processes.

    All of them are to make one at the same time.
    """

    def __init__(self, policy: nn.Module, world: World) -> None:
        self.policy, self.world = policy, world
        self.forward: nn.Module = policy
        if world.size > 1 and not world.sharded:
            # Some policies learn one part after the other (VQ-BeT). Besides, buckets then stay as they are, and the
            # order of sums with them, which makes a resumed training equal to the last bit.
            self.forward = DistributedDataParallel(policy, find_unused_parameters=True, gradient_as_bucket_view=True)

    @contextlib.contextmanager
    def part(self, last: bool) -> Generator[None]:
        """Around one batch of several whose gradients are added up: they are averaged with the `last`."""
        if self.world.sharded:
            policy: Any = self.policy
            policy.set_requires_gradient_sync(last)
            self._follow_buffers()
        if isinstance(self.forward, DistributedDataParallel) and not last:
            with self.forward.no_sync():
                yield
        else:
            yield

    def _follow_buffers(self) -> None:
        """Take over what process 0's policy has learned besides parameters, as DistributedDataParallel does."""
        ordered = sorted(self.policy.buffers(), key=lambda buffer: str(buffer.dtype))
        for _, group in itertools.groupby(ordered, key=lambda buffer: buffer.dtype):
            buffers = list(group)
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            dist.broadcast(flat, 0)
            for buffer, value in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(value.view_as(buffer))


def reseed(world: World, seed: int, step: int = 0) -> None:
    """Random numbers of its own for every process but 0, whose are as they were: noise and dropout are to differ."""
    if not world.is_main:
        torch.manual_seed(int(np.random.SeedSequence([seed, world.rank, step]).generate_state(1, np.uint64)[0]))
