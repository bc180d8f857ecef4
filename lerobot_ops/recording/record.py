"""Record episodes of a robot that a teleoperator, or a policy, leads."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot_ops.config import Config
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import episodes_files, load_episodes
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.writing.beginning import is_recording
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import ArtifactError
from lerobot_ops.hub.checkpoints import checkpoint_digest, checkpoint_folder
from lerobot_ops.recording.config import RecordConfig, RolloutPolicyConfig
from lerobot_ops.recording.continuing import check_continuing
from lerobot_ops.recording.episodes import Episodes
from lerobot_ops.recording.frames import Layout, Processors
from lerobot_ops.recording.loop import Loop
from lerobot_ops.recording.operator import EpisodeReport, Operator
from lerobot_ops.recording.policy_source import PolicyLeads
from lerobot_ops.recording.provenance import Provenance, session_of
from lerobot_ops.recording.recorder import EpisodeRecorder, rehearse
from lerobot_ops.recording.safety import GuardedRobot
from lerobot_ops.recording.session import at_rest, session
from lerobot_ops.recording.sources import Hold, Intervention, Source, Teleoperation
from lerobot_ops.robots.robot import Robot
from lerobot_ops.teleoperators.teleoperator import Teleoperator
from lerobot_ops.versioning.digest import digest

if TYPE_CHECKING:
    from lerobot_ops.policies.inference import PolicyRunner


class Recorded(Config):
    """What a run of the recorder made."""

    root: Path
    episodes: int
    """In the dataset."""
    frames: int
    """In the dataset."""
    reports: list[EpisodeReport]
    """Of this run's episodes."""
    digest: str
    """DVC's name of the dataset."""

    def __str__(self) -> str:
        frames = sum(report.frames for report in self.reports)
        made = f"{len(self.reports)} episodes and {frames} frames more"
        return f"{self.root}: {self.episodes} episodes, {self.frames} frames; {made}"


def record(
    config: RecordConfig,
    operator: Operator | None = None,
    *,
    processors: Processors | None = None,
    on_episode: Callable[[EpisodeReport], None] | None = None,
) -> Recorded:
    """Record `config.dataset`, and finalise it; `operator` decides on every episode, by default nobody.

    `on_episode` is called with every episode that is safely on disk. What is saved stays, whatever happens: after an
    error, a signal or a kill the same command with `resume` goes on with the next episode. The episode in progress is
    dropped then. The stored action is the one that was sent, after all limits.

    Raises DeviceError when robot, camera or teleoperator fail, or the operator stops the robot: its torque is off.
    ArtifactError when the dataset exists (without `resume`) or cannot be written, DatasetError when it was recorded
    with other features, another rate or another robot, ConfigError when leader and robot do not belong together.
    """
    operator, processors = operator or Operator(), processors or Processors()
    root = config.dataset.place
    wanted = episodes_wanted(config, root)
    if not wanted:
        return _finished(root, [])
    runner = None if config.policy is None else _runner(config.policy)
    rehearse(config.dataset.rgb_encoder, video=config.dataset.video)
    with contextlib.ExitStack() as stack:
        arm, teleop, display = stack.enter_context(session(config, operator, config.teleop))
        try:
            with contextlib.ExitStack() as dataset:  # it is left when the robot is safe already
                with arm:
                    layout = layout_of(config, arm, processors)
                    writer, provenance = dataset.enter_context(_writing(config, arm.robot, layout))
                    most_waiting = max(2, round(config.dataset.backlog_s * config.dataset.fps))
                    recorder = EpisodeRecorder(writer, most_waiting)
                    dataset.callback(recorder.close)
                    loop = Loop(arm, operator, config.dataset.fps, processors, display)
                    led = dataset.enter_context(_led(loop, teleop, runner, layout))
                    first = writer.num_episodes
                    operator.say(_plan(root, first, wanted))
                    at_rest(loop)
                    notify = on_episode or _ignore
                    episodes = Episodes(config.dataset, loop, recorder, layout, provenance, first, notify)
                    episodes.run(led.by, led.between, wanted, led.set_task)
                    at_rest(loop)
                recorder.close()
                if writer.saved:
                    writer.finalize()
        except BaseException:
            operator.say(_safe(root))
            raise
    return _finished(root, episodes.reports)


@dataclass(frozen=True)
class _Led:
    """Who leads in episodes and between them, and who hears of the task."""

    by: Source
    between: Source
    set_task: Callable[[str], None]


