"""An arm that is not there: a serial port (a pty) behind which simulated servos answer byte for byte."""

import contextlib
import heapq
import os
import pty
import select
import shutil
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lerobot_ops.errors import ConfigError, DeviceError, did_you_mean
from lerobot_ops.motors.motor import MotorCalibration
from lerobot_ops.motors.simulator import kinds
from lerobot_ops.motors.simulator.baud import line_speed
from lerobot_ops.motors.simulator.chain import Reply, SimulatedChain
from lerobot_ops.motors.simulator.faults import Fault, Kind
from lerobot_ops.motors.simulator.packets import RequestParser
from lerobot_ops.motors.simulator.servo import Servo, Supply

_BITS_PER_BYTE = 10

Hand = Callable[[float], Mapping[str, float]]
"""Seconds since the hand took hold to the angles (degrees) of the joints that it moves."""


class SimulatedArm:
    """A simulated arm, plugged in until it is closed. Its methods may be called from any thread."""

    def __init__(
        self, kind: str = "so101", *, name: str | None = None, directory: Path | None = None, calibrated: bool = True,
        timing: bool = True, latency_s: float = 0.0, volts: float = 7.4,
    ) -> None:  # fmt: skip
        self.kind, self.name = kind, name or kind
        self.timing, self.latency_s = timing, latency_s
        self._own = Path(tempfile.mkdtemp(prefix="lerobot-ops-arm-")) if directory is None else None
        folder = self._own or Path(directory or "")
        folder.mkdir(parents=True, exist_ok=True)
        self.port = str(folder.absolute() / self.name)
        """The serial port: a link that stays the same when the arm is unplugged and plugged in again."""
        supply, now = Supply(volts), time.monotonic()
        self._servos = {
            joint.name: Servo(number, joint, supply, now) for number, joint in enumerate(kinds.joints(kind), start=1)
        }
        self.calibration: dict[str, MotorCalibration] = kinds.calibration(kind)
        """What a careful calibration of this arm would say."""
        if calibrated:
            for joint_name, entry in self.calibration.items():
                _calibrate(self._servos[joint_name], entry)
        self._chain = SimulatedChain(list(self._servos.values()), supply)
        self._lock = threading.RLock()
        self._parser = RequestParser()
        self._late: list[tuple[float, bytes]] = []
        self._master = self._slave = -1
        self._wake, self._waker = os.pipe()
        self._stopped = False
        self._failure: Exception | None = None
        self.requests = 0
        """How many packets reached the servos."""
        self.plug_in()
        self._thread = threading.Thread(target=self._serve, name=f"simulated {self.name}", daemon=True)
        self._thread.start()

    # The arm

    def servo(self, motor: str) -> Servo:
        """A servo, brought up to now."""
        servo = self._servos.get(motor)
        if servo is None:
            raise ConfigError("the simulated arm has no such motor", found=motor, fix=did_you_mean(motor, self._servos))
        with self._lock:
            servo.advance(time.monotonic())
        return servo

    @property
    def angles(self) -> dict[str, float]:
        """The angle of every joint now, in degrees from its middle."""
        return {name: self.servo(name).angle for name in self._servos}

    @property
    def torques(self) -> dict[str, bool]:
        """Whether each servo holds."""
        return {name: self.servo(name).torque for name in self._servos}

    def pose(self, angles: Mapping[str, float]) -> None:
        """Put joints at angles (degrees) at once."""
        with self._lock:
            for name, angle in angles.items():
                self.servo(name).place(angle)

    def hand(self, motion: Hand | None) -> None:
        """Let somebody move the joints as `motion` says while their torque is off; None lets go."""
        start = time.monotonic()
        with self._lock:
            for name, servo in self._servos.items():
                servo.advance(start)
                servo.hand = None if motion is None else _joint_motion(servo, motion, name, start)

    def on_chain(self, motors: Sequence[str] | None) -> None:
        """Leave only these motors on the cable, as for setting them up one by one; None is all of them."""
        servos = [self.servo(name) for name in (motors or self._servos)]
        with self._lock:
            self._chain.servos = servos

    def power_cycle(self) -> None:
        """Take the supply away from the servos for a moment: what is not in their EEPROM is lost."""
        with self._lock:
            for servo in self._servos.values():
                servo.advance(time.monotonic())
                servo.power_cycle()

    # Faults

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that are on."""
        return tuple(self._chain.faults)

    @property
    def plugged_in(self) -> bool:
        """Whether the port is there."""
        return self._master >= 0

    def fault(self, fault: Fault | Kind) -> None:
        """Switch a fault on."""
        fault = Fault(fault) if isinstance(fault, str) else fault
        if fault.kind == "unplug":
            self.unplug()
            return
        for motor in fault.motors or ():
            self.servo(motor)
        with self._lock:
            self._chain.apply([*self._chain.faults, fault])

    def clear_faults(self) -> None:
        """Switch all faults off, and plug the arm in."""
        with self._lock:
            self._chain.apply([])
            self.plug_in()

    def unplug(self) -> None:
        """Pull the USB cable: the port is gone, while the servos keep their power and their torque."""
        with self._lock:
            for descriptor in (self._master, self._slave):
                if descriptor >= 0:
                    os.close(descriptor)
            self._master = self._slave = -1
            self._late.clear()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.port)
        self._nudge()

    def plug_in(self) -> None:
        """Put the USB cable in; nothing if it is."""
        with self._lock:
            if self._master >= 0:
                return
            self._master, self._slave = pty.openpty()
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            self._parser = RequestParser()
            link = Path(self.port)
            if link.is_symlink():
                link.unlink()
            elif link.exists():
                raise DeviceError("the simulated port cannot be made", file=link, found="a file", fix="remove it")
            link.symlink_to(os.ttyname(self._slave))
        self._nudge()

    def close(self) -> None:
        """Take the arm away; may be called twice. Raises what its hand raised."""
        if self._stopped:
            return
        self._stopped = True
        self._nudge()
        self._thread.join()
        self.unplug()
        os.close(self._wake)
        os.close(self._waker)
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        if self._failure is not None:
            raise self._failure

    # The wire

    def _serve(self) -> None:
        try:
            self._answer()
        except Exception as error:  # of a hand; whoever talks to the arm finds it gone, and `close` says why
            self._failure = error
            self.unplug()

    def _answer(self) -> None:
        while not self._stopped:
            with self._lock:
                master, due = self._master, self._late[0][0] if self._late else None
            watched = [self._wake] if master < 0 else [self._wake, master]
            wait = None if due is None else max(0.0, due - time.monotonic())
            try:
                ready = select.select(watched, [], [], wait)[0]
            except OSError:  # the cable was pulled at this moment
                continue
            if self._wake in ready:
                os.read(self._wake, 4096)
                continue  # the port may be another one now
            if ready:
                self._receive(master)
            self._send_late()

    def _receive(self, master: int) -> None:
        now = time.monotonic()
        with self._lock:
            if master != self._master:
                return
            try:
                data = os.read(master, 4096)
            except OSError:
                return
            baudrate = line_speed(self._slave)
            replies: list[Reply] = []
            busy = self.latency_s
            for request in self._parser.feed(data, now):
                self.requests += 1
                answers = self._chain.handle(request, now, baudrate)
                size = request.size + sum(len(reply.data) for reply in answers)
                busy += size * _BITS_PER_BYTE / baudrate + sum(reply.after_s for reply in answers)
                replies += answers
            for reply in replies:
                if reply.late_s:
                    heapq.heappush(self._late, (now + busy + reply.late_s, reply.data))
        punctual = b"".join(reply.data for reply in replies if not reply.late_s)
        if punctual:
            if self.timing and (left := now + busy - time.monotonic()) > 0:
                time.sleep(left)  # the last byte of the burst arrives then; an adapter hands it over as a whole
            self._send(punctual)

    def _send_late(self) -> None:
        while True:
            with self._lock:
                if not self._late or self._late[0][0] > time.monotonic():
                    return
                data = heapq.heappop(self._late)[1]
            self._send(data)

    def _send(self, data: bytes) -> None:
        with self._lock:
            if self._master >= 0:
                with contextlib.suppress(OSError):  # nobody reads, and the line is full: bytes are lost on a wire, too
                    os.write(self._master, data)

    def _nudge(self) -> None:
        os.write(self._waker, b"\0")


@contextlib.contextmanager
def simulate(
    kind: str = "so101", *, name: str | None = None, directory: Path | None = None, calibrated: bool = True,
    timing: bool = True, latency_s: float = 0.0, volts: float = 7.4,
) -> Iterator[SimulatedArm]:  # fmt: skip
    """A simulated arm for the block.

    Its port is the link `directory/name`, in a directory of its own by default. `calibrated` servos hold the arm's true
    calibration; others are as new, with their ids set. With `timing` answers take the time that their bytes take at the
    line's rate, and `latency_s` more for the adapter.
    """
    arm = SimulatedArm(
        kind, name=name, directory=directory, calibrated=calibrated, timing=timing, latency_s=latency_s, volts=volts
    )
    try:
        yield arm
    finally:
        arm.close()


def _joint_motion(servo: Servo, motion: Hand, name: str, start: float) -> Callable[[float], float]:
    """The position that `motion` wants of one joint at a time; where it says nothing the joint stays."""

    def position(now: float) -> float:
        angle = motion(now - start).get(name)
        return servo.position if angle is None else servo.joint.middle + angle * servo.resolution / 360

    return position


def _calibrate(servo: Servo, entry: MotorCalibration) -> None:
    if servo.protocol == 0:
        servo.set("Homing_Offset", entry.homing_offset)
    servo.set("Min_Position_Limit", entry.range_min)
    servo.set("Max_Position_Limit", entry.range_max, save=True)
    servo.power_cycle()
