"""The episodes of a session: record, save while the scene is put back, record again, stop."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lerobot_ops.errors import ArtifactError
from lerobot_ops.recording.config import RecordingDatasetConfig
from lerobot_ops.recording.frames import Layout, Moment
from lerobot_ops.recording.loop import Loop, Outcome
from lerobot_ops.recording.operator import Decision, EpisodeReport, Event, Operator, Plan
from lerobot_ops.recording.provenance import Provenance, now
from lerobot_ops.recording.recorder import EpisodeRecorder
from lerobot_ops.recording.sources import Source

RECORDING, RESET = "recording", "reset"
_GIGABYTE = 1e9


@dataclass
class _Tally:
    """What is counted while an episode is recorded."""

    repeated: Counter[str] = field(default_factory=Counter)
    oldest: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    _before: Mapping[str, float] = field(default_factory=dict)

    def add(self, moment: Moment) -> None:
        self.frames += 1
        self.repeated.update(name for name, at in moment.captured.items() if self._before.get(name) == at)
        self._before = moment.captured
        for name, age in moment.ages.items():
            self.oldest[name] = max(self.oldest.get(name, 0.0), 1000 * age)


class Episodes:
    """Records episodes one after another with one loop, into one dataset.

    `provenance` is written after every episode, in the recorder's thread. `on_episode` is called with every episode
    that is in the dataset, between two phases.
    """

    def __init__(
        self,
        config: RecordingDatasetConfig,
        loop: Loop,
        recorder: EpisodeRecorder,
        layout: Layout,
        provenance: Provenance,
        first: int,
        on_episode: Callable[[EpisodeReport], None],
    ) -> None:
        self._config, self._loop, self._recorder, self._layout = config, loop, recorder, layout
        self._operator: Operator = loop.operator
        self._provenance, self._next, self._on_episode = provenance, first, on_episode
        self._saving: Future[EpisodeReport] | None = None
        self._untold: list[EpisodeReport] = []
        self._task = config.single_task
        self.reports: list[EpisodeReport] = []
        """Of the episodes that this run put into the dataset, and did not take out again."""

    def run(self, source: Source, reset: Source, wanted: int, set_task: Callable[[str], None]) -> None:
        """Record until `wanted` episodes are in the dataset or the operator stops; `reset` leads between them."""
        number = 0
        while number < wanted:
            decision = self._ask(number, wanted)
            self._task, wanted = decision.task or self._task, decision.wanted or wanted
            if decision.action == "stop":
                break
            if decision.action == "redo":
                number -= self._take_back()
            set_task(self._task)
            event = self._record(source, number, wanted)
            if event is not Event.REDO:
                number += 1
            if event is Event.STOP or (number >= wanted and event is not Event.REDO):
                break
            event = self._put_back(reset, number, wanted)
            if event is Event.REDO:
                number -= self._take_back()
            if event is Event.STOP:
                break
        self._settle()

    def _ask(self, number: int, wanted: int) -> Decision:
        with self._loop.arm.holding():
            self._settle()
            last = self.reports[-1] if self.reports else None
            return self._operator.ready(Plan(self._next, number + 1, wanted, self._task, last))

    def _record(self, source: Source, number: int, wanted: int) -> Event | None:
        self._check_space()
        self._recorder.begin()
        started_at, tally = now(), _Tally()
        self._loop.arm.limited.clear()

        def each(moment: Moment) -> None:
            self._check_saving()
            tally.add(moment)
            self._recorder.add(partial(self._layout.frame, moment, self._task))

        about = partial(self._about, number, wanted)
        try:
            outcome = self._loop.run(source, RECORDING, seconds=self._config.episode_time_s, each=each, about=about)
        except BaseException:
            self._recorder.discard()
            raise
        if outcome.event is Event.REDO or not tally.frames:
            self._recorder.discard()
            self._operator.say(f"episode {self._next} is not kept and will be recorded again")
            return outcome.event if tally.frames else Event.REDO
        self._save(self._report(tally, outcome, started_at))
        return outcome.event

    def _save(self, report: EpisodeReport) -> None:
        """Save in the recorder's thread; the next phase begins at once."""
        self._saving = self._recorder.save(partial(self._saved, report))
        self._next += 1

    def _saved(self, report: EpisodeReport, seconds: float) -> EpisodeReport:
        """Called in the recorder's thread when the episode is on disk."""
        report = report.model_copy(update={"save_s": seconds})
        self._provenance = self._provenance.with_episode(report)
        self._provenance.save(self._recorder.root)
        return report

    def _put_back(self, reset: Source, number: int, wanted: int) -> Event | None:
        """The time to put things back."""
        if not self._config.reset_time_s:
            return None
        about = partial(self._about, number, wanted)
        seconds = self._config.reset_time_s
        outcome = self._loop.run(reset, RESET, seconds=seconds, each=lambda _: self._check_saving(), about=about)
        return outcome.event

    def _take_back(self) -> int:
        """Take the last episode out of the dataset again, if this run recorded it; how many that are."""
        with self._loop.arm.holding():
            self._settle()
            if not self.reports:
                self._operator.say("no episode of this run is left to be recorded again")
                return 0
            self._recorder.take_back().result()
            report = self.reports.pop()
            self._next = report.episode
            self._provenance = self._provenance.without(report.episode)
            self._provenance.save(self._recorder.root)
            self._operator.say(f"episode {report.episode} was taken back and will be recorded again")
        return 1

    def _check_saving(self) -> None:
        """Raise what went wrong in the recorder's thread, and tell when it is done; called at every tick."""
        self._recorder.check()
        if self._saving is not None and self._saving.done():
            self._tell(self._saving.result())
            self._saving = None

    def _settle(self) -> None:
        """Wait until the last episode is on disk."""
        if self._saving is not None:
            self._tell(self._saving.result())
            self._saving = None
        while self._untold:
            self._on_episode(self._untold.pop(0))

    def _tell(self, report: EpisodeReport) -> None:
        """An episode is on disk: the operator hears of it at once, `on_episode` when no tick waits for it."""
        self.reports.append(report)
        self._untold.append(report)
        self._operator.say(described(report))

    def _report(self, tally: _Tally, outcome: Outcome, started_at: str) -> EpisodeReport:
        cameras = self._layout.parts[1:]
        return EpisodeReport(
            episode=self._next,
            session=len(self._provenance.sessions) - 1,
            task=self._task,
            frames=tally.frames,
            started_at=started_at,
            timing=outcome.timing,
            repeated={name: tally.repeated[name] for name in cameras},
            oldest_ms={name: round(age, 3) for name, age in tally.oldest.items()},
            limited=dict(self._loop.arm.limited),
            interventions=outcome.takeovers,
            backlog=self._recorder.most_waiting,
        )

    def _about(self, number: int, wanted: int) -> dict[str, Any]:
        return {
            "episode": self._next,
            "number": number + 1,
            "wanted": wanted,
            "task": self._task,
            "backlog": self._recorder.waiting,
        }

    def _check_space(self) -> None:
        free = shutil.disk_usage(self._recorder.root).free / _GIGABYTE
        if free < self._config.min_free_gb:
            raise ArtifactError(
                "there is too little space for another episode",
                file=self._recorder.root,
                found=f"{free:.1f} GB free",
                expected=f"{self._config.min_free_gb:.1f} GB",
                fix="make room, then go on with --resume=true; --dataset.min_free_gb asks for less",
            )


def described(report: EpisodeReport) -> str:
    """An episode in a line."""
    seconds = report.frames / report.timing.fps
    notes = [f"{report.timing.rate:.1f} Hz", f"late {report.timing.jitter_ms_p99:.1f} ms (p99)"]
    if report.timing.overruns:
        notes.append(f"{report.timing.overruns} overruns")
    if report.timing.skipped:
        notes.append(f"{report.timing.skipped} ticks skipped")
    notes += [f"{name} repeated {count} times" for name, count in report.repeated.items() if count]
    if report.interventions:
        notes.append(f"{report.interventions} interventions")
    notes.append(f"saved in {report.save_s:.2f} s")
    return f"episode {report.episode} is safe: {report.frames} frames, {seconds:.1f} s, {', '.join(notes)}"
