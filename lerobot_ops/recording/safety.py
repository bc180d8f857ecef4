"""A robot that can be stopped by anybody at any time, and stops by itself when something is wrong.

Nobody but `GuardedRobot` sends actions: what limits, watchdog, motors, cameras and the operator have to say is heard
before each of them. Whatever ends the `with` block, the torque is off behind it.
"""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from lerobot_ops.errors import DeviceError
from lerobot_ops.recording.limits import Limiter
from lerobot_ops.recording.safety_config import SafetyConfig
from lerobot_ops.recording.watchdog import Watchdog
from lerobot_ops.robots.robot import Action, Observation, Release, Robot

STATE = "state"
"""What `Robot.observed_at` calls the joints."""
_STATUS_TAKES = 0.012
"""Seconds that are left of a tick when the motors' status is read in it."""
_STOP_WAITS = 0.03
"""Seconds that a stop waits for an action that is just being sent."""

_LOOKS = 0.1
"""Seconds between two looks at the clock while the robot holds its pose."""


class EmergencyStopError(DeviceError):
    """The operator stopped the robot."""


class GuardedRobot:
    """A connected robot in a `with` block; `robot` is what it guards, `beside` what the watchdog releases, too.

    Raises DeviceError from every method that the loop calls once something is wrong; the torque is off by then, or goes
    off at the end of the block. `stop` may be called from any thread.
    """

    def __init__(
        self,
        robot: Robot,
        config: SafetyConfig,
        *,
        dry_run: bool = False,
        terminal: int | None = None,
        beside: Sequence[Release] = (),
    ) -> None:
        self.robot, self.config, self.dry_run = robot, config, dry_run
        self.status: dict[str, float] = {}
        """What the motors last said about themselves; see `Robot.status`."""
        self.extremes: dict[str, tuple[float, float]] = {}
        """The lowest and the highest value of every entry of the status."""
        self.limited: Counter[str] = Counter()
        """In how many ticks each joint was sent something else than was wanted."""
        self.stopped_at: float | None = None
        """When it was stopped (`time.perf_counter`)."""
        self._limiter = Limiter(config, robot.limits)
        self._terminal, self._beside = terminal, beside
        self._watchdog: Watchdog | None = None
        self._sending = threading.Lock()
        self._trouble: DeviceError | None = None
        self._sent_at: float | None = None
        self._status_at = 0.0
        self._hot: Counter[str] = Counter()

    def __enter__(self) -> Self:
        try:
            self.robot.connect(calibrate=False)
            if not self.robot.is_calibrated:
                raise DeviceError(
                    "the robot is not calibrated",
                    field=f"{self.robot.name} {self.robot.config.id or ''}".strip(),
                    fix=f"lerobot-ops calibrate --robot.type={self.robot.config.type} --robot.id=… --robot.port=…",
                )
            self._limiter = Limiter(self.config, self.robot.limits)  # a calibration may have been read by now
            releases = [*self.robot.releases(), *self._beside]
            if self.config.watchdog and releases and not self.dry_run:
                silence = self.config.watchdog_ms / 1000
                self._watchdog = Watchdog(releases, silence, self._tripped, self._terminal)
                self._watchdog.start()
            self._read_status()
        except BaseException:
            self._close(well=False)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close(well=error is None and self._trouble is None)

    @property
    def catching_up(self) -> bool:
        """Whether the robot still moves slowly to where it is led."""
        return self._limiter.catching_up

    def observe(self) -> Observation:
        """What the robot sees now; raises DeviceError when a camera has not seen anything new for too long."""
        self.beat()
        observation = self.robot.get_observation()
        self._check_alarms()
        self._check_cameras()
        return observation

    def slow_start(self) -> None:
        """Another one leads from now on: begin where the robot is."""
        self._limiter.slow_start()
        self._sent_at = None

    def send(self, wanted: Action, observation: Mapping[str, object], period: float) -> Action:
        """Send `wanted` within all limits; returns what was sent, or would have been in a dry run."""
        self.beat()
        now = time.perf_counter()
        seconds = period if self._sent_at is None else min(now - self._sent_at, 2 * period)
        present = {key: float(value) for key, value in observation.items() if isinstance(value, float | int)}
        goal = self._limiter.limit(wanted, present, seconds)
        with self._sending:
            if self._trouble is not None:
                raise self._trouble
            sent = goal if self.dry_run else self.robot.send_action(goal)
        self._sent_at = now
        self.limited.update(key for key, value in sent.items() if abs(value - wanted.get(key, value)) > 1e-3)
        return sent

    def beat(self) -> None:
        """The loop is alive; raises what is wrong."""
        if self._watchdog is not None:
            self._watchdog.beat()
        if self._trouble is not None:
            raise self._trouble

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """In this block the loop runs, and must not stand still."""
        if self._watchdog is None:
            yield
        else:
            with self._watchdog.moving():
                yield

    def look_after(self, left: float) -> None:
        """Read the motors' status if it is time and `left`, the seconds until the next tick, allow it."""
        interval = self.config.status_interval_s
        if interval is None:
            return
        since = time.perf_counter() - self._status_at
        if since > 2 * interval or (since > interval and left > _STATUS_TAKES):
            self._read_status()

    def stop(self, error: DeviceError | None = None) -> None:
        """Take the torque off, now; `error` is what the loop then raises."""
        if self._trouble is None:
            self._trouble = error or DeviceError("the robot was stopped")
        if self.stopped_at is None:
            self.stopped_at = time.perf_counter()
        held = self._sending.acquire(timeout=_STOP_WAITS)
        try:
            self.robot.stop()
        finally:
            if held:
                self._sending.release()

    def emergency(self) -> None:
        """The operator says stop; from any thread."""
        self.stop(
            EmergencyStopError(
                "emergency stop: the torque is off",
                fix="look at the arm and what is around it, hold it if it may fall, then start again",
            )
        )

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """In this block the robot holds its pose while somebody is waited for; the motors are looked after meanwhile.

        The block must leave the robot alone. Raises DeviceError at its end when the torque had to go.
        """
        ended = threading.Event()

        def look() -> None:
            try:
                while not ended.wait(_LOOKS):
                    self.look_after(math.inf)
            except DeviceError as error:
                self.stop(error)

        thread = threading.Thread(target=look, name="holding", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        self.beat()

    def _close(self, *, well: bool) -> None:
        """Torque off, then everything else; the watchdog last, because it is for when this fails.

        When all is `well` the robot's settings may let it stay stiff.
        """
        if self._trouble is None:
            self._trouble = DeviceError("the robot is not connected any more")
        safe = False
        try:
            if not well:
                self.robot.stop()
            self.robot.disconnect()
            safe = well
        finally:
            if self._watchdog is not None:
                self._watchdog.close(safe=safe)

    def _tripped(self) -> None:
        assert self._watchdog is not None
        try:
            self._watchdog.check()
        except DeviceError as error:
            self.stop(error)

    def _check_alarms(self) -> None:
        alarms = self.robot.alarms
        if alarms and self.config.stop_on_alarms:
            motor, complaints = next(iter(alarms.items()))
            raise DeviceError(
                "a motor complains",
                field=motor,
                found=", ".join(complaints),
                fix="look for what blocks or heats it, switch its power off and on; --safety.stop_on_alarms=false "
                "leaves it to the motor",
            )

    def _check_cameras(self) -> None:
        most = self.config.max_camera_age_ms
        if most is None:
            return
        now = time.perf_counter()
        for name, at in self.robot.observed_at.items():
            age = 1000 * (now - at)
            if name != STATE and age > most:
                raise DeviceError(
                    "a camera has stopped",
                    field=name,
                    found=f"its last picture is {age:.0f} ms old",
                    expected=f"{most:.0f} ms at most",
                    fix="check its cable and its USB hub; a slow camera needs --safety.max_camera_age_ms=…",
                )

    def _read_status(self) -> None:
        if self.config.status_interval_s is None:
            return
        self.status = self.robot.status()
        self._status_at = time.perf_counter()
        for key, value in self.status.items():
            low, high = self.extremes.get(key, (value, value))
            self.extremes[key] = min(low, value), max(high, value)
            self._check_status(key, value)

    def _check_status(self, key: str, value: float) -> None:
        kind, config = key.rpartition(".")[2], self.config
        if kind == "temperature" and config.max_temperature is not None and value > config.max_temperature:
            fix = "let it cool down; --safety.max_temperature allows more"
            raise _too(key, f"{value:.0f} °C", f"at most {config.max_temperature:.0f} °C", fix)
        if kind == "voltage":
            if config.min_voltage is not None and value < config.min_voltage:
                fix = "check the power supply and its plug; --safety.min_voltage allows less"
                raise _too(key, f"{value:.1f} V", f"at least {config.min_voltage:.1f} V", fix)
            if config.max_voltage is not None and value > config.max_voltage:
                fix = "check that this is the arm's own power supply; --safety.max_voltage allows more"
                raise _too(key, f"{value:.1f} V", f"at most {config.max_voltage:.1f} V", fix)
        if kind == "current" and config.max_current is not None:
            self._hot[key] = self._hot[key] + 1 if abs(value) > config.max_current else 0
            if self._hot[key] >= config.readings:
                fix = "look for what blocks the joint; --safety.max_current allows more"
                raise _too(key, f"{value:.0f} mA in {config.readings} readings", f"{config.max_current:.0f} mA", fix)


def _too(key: str, found: str, expected: str, fix: str) -> DeviceError:
    return DeviceError("a motor is not well", field=key, found=found, expected=expected, fix=fix)