@contextlib.contextmanager
def _led(loop: Loop, teleop: Teleoperator | None, runner: "PolicyRunner | None", layout: Layout) -> Iterator[_Led]:
    """A policy leads in episodes if there is one; nobody does between them then, unless the operator takes over."""
    robot, processors = loop.arm.robot, loop.processors
    operated = None if teleop is None else Teleoperation(teleop, robot, processors, loop.arm.config)
    if runner is None:
        assert operated is not None
        yield _Led(operated, operated, _ignore)
        return
    policy = PolicyLeads(runner, layout, loop.fps, loop.arm.beat)
    still = Hold(list(robot.action_features))

    def set_task(task: str) -> None:
        policy.task = task

    try:
        policy.warm_up(processors.observation(loop.arm.observe()))
        if operated is None:
            yield _Led(policy, still, set_task)
        else:
            yield _Led(Intervention(policy, operated), Intervention(still, operated), set_task)
    finally:
        policy.close()


def _runner(config: RolloutPolicyConfig) -> "PolicyRunner":
    from lerobot_ops.policies.inference import PolicyRunner

    return PolicyRunner.from_checkpoint(config.path, config.device)


def layout_of(config: RecordConfig, arm: GuardedRobot, processors: Processors) -> Layout:
    """The features that a recording stores."""
    return Layout(
        arm.robot,
        processors,
        video=config.dataset.video,
        timing=config.dataset.timing,
        intervention=config.policy is not None,
        status=tuple(arm.status) if config.record_status else (),
    )


@contextlib.contextmanager
def _writing(config: RecordConfig, robot: Robot, layout: Layout) -> Iterator[tuple[DatasetWriter, Provenance]]:
    """The writer of the dataset, and what is known about its recording; closed, but not finalised, at the end."""
    asked, root = config.dataset, config.dataset.place
    provenance = Provenance()
    encoder = asked.rgb_encoder if "rgb_encoder" in asked.model_fields_set else None
    settings: dict[str, Any] = {
        "fps": asked.fps,
        "features": layout.features,
        "robot_type": robot.name,
        "encoder_queue_maxsize": asked.encoder_queue_maxsize,
        "encoder_threads": asked.encoder_threads,
    }
    if root.exists():
        provenance = check_continuing(config, robot, layout)
        writer = DatasetWriter.resume(root, video=encoder, **settings)
    else:
        writer = DatasetWriter.create(root, video=encoder or VideoEncoding(), **settings)
    policy = None
    if config.policy is not None:
        policy = {"path": config.policy.path, "digest": checkpoint_digest(checkpoint_folder(config.policy.path))}
    with contextlib.closing(writer):
        yield writer, provenance.without(writer.num_episodes).with_session(session_of(config, robot.identity(), policy))


def episodes_wanted(config: RecordConfig, root: Path) -> int:
    """How many episodes this run records; raises ArtifactError when there is a dataset that is not to be continued."""
    if root.exists() and not config.resume:
        fix = "--resume=true records more episodes into it; or choose another --dataset.root"
        raise ArtifactError("the dataset exists already", file=root, fix=fix)
    if config.dataset.total_episodes is None:
        return config.dataset.num_episodes
    return max(0, config.dataset.total_episodes - _there(root))


def _there(root: Path) -> int:
    """Episodes of a dataset, which may still be recorded, or may not exist."""
    return len(load_episodes(root, ["episode_index"])) if episodes_files(root) else 0


def _plan(root: Path, there: int, wanted: int) -> str:
    before = f"{there} episodes are there, " if there else ""
    return f"{root}: {before}{wanted} to record, {there + wanted} in the end"


def _safe(root: Path) -> str:
    """What is kept of a run that broke off."""
    there = _there(root)
    if not there:
        return "nothing was saved before"
    return f"{there} episodes are safe in {root}; the same command with --resume=true goes on with the next one"


def _finished(root: Path, reports: list[EpisodeReport]) -> Recorded:
    """The dataset, finalised if it was left unfinished."""
    if is_recording(root):
        DatasetWriter.resume(root).finalize()
    if not root.exists():
        return Recorded(root=root, episodes=0, frames=0, reports=[], digest="")
    info = load_info(root)
    return Recorded(
        root=root, episodes=info.total_episodes, frames=info.total_frames, reports=reports, digest=digest(root)
    )


def _ignore(_: object) -> None:
    pass
