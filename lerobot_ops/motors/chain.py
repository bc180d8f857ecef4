"""Conversations with a chain of Feetech motors: one at a time, repeated when an answer is lost, errors that help."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.encoding import decode
from lerobot_ops.motors.port import PortLostError, SerialPort
from lerobot_ops.motors.tables import DEFAULT_BAUDRATE, TABLES, Protocol, Register
from lerobot_ops.motors.wire import MOST_IDS, FeetechWire, NoAnswerError

SETUP_RETRIES = 2
"""Of what is not in a hurry."""
_SETUP_TIMEOUT_MS = 100.0


class FeetechChain:
    """Registers of motors by id, for several threads."""

    def __init__(self, port: str, names: Mapping[int, str], protocol: Protocol) -> None:
        self.names, self.protocol = dict(names), protocol
        self.port = SerialPort(port, DEFAULT_BAUDRATE)
        self.lock = threading.RLock()
        """Held for what must not be interrupted; every conversation takes it."""
        self.errors: dict[int, int] = {}
        """The error byte of each motor's last answer."""
        self._wire: FeetechWire | None = None

    def open(self) -> None:
        with self.lock:
            if self.port.is_open:
                raise DeviceError("the bus is connected already", file=self.port.name)
            self._wire = FeetechWire(self.port)
            self.port.open()
            self.errors.clear()

    def close(self) -> None:
        """Close the port; may be called twice."""
        with self.lock:
            self.port.close()

    def ping(self, motor_id: int, num_retry: int) -> int | None:
        """The number of the motor's model; None when it does not answer."""
        number = TABLES[self.protocol]["Model_Number"]
        with self._talking() as wire:
            for _ in range(1 + num_retry):
                with contextlib.suppress(NoAnswerError):
                    wire.ping(motor_id)
                    data, self.errors[motor_id] = wire.read(motor_id, number.address, number.size)
                    return decode(data, number, self.protocol)
        return None

    def models(self) -> dict[int, int]:
        """Every motor that answers to a ping of all, and the number of its model."""
        number = TABLES[self.protocol]["Model_Number"]
        with self.lock:
            found = {each: self.read(each, number, SETUP_RETRIES, "Model_Number") for each in self.present()}
        return {each: decode(data, number, self.protocol) for each, data in found.items()}

    def present(self, only: int | None = None) -> list[int]:
        """The ids that answer; with `only` no other is asked. SCS motors do not answer a ping of all."""
        with self._talking() as wire:
            if self.protocol == 0 and only is None:
                return sorted(wire.broadcast_ping())
            return [each for each in (range(MOST_IDS) if only is None else [only]) if _answers(wire, each)]

    def read(self, motor_id: int, register: Register, num_retry: int, data_name: str) -> bytes:
        with self._talking() as wire:
            for _ in range(1 + num_retry):
                try:
                    data, self.errors[motor_id] = wire.read(motor_id, register.address, register.size)
                    return data
                except NoAnswerError as error:
                    reason = str(error)
        raise self._silent([motor_id], data_name, reason, 1 + num_retry)

    def write(self, motor_id: int, register: Register, data: bytes, num_retry: int, data_name: str) -> None:
        with self._talking() as wire:
            for _ in range(1 + num_retry):
                try:
                    self.errors[motor_id] = wire.write(motor_id, register.address, data)
                    return
                except NoAnswerError as error:
                    reason = str(error)
        raise self._silent([motor_id], data_name, reason, 1 + num_retry)

    def read_many(self, ids: Sequence[int], register: Register, num_retry: int, data_name: str) -> dict[int, bytes]:
        """A register of each motor, by id; SCS motors are asked one after the other."""
        if self.protocol:
            with self.lock:
                return {each: self.read(each, register, num_retry, data_name) for each in ids}
        found: dict[int, bytes] = {}
        with self._talking() as wire:
            for _ in range(1 + num_retry):
                try:
                    answers = wire.sync_read(ids, register.address, register.size)
                except NoAnswerError as error:
                    reason = str(error)
                    continue
                found |= answers.data
                self.errors |= answers.errors
                ids, reason = [each for each in ids if each not in found], answers.reason
                if not ids:
                    return found
        raise self._silent(ids, data_name, reason, 1 + num_retry)

    def sync_write(self, register: Register, data: Mapping[int, bytes], num_retry: int, data_name: str) -> None:
        with self._talking() as wire:
            for _ in range(1 + num_retry):
                try:
                    wire.sync_write(register.address, data)
                    return
                except NoAnswerError as error:
                    reason = str(error)
        raise self._silent(list(data), data_name, reason, 1 + num_retry)

    @contextlib.contextmanager
    def unhurried(self) -> Iterator[None]:
        """More time for answers in the block: on a busy machine they may be late, and no loop waits for them."""
        with self.lock:
            before = self.port.timeout_ms
            self.port.timeout_ms = max(before, _SETUP_TIMEOUT_MS)
            try:
                yield
            finally:
                self.port.timeout_ms = before

    @contextlib.contextmanager
    def _talking(self) -> Iterator[FeetechWire]:
        """The wire, for this thread alone."""
        with self.lock:
            if self._wire is None or not self.port.is_open:
                raise DeviceError("the bus is not connected", file=self.port.name, fix="connect it first")
            try:
                yield self._wire
            except PortLostError as error:
                self.port.close()
                raise DeviceError(
                    "the serial port is gone", file=self.port.name, found=str(error),
                    fix="plug the arm's USB cable in and connect again; until then its motors may hold their torque",
                ) from error  # fmt: skip

    def _silent(self, ids: Sequence[int], data_name: str, reason: str, tries: int) -> DeviceError:
        one = f"check the cable into motor {ids[0]} and out of the one before it, that no other motor has its id"
        if len(ids) == len(self.names) > 1:
            one = "check that the power supply is on and that the first motor's cable is in the adapter"
        who = ", ".join(f"{self.names.get(each, 'motor')!r} (id {each})" for each in ids)
        return DeviceError(
            f"no answer from {who}",
            file=self.port.name, field=data_name, found=f"{reason}, {tries} {'tries' if tries > 1 else 'try'}",
            expected=f"a status packet at {self.port.baudrate} baud",
            fix=f"{one}, and that it was set up for this rate with `lerobot-ops setup-motors`",
        )  # fmt: skip


def _answers(wire: FeetechWire, motor_id: int) -> bool:
    try:
        wire.ping(motor_id)
    except NoAnswerError:
        return False
    return True
