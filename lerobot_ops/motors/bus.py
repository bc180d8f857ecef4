"""A chain of motors on one port: what every make of bus offers, in LeRobot's names.

A bus speaks to its motors by name. Values of `Goal_Position` and `Present_Position` are in each motor's unit
(`Motor.norm_mode`) unless `normalize=False`; all other registers are plain integers.
"""

import contextlib
import select
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lerobot_ops.errors import ConfigError, DeviceError, did_you_mean
from lerobot_ops.motors.motor import Motor, MotorCalibration, MotorNormMode

Motors = str | Sequence[str] | None
"""One motor, some, or all of them."""
_POLL_S = 0.02


@dataclass(frozen=True)
class MotorStatus:
    """How a motor is."""

    voltage: float
    """V."""
    temperature: int
    """°C."""
    load: float
    """% of the greatest torque, with its direction as the sign."""
    current: float | None
    """mA; None where the model does not measure it."""


class MotorsBus(ABC):
    """Motors on one port. Safe to use from several threads: one conversation at a time.

    Every method that talks raises DeviceError naming motor, id, register, port, and what to check.
    """

    def __init__(
        self, port: str, motors: Mapping[str, Motor], calibration: Mapping[str, MotorCalibration] | None = None
    ) -> None:
        self.port, self.motors = port, dict(motors)
        self.calibration = dict(calibration or {})
        owners: dict[int, str] = {}
        for name, motor in self.motors.items():
            if motor.id in owners:
                raise ConfigError(
                    "two motors of a bus have the same id",
                    field=name, found=motor.id, expected=f"another than {owners[motor.id]}'s",
                )  # fmt: skip
            owners[motor.id] = name

    @property
    @abstractmethod
    def is_connected(self) -> bool: ...

    @abstractmethod
    def connect(self, handshake: bool = True) -> None:
        """Open the port and, with `handshake`, check that every motor answers and is of the expected model."""

    @abstractmethod
    def disconnect(self, disable_torque: bool = True) -> None:
        """Take the torque off and close the port; may be called twice. The port is closed whatever happens."""

    @abstractmethod
    def ping(self, motor: str, num_retry: int = 0) -> int | None:
        """The number of the motor's model; None when it does not answer."""

    @abstractmethod
    def broadcast_ping(self, num_retry: int = 0) -> dict[int, int]:
        """The id of every motor that answers to all, and the number of its model."""

    @abstractmethod
    def read(self, data_name: str, motor: str, *, normalize: bool = True, num_retry: int = 0) -> float: ...

    @abstractmethod
    def write(self, data_name: str, motor: str, value: float, *, normalize: bool = True, num_retry: int = 0) -> None:
        """Write one register and wait until the motor confirms it."""

    @abstractmethod
    def sync_read(
        self, data_name: str, motors: Motors = None, *, normalize: bool = True, num_retry: int = 0
    ) -> dict[str, float]:
        """One register of many motors in one conversation; `num_retry` more for those that did not answer."""

    @abstractmethod
    def sync_write(
        self, data_name: str, values: float | Mapping[str, float], *, normalize: bool = True, num_retry: int = 0
    ) -> None:
        """One register of many motors in one packet, which no motor confirms; one value is for all of them."""

    @abstractmethod
    def enable_torque(self, motors: Motors = None, num_retry: int = 0) -> None: ...

    @abstractmethod
    def disable_torque(self, motors: Motors = None, num_retry: int = 0) -> None:
        """Take the torque off every one of `motors`, whatever the others say; then raise what went wrong."""

    @abstractmethod
    def configure_motors(self) -> None:
        """Set what every arm wants: answers without delay, and no slower acceleration than asked for."""

    @abstractmethod
    def set_half_turn_homings(self, motors: Motors = None) -> dict[str, int]:
        """Make the present position of each motor the middle of its turn; returns the offsets that were written."""

    @abstractmethod
    def reset_calibration(self, motors: Motors = None) -> None:
        """No offset, and limits of a whole turn."""

    @abstractmethod
    def read_calibration(self) -> dict[str, MotorCalibration]:
        """What the motors hold."""

    @abstractmethod
    def write_calibration(self, calibration: Mapping[str, MotorCalibration], cache: bool = True) -> None:
        """Write offsets and limits into the motors; with `cache` the bus uses them from now on."""

    @property
    @abstractmethod
    def is_calibrated(self) -> bool:
        """Whether the motors hold the bus's calibration."""

    @abstractmethod
    def setup_motor(self, motor: str, initial_baudrate: int | None = None, initial_id: int | None = None) -> None:
        """Give the one motor that is plugged in its id, and the bus's baud rate."""

    @abstractmethod
    def set_baudrate(self, baudrate: int) -> None:
        """Talk at another rate from now on."""

    @abstractmethod
    def set_timeout(self, timeout_ms: float | None = None) -> None:
        """Wait so long for a reply, besides the time that its bytes take; None is the default."""

    @abstractmethod
    def status(self, motors: Motors = None, num_retry: int = 0) -> dict[str, MotorStatus]:
        """Voltage, temperature, load and current."""

    @property
    @abstractmethod
    def alarms(self) -> dict[str, tuple[str, ...]]:
        """What motors complained of when they last answered, of those that did."""

    @abstractmethod
    def release_packets(self) -> bytes:
        """Bytes that take the torque off all motors without any answer: a process that outlives ours can send them."""

    @contextlib.contextmanager
    def torque_disabled(self, motors: Motors = None) -> Iterator[None]:
        """Torque off for the block, on again after it, also when it failed."""
        self.disable_torque(motors)
        try:
            yield
        finally:
            self.enable_torque(motors)

    def record_ranges_of_motion(
        self, motors: Motors = None, display_values: bool = True, until: Callable[[], bool] | None = None
    ) -> tuple[dict[str, int], dict[str, int]]:
        """The lowest and the highest position of each motor while somebody moves it, until ENTER or `until()`.

        Raises DeviceError naming the motors that did not move.
        """
        names = self.names(motors)
        until = until or _enter_pressed
        position = self._positions(names)
        lowest, highest = dict(position), dict(position)
        shown = 0
        while True:
            for name, value in position.items():
                lowest[name], highest[name] = min(lowest[name], value), max(highest[name], value)
            if display_values:
                shown = _show(shown, lowest, position, highest)
            if until():
                break
            time.sleep(_POLL_S)
            position = self._positions(names)
        still = [name for name in names if lowest[name] == highest[name]]
        if still:
            raise DeviceError(
                f"some motors did not move: {', '.join(still)}",
                file=self.port, found="the same position all the time",
                fix="move every joint from one end to the other, and calibrate again",
            )  # fmt: skip
        return lowest, highest

    def names(self, motors: Motors) -> list[str]:
        """The names that `motors` means."""
        names = list(self.motors) if motors is None else [motors] if isinstance(motors, str) else list(motors)
        for name in names:
            if name not in self.motors:
                raise ConfigError("the bus has no such motor", found=name, fix=did_you_mean(name, self.motors))
        return names

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()

    def _positions(self, names: Sequence[str]) -> dict[str, int]:
        found = self.sync_read("Present_Position", names, normalize=False, num_retry=2)
        return {name: int(value) for name, value in found.items()}

    def _calibration_of(self, name: str) -> MotorCalibration:
        entry = self.calibration.get(name)
        if entry is None:
            raise DeviceError(
                f"motor {name!r} is not calibrated",
                file=self.port, expected=f"a calibration, for positions in {self.motors[name].norm_mode}",
                fix="calibrate the arm with `lerobot-ops calibrate`, or read with normalize=False",
            )  # fmt: skip
        if entry.range_min >= entry.range_max and self.motors[name].norm_mode is not MotorNormMode.DEGREES:
            raise DeviceError(
                f"the calibrated range of motor {name!r} is empty",
                file=self.port, found=f"{entry.range_min} to {entry.range_max}",
                fix="calibrate the arm again with `lerobot-ops calibrate`",
            )  # fmt: skip
        return entry


def _enter_pressed() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0]) and bool(sys.stdin.readline() or True)


def _show(shown: int, lowest: dict[str, int], position: dict[str, int], highest: dict[str, int]) -> int:
    """Print the table over the one before it; returns how many lines it has."""
    width = max(map(len, position))
    lines = [f"{'motor':<{width}}  lowest     now  highest"]
    lines += [f"{name:<{width}}  {lowest[name]:>6}  {now:>6}  {highest[name]:>7}" for name, now in position.items()]
    above = f"\x1b[{shown}A" if shown else ""
    print(above + "".join(f"\x1b[2K{line}\n" for line in lines), end="", flush=True)
    return len(lines)
