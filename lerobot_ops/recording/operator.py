"""Who decides what is recorded: a person at a terminal, a form in a browser, or a schedule."""

import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lerobot_ops.config import Config
from lerobot_ops.recording.pace import Timing


class Event(enum.Enum):
    """What an operator says while the loop runs."""

    NEXT = "next"
    """This phase is done: save the episode, or begin with the next one."""
    REDO = "redo"
    """Record the episode again; in the reset phase the one before, which is taken out of the dataset."""
    STOP = "stop"
    """Save the episode and end the session."""
    TAKEOVER = "takeover"
    """Take over from the policy, or give back to it."""


class EpisodeReport(Config):
    """What an episode in the dataset was like."""

    episode: int
    """Its index in the dataset."""
    session: int
    """Which run of the recorder made it."""
    task: str
    frames: int
    started_at: str
    """UTC, ISO 8601."""
    timing: Timing
    repeated: dict[str, int]
    """Frames of each camera that show the same picture as the frame before."""
    oldest_ms: dict[str, float]
    """Of the joints and each camera, the oldest part of an observation when its action was sent."""
    limited: dict[str, int]
    """Frames in which a joint was sent something else than was wanted, because of a limit."""
    interventions: int
    """How often the operator took over."""
    backlog: int
    """The most frames that waited to be encoded; none is ever dropped."""
    save_s: float = 0.0
    """From the end of the episode until it was on disk."""


@dataclass(frozen=True)
class Plan:
    """What an operator is asked about before every episode."""

    episode: int
    """Its index in the dataset."""
    number: int
    """Which of this run's it is, from 1."""
    wanted: int
    """Episodes of this run."""
    task: str
    """The sentence that will be stored."""
    last: EpisodeReport | None = None
    """The one before, if this run recorded it."""


@dataclass(frozen=True)
class Decision:
    """What an operator wants before an episode."""

    action: Literal["record", "redo", "stop"] = "record"
    """`redo` takes the episode before out of the dataset and records it again."""
    task: str | None = None
    """Another sentence from now on."""
    wanted: int | None = None
    """Another number of episodes of this run."""


@dataclass(frozen=True)
class Status:
    """What the loop tells while it runs; times in milliseconds where they are not named otherwise."""

    phase: str
    """`recording`, `reset`, `moving`, `teleoperating`, `replaying`."""
    seconds: float
    limit_s: float | None
    frame: int
    rate: float
    late_ms: float
    """The 99th percentile of the last ticks' lateness."""
    overruns: int
    skipped: int
    ages_ms: Mapping[str, float] = field(default_factory=dict)
    episode: int | None = None
    number: int | None = None
    wanted: int | None = None
    task: str = ""
    backlog: int = 0
    catching_up: bool = False
    leader: str = ""
    """`policy` or `operator` where both can lead."""
    hottest: float | None = None
    """Degrees Celsius of the hottest motor."""
    dry_run: bool = False


class Operator:
    """Says what happens next. This one is nobody: every planned episode is recorded for as long as the settings say.

    Derive from it and override what is needed; `record` calls everything from its own thread:

    - `ready` before every episode. It may take as long as it likes (a form that a person fills in, Prefect's pause for
      input): the robot holds its pose meanwhile, and temperature, current and voltage are watched.
    - `phase` when one begins, `event` at every tick, `show` several times a second: they must return at once.
    - `say` for what somebody should read.
    - `session` is entered around everything, the robot's connection included. The callback that it is given takes the
      torque off at once and may be called from any thread, at any time.
    """

    terminal: int | None = None
    """The file of a terminal whose settings are changed during the session; the watchdog gives it back after a kill."""

    @contextlib.contextmanager
    def session(self, emergency: Callable[[], None]) -> Iterator[None]:
        """The time in which a robot moves."""
        yield

    def ready(self, plan: Plan) -> Decision:
        """What to do instead of, or before, the planned episode."""
        return Decision()

    def phase(self, name: str) -> None:
        """A phase begins: `recording`, `reset`, `moving`, `teleoperating` or `replaying`."""

    def event(self) -> Event | None:
        """What was said since the last call."""
        return None

    def show(self, status: Status) -> None:
        """What the loop does now."""

    def say(self, message: str) -> None:
        """One line of news."""


@dataclass(frozen=True)
class Take:
    """One phase of a schedule, for as many frames; `takeovers` are frames at which TAKEOVER is said."""

    frames: int | None
    """None: until its time is up."""
    then: Event = Event.NEXT
    takeovers: Sequence[int] = ()


class Schedule(Operator):
    """An operator without hands: says events at given frames, so that tests and demonstrations are repeatable.

    `takes` are for the phases `recording` and `reset` in the order in which they come; after the last of them every
    phase runs until its time is up. `said` keeps what was announced, `asked` the plans, `shown` the last status.
    """

    def __init__(self, takes: Sequence[Take] = (), decisions: Sequence[Decision] = ()) -> None:
        self._takes, self._decisions = list(takes), list(decisions)
        self._take: Take | None = None
        self._frame = 0
        self.said: list[str] = []
        self.asked: list[Plan] = []
        self.shown: Status | None = None
        self.emergency: Callable[[], None] = _nothing

    @contextlib.contextmanager
    def session(self, emergency: Callable[[], None]) -> Iterator[None]:
        self.emergency = emergency
        yield

    def ready(self, plan: Plan) -> Decision:
        self.asked.append(plan)
        return self._decisions.pop(0) if self._decisions else Decision()

    def phase(self, name: str) -> None:
        counted = name in ("recording", "reset")
        self._take = self._takes.pop(0) if counted and self._takes else None
        self._frame = -1

    def event(self) -> Event | None:
        self._frame += 1
        take = self._take
        if take is None:
            return None
        if self._frame in take.takeovers:
            return Event.TAKEOVER
        if take.frames is not None and self._frame >= take.frames:
            self._take = None
            return take.then
        return None

    def show(self, status: Status) -> None:
        self.shown = status

    def say(self, message: str) -> None:
        self.said.append(message)


def _nothing() -> None:
    pass
