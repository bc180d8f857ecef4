"""Record a benchmark's scripted expert as a LeRobotDataset, on several simulators at once.

Episodes finish in any order and are durable one by one; the dataset has them in the order of their seeds, and its bytes
depend on the configuration and the sandbox alone. An interrupted collection that is started again records only what it
lacks.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lerobot_ops import envs
from lerobot_ops.artifacts import fsync_directory
from lerobot_ops.config import Config, content_key
from lerobot_ops.datasets.info import CAMERA_DTYPES, load_info
from lerobot_ops.datasets.tables import column_array, load_data
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import ArtifactError, ConfigError, did_you_mean
from lerobot_ops.evaluation import pool, rollout
from lerobot_ops.evaluation.config import EnvConfig
from lerobot_ops.evaluation.records import Record
from lerobot_ops.evaluation.rollout import Episode, Progress
from lerobot_ops.evaluation.sandbox import Sandbox, SandboxConfig, Worker, open_sandbox
from lerobot_ops.evaluation.workers import WorkerPark, crew, measured

OUTCOME = {
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.success": {"dtype": "bool", "shape": [1], "names": None},
}
"""What the expert's steps led to, beside the benchmark's own features."""
FRAMES_AT_ONCE = 20
"""Steps that a simulator plays between two answers when it renders."""
STEPS_AT_ONCE = 500


class DatasetConfig(Config):
    """The dataset to write."""

    repo_id: str = "local/expert"
    """Its name, as owner/name."""
    root: Path | None = None
    """Where it goes; by default outputs/datasets/<repo_id>."""
    video: VideoEncoding = VideoEncoding()
    """How cameras are encoded."""

    @property
    def place(self) -> Path:
        """Where it goes."""
        return self.root or Path("outputs", "datasets", self.repo_id)


class CollectConfig(Config):
    """A collection: who plays what, how often, and what is recorded."""

    env: EnvConfig = EnvConfig()
    """Benchmark and tasks; `env.episode_length` ends an episode that has not succeeded."""
    dataset: DatasetConfig = DatasetConfig()
    """What is written."""
    seed: int = Field(default=0, ge=0)
    """Episode i is reset with seed + i; several tasks take turns and share the seeds."""
    num_episodes: int = Field(default=50, ge=1)
    """Episodes in all."""
    cameras: bool | list[str] = False
    """Record every camera of the benchmark, or those named by their key; a rendered frame costs about 0.1 s."""
    camera_size: int | None = Field(default=None, ge=16, le=2048)
    """Width and height in pixels; by default the benchmark's own."""
    action_noise: float | list[float] = 0.0
    """Standard deviation of the noise that is added to the expert's actions; episodes take turns in a list of them."""
    workers: int = Field(default=0, ge=0)
    """Simulators that run at once; 0 for as many as cores and memory allow. The dataset does not depend on it."""
    sandbox: SandboxConfig = SandboxConfig()
    """Where the simulators run."""

    @field_validator("action_noise")
    @classmethod
    def _not_negative(cls, value: float | list[float]) -> float | list[float]:
        if not _as_list(value) or min(_as_list(value)) < 0:
            raise ValueError("standard deviations of 0 or more are expected")
        return value

    def writing_to(self, root: Path) -> Self:
        """The same collection in another place."""
        return self.altered("dataset.root", root)

    def camera_keys(self, features: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Those of a benchmark's features that are recorded as video; raises ConfigError when it has no such camera."""
        known = [name for name, feature in features.items() if feature["dtype"] in CAMERA_DTYPES]
        if isinstance(self.cameras, bool):
            return known if self.cameras else []
        for name in self.cameras:
            if name not in known:
                problem = f"{self.env.type} has no such camera"
                raise ConfigError(problem, field="cameras", found=name, fix=did_you_mean(name, known))
        return list(dict.fromkeys(self.cameras))


class CollectResult(Config):
    """What was recorded."""

    root: Path
    episodes: int
    frames: int
    failed_episodes: list[int]
    """Episodes in which the expert did not succeed before the limit."""

    @property
    def failures(self) -> int:
        """How many episodes failed."""
        return len(self.failed_episodes)


@dataclass(frozen=True)
class Take:
    """One episode of a collection."""

    index: int
    """In the dataset."""
    episode: Episode
    noise: float


def collect(config: CollectConfig, *, on_episode: Callable[[int], None] | None = None) -> CollectResult:
    """Record `config.num_episodes` of the expert into a new dataset, successes and failures alike.

    `on_episode` is called with the index of every episode that is safely on disk; for those of an interrupted
    collection at once. A frame holds the benchmark's low-dimensional observations, the cameras asked for, the action
    that was sent (noise included), `next.reward` float32 [1] and `next.success` bool [1]. An episode ends with its
    first success.

    Raises ArtifactError when the dataset exists, PrerequisiteError and SandboxError when the simulator cannot play;
    what was recorded until then is kept for the next run.
    """
    notify = on_episode or _ignore
    if not envs.benchmark(config.env.type).has_expert:
        raise ConfigError("this benchmark has no scripted expert to record", field="env.type", found=config.env.type)
    sandbox = open_sandbox(config.env.type, config.sandbox)
    options = config.env.options | ({"image_size": config.camera_size} if config.camera_size else {})
    hello = {"options": options, "video": bool(config.cameras)}
    with WorkerPark(sandbox, hello) as workers, _writing(config, sandbox, workers.info) as writer:
        for index in writer.saved:
            notify(index)
        takes = [take for take in _takes(config, workers.info["max_steps"]) if take.index not in writer.saved]
        cameras = config.camera_keys(workers.info["features"])

        def record(worker: Worker, take: Take, turn: pool.Turn, desk: pool.Desk) -> Record:
            return _record(worker, take, turn, writer, cameras)

        def keep(take: Take, result: Record | pool.Failure) -> None:
            if isinstance(result, pool.Failure):
                raise result.error
            notify(take.index)

        memory = measured(workers, takes[0].episode, cameras) if takes and not config.workers else None
        count = crew(config.workers, len(takes), memory).count
        pool.run(
            takes,
            spawn=workers.take,
            retire=workers.park,
            play=record,
            deliver=keep,
            workers=count,
            kind=lambda take: take.episode.task,
        )
    return _result(config.dataset.place)


def _takes(config: CollectConfig, max_steps: int) -> list[Take]:
    tasks, noises = config.env.tasks(), _as_list(config.action_noise)
    takes = []
    for index in range(config.num_episodes):
        number, turn = divmod(index, len(tasks))
        task = tasks[turn]
        episode = Episode(task, number, config.seed + number, config.env.limit(task, max_steps))
        takes.append(Take(index, episode, noises[number % len(noises)]))
    return takes


@contextlib.contextmanager
def _writing(config: CollectConfig, sandbox: Sandbox, info: dict[str, Any]) -> Iterator[DatasetWriter]:
    """The writer of the dataset, which is made beside its place and renamed when it is complete.

    The folder beside it is named after all that the dataset depends on, so that the same collection goes on with it.
    """
    root = Path(os.path.abspath(config.dataset.place))
    if root.exists():
        raise ArtifactError("the output exists already", file=root, fix="choose another output, or remove this one")
    cameras = config.camera_keys(info["features"])
    recorded = {
        name: feature
        for name, feature in info["features"].items()
        if feature["dtype"] not in CAMERA_DTYPES or name in cameras
    }
    features = {**recorded, **OUTCOME}
    content = config.model_dump(mode="json", exclude={"dataset", "workers", "sandbox"})
    video = config.dataset.video
    key = content_key("collect", 2, content, sandbox.kind, sandbox.recipe, info["fps"], features, video)
    partial = root.with_name(f".{root.name}.partial-{key[:12]}")
    if partial.exists():
        writer = DatasetWriter.resume(partial)
    else:
        writer = DatasetWriter.create(
            partial, fps=info["fps"], features=features, robot_type=config.env.type, video=video
        )
    with contextlib.closing(writer):
        yield writer
        writer.finalize()
    os.rename(partial, root)
    fsync_directory(root.parent)


def _record(worker: Worker, take: Take, turn: pool.Turn, writer: DatasetWriter, cameras: list[str]) -> Record:
    """Play and write one episode; nothing of it is saved when the worker fails on the way."""
    progress = Progress(take.episode, turn)
    instruction = rollout.begin(worker, progress)["instruction"]
    most = FRAMES_AT_ONCE if cameras else STEPS_AT_ONCE
    with writer.episode(take.index) as episode:
        while progress.left:
            part = rollout.expert_steps(worker, progress, most, cameras=cameras, noise=take.noise)
            for frame in _frames(part):
                episode.add_frame({**frame, "task": instruction})
    return progress.record()


def _frames(part: Mapping[str, Any]) -> Iterator[dict[str, NDArray[Any]]]:
    """The frames of some of the expert's steps."""
    for step, (action, reward, success) in enumerate(
        zip(part["actions"], part["rewards"], part["successes"], strict=True)
    ):
        observation = {key: values[step] for key, values in part["observations"].items()}
        outcome = {"next.reward": np.array([reward], np.float32), "next.success": np.array([success])}
        yield {**observation, "action": action, **outcome}


def _result(root: Path) -> CollectResult:
    info = load_info(root)
    success = np.zeros(info.total_episodes, bool)
    table = load_data(root, ["episode_index", "next.success"])
    rows = column_array(table["next.success"], info.features["next.success"]).reshape(-1)
    success[table["episode_index"].to_numpy()[rows]] = True
    return CollectResult(
        root=root,
        episodes=info.total_episodes,
        frames=info.total_frames,
        failed_episodes=np.flatnonzero(~success).tolist(),
    )


def _as_list(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _ignore(index: int) -> None:
    pass
