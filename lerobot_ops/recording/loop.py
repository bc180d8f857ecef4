"""The one control loop: teleoperation, recording, replay and policies differ in who leads and in who looks on."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lerobot_ops.recording.frames import Moment, Processors
from lerobot_ops.recording.operator import Event, Operator, Status
from lerobot_ops.recording.pace import Pace, Tick, Timing, steady
from lerobot_ops.recording.safety import GuardedRobot
from lerobot_ops.recording.sources import Source
from lerobot_ops.robots.robot import Action, Observation

_SHOWN = 0.2
"""Seconds between two updates of what an operator sees."""


@dataclass(frozen=True)
class Outcome:
    """How a loop ended."""

    event: Event | None
    """None when its time was up, or when the source had nothing more to say."""
    timing: Timing
    takeovers: int


class Loop:
    """Reads the robot, asks who leads, sends, and tells, at `fps`; see `run`."""

    def __init__(
        self,
        arm: GuardedRobot,
        operator: Operator,
        fps: int,
        processors: Processors,
        display: Callable[[Moment], None] | None = None,
    ) -> None:
        self.arm, self.operator, self.fps, self.processors = arm, operator, fps, processors
        self._display = display

    def run(
        self,
        source: Source,
        phase: str,
        *,
        seconds: float | None = None,
        each: Callable[[Moment], None] | None = None,
        about: Callable[[], Mapping[str, Any]] = dict,
    ) -> Outcome:
        """Let `source` lead until its time is up, it has finished, or the operator says NEXT, REDO or STOP.

        `each` gets every moment at once, and must return at once; `about` gives further fields of the `Status` that is
        shown. Whatever is raised (DeviceError, an interrupt, an error of `each`): the torque is off first.
        """
        self.operator.phase(phase)
        pace = Pace(self.fps, self.arm.beat)
        takeovers, leads = 0, source.intervening
        event: Event | None = None
        try:
            with steady(), self.arm.moving():
                observation = self._observed()
                self.arm.slow_start()
                source.begin(observation)
                shown = time.perf_counter()
                for tick in pace.ticks(seconds):
                    event = self.operator.event() or source.event()
                    if event is Event.TAKEOVER:
                        if source.take_over(observation):
                            self.arm.slow_start()
                            takeovers += int(source.intervening and not leads)
                            leads = source.intervening
                    elif event is not None:
                        break
                    observation = self._observed()
                    moment = self._tick(tick, pace, source, observation)
                    if each is not None:
                        each(moment)
                    if self._display is not None:
                        self._display(moment)
                    if tick.began - shown >= _SHOWN:
                        shown = tick.began
                        self.operator.show(self._status(phase, seconds, pace, source, moment, about()))
                    self.arm.look_after(pace.left)
                    if source.finished:
                        pace.done(tick)
                        break
        except BaseException:
            self.arm.stop()
            raise
        return Outcome(event if event is not Event.TAKEOVER else None, pace.timing(), takeovers)

    def _observed(self) -> Observation:
        return self.processors.observation(self.arm.observe())

    def _tick(self, tick: Tick, pace: Pace, source: Source, observation: Observation) -> Moment:
        wanted: Action = source.action(observation)
        observed_at = self.arm.robot.observed_at
        sent = self.arm.send(wanted, observation, pace.period)
        now = time.perf_counter()
        source.sent(sent)
        return Moment(
            number=tick.number,
            observation=observation,
            sent=sent,
            captured={name: at - pace.began_at for name, at in observed_at.items()},
            ages={name: now - at for name, at in observed_at.items()},
            late=tick.late,
            work=now - tick.began,
            intervening=source.intervening,
            status=self.arm.status,
        )

    def _status(
        self,
        phase: str,
        seconds: float | None,
        pace: Pace,
        source: Source,
        moment: Moment,
        about: Mapping[str, Any],
    ) -> Status:
        recent = pace.recent(self.fps * 5)
        elapsed = time.perf_counter() - pace.began_at
        heat = [value for key, value in self.arm.status.items() if key.endswith(".temperature")]
        return Status(
            phase=phase,
            seconds=elapsed,
            limit_s=seconds,
            frame=moment.number,
            rate=moment.number / (elapsed - moment.work) if elapsed > moment.work else 0.0,
            late_ms=1000 * float(np.quantile(recent, 0.99)),
            overruns=pace.overruns,
            skipped=pace.skipped,
            ages_ms={name: 1000 * age for name, age in moment.ages.items()},
            catching_up=self.arm.catching_up,
            leader=source.leader,
            hottest=max(heat, default=None),
            dry_run=self.arm.dry_run,
            **about,
        )
