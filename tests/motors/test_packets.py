"""The bytes on the wire: requests as Feetech's protocol has them, and a device that answers only to exactly those."""

import contextlib
import itertools
import os
import pty
import threading
import tty
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.feetech import FeetechMotorsBus
from lerobot_ops.motors.motor import Motor, MotorNormMode
from lerobot_ops.motors.simulator.packets import RequestParser, request_packet

MOTORS = {f"motor_{number}": Motor(number, "sts3215", MotorNormMode.RANGE_M100_100) for number in (1, 2, 3)}


def instruction(motor_id: int, code: int, *parameters: int) -> bytes:
    """FF FF id length instruction parameters checksum."""
    body = [motor_id, len(parameters) + 2, code, *parameters]
    return bytes([0xFF, 0xFF, *body, ~sum(body) & 0xFF])


def status(motor_id: int, *parameters: int, error: int = 0) -> bytes:
    """FF FF id length error parameters checksum."""
    return instruction(motor_id, error, *parameters)


class Stub:
    """A device on a pty that answers to known requests alone, once it has left `silent` of them without an answer."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        self.answers: dict[bytes, bytes] = {}
        self.silent = 0
        self.heard = b""
        self._slave = slave
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        pending = b""
        while (data := self._read()) != b"":
            self.heard += data
            pending += data
            for request, answer in self.answers.items():
                if pending.endswith(request):
                    pending = b""
                    if self.silent:
                        self.silent -= 1
                    else:
                        os.write(self.master, answer)

    def _read(self) -> bytes:
        try:
            return os.read(self.master, 4096)
        except OSError:
            return b""

    def close(self) -> None:
        os.close(self._slave)  # the last one: reading the master fails from now on
        self._thread.join()
        os.close(self.master)


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.close()


@pytest.fixture
def bus(stub: Stub) -> Iterator[FeetechMotorsBus]:
    bus = FeetechMotorsBus(stub.port, MOTORS)
    bus.connect(handshake=False)
    bus.set_timeout(300)
    yield bus
    bus.disconnect(disable_torque=False)


def test_ping(stub: Stub, bus: FeetechMotorsBus) -> None:
    stub.answers = {instruction(2, 1): status(2), instruction(2, 2, 3, 2): status(2, 0x09, 0x03)}
    assert bus.ping("motor_2") == 777
    bus.set_timeout(20)
    assert bus.ping("motor_1") is None


def test_broadcast_ping(stub: Stub, bus: FeetechMotorsBus) -> None:
    stub.answers = {instruction(0xFE, 1): status(1) + status(2) + b"\xff" + status(3)}
    stub.answers |= {instruction(each, 2, 3, 2): status(each, 0x09, 0x03) for each in (1, 2, 3)}
    assert bus.broadcast_ping() == dict.fromkeys((1, 2, 3), 777)


@pytest.mark.parametrize(
    ("data_name", "address", "data", "value"),
    [
        ("Present_Voltage", 62, [74], 74),
        ("Present_Position", 56, [0x02, 0x08], 2050),
        ("Homing_Offset", 31, [0x0A, 0x08], -10),
        ("Present_Load", 60, [0x64, 0x04], -100),
        ("Goal_Velocity", 46, [0x2C, 0x81], -300),
    ],
)
def test_read(stub: Stub, bus: FeetechMotorsBus, data_name: str, address: int, data: list[int], value: int) -> None:
    stub.answers = {instruction(1, 2, address, len(data)): status(1, *data)}
    assert bus.read(data_name, "motor_1", normalize=False) == value


@pytest.mark.parametrize(
    ("data_name", "address", "value", "data"),
    [
        ("Torque_Enable", 40, 1, [1]),
        ("Goal_Position", 42, 2050, [0x02, 0x08]),
        ("Homing_Offset", 31, -10, [0x0A, 0x08]),
        ("Goal_Velocity", 46, -300, [0x2C, 0x81]),
    ],
)
def test_write(stub: Stub, bus: FeetechMotorsBus, data_name: str, address: int, value: int, data: list[int]) -> None:
    request = instruction(3, 3, address, *data)
    stub.answers = {request: status(3)}
    bus.write(data_name, "motor_3", value, normalize=False)
    assert stub.heard == request


def test_sync_read(stub: Stub, bus: FeetechMotorsBus) -> None:
    request = instruction(0xFE, 0x82, 56, 2, 1, 2, 3)
    stub.answers = {request: status(1, 1, 0) + status(2, 2, 1) + status(3, 3, 0x80, error=32)}
    found = bus.sync_read("Present_Position", normalize=False)
    assert found == {"motor_1": 1, "motor_2": 258, "motor_3": -3}
    assert bus.alarms == {"motor_3": ("overload",)}
    assert stub.heard == request


def test_sync_write(stub: Stub, bus: FeetechMotorsBus) -> None:
    bus.sync_write("Goal_Position", {"motor_1": 1, "motor_3": 2050}, normalize=False)
    bus.sync_write("Torque_Enable", 0)
    stub.answers = {instruction(1, 2, 5, 1): status(1, 1)}
    assert bus.read("ID", "motor_1") == 1  # what was sent before has arrived, then
    written = instruction(0xFE, 0x83, 42, 2, 1, 1, 0, 3, 2, 8) + instruction(0xFE, 0x83, 40, 1, 1, 0, 2, 0, 3, 0)
    assert stub.heard == written + instruction(1, 2, 5, 1)


def test_torque_goes_off_everywhere_before_anyone_is_asked(stub: Stub, bus: FeetechMotorsBus) -> None:
    bus.set_timeout(20)
    with pytest.raises(DeviceError, match="no answer from 'motor_1'"):
        bus.disable_torque()
    assert stub.heard.startswith(instruction(0xFE, 0x83, 40, 1, 1, 0, 2, 0, 3, 0) + instruction(1, 3, 40, 0))


@pytest.mark.parametrize("ask", [
    lambda bus, retries: bus.read("Present_Position", "motor_1", normalize=False, num_retry=retries),
    lambda bus, retries: bus.write("Torque_Enable", "motor_1", 1, num_retry=retries),
    lambda bus, retries: bus.sync_read("Present_Position", normalize=False, num_retry=retries),
    lambda bus, retries: bus.ping("motor_1", retries) or 1 / 0,
])  # fmt: skip
def test_silence_is_met_with_as_many_retries_as_asked_for(
    stub: Stub, bus: FeetechMotorsBus, ask: Callable[[FeetechMotorsBus, int], object]
) -> None:
    bus.set_timeout(100)
    stub.answers = {
        instruction(1, 1): status(1),
        instruction(1, 2, 3, 2): status(1, 9, 3),
        instruction(1, 2, 56, 2): status(1, 0, 0),
        instruction(1, 3, 40, 1): status(1),
        instruction(0xFE, 0x82, 56, 2, 1, 2, 3): b"".join(status(each, 0, 0) for each in (1, 2, 3)),
    }
    stub.silent = 2
    ask(bus, 2)
    assert stub.silent == 0
    stub.silent = 2
    with pytest.raises((DeviceError, ZeroDivisionError)):
        ask(bus, 1)


@settings(deadline=None, max_examples=40)
@given(noise=st.binary(max_size=300))
def test_noise_hangs_and_breaks_nothing(noise: bytes) -> None:
    """Whatever a line says, a question ends, with an answer or with an error, and the next one is answered."""
    stub = Stub()
    bus = FeetechMotorsBus(stub.port, MOTORS)
    bus.connect(handshake=False)
    bus.set_timeout(10)
    stub.answers = {
        instruction(1, 2, 5, 1): noise + status(1, 1),
        instruction(0xFE, 0x82, 5, 1, 1, 2, 3): status(1, 1) + noise + status(2, 2) + status(3, 3),
    }
    try:
        for ask in (lambda: bus.read("ID", "motor_1"), lambda: bus.sync_read("ID")):
            with contextlib.suppress(DeviceError):
                ask()
        stub.answers = {instruction(2, 2, 5, 1): status(2, 2)}
        bus.set_timeout(200)
        assert bus.read("ID", "motor_2", num_retry=2) == 2
    finally:
        bus.disconnect(disable_torque=False)
        stub.close()


requests = st.builds(
    request_packet, st.integers(0, 254), st.sampled_from([1, 2, 3, 4, 5, 6, 0x82, 0x83]), st.binary(max_size=30)
)


@given(sent=st.lists(requests, max_size=5), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_requests_come_whole_out_of_any_pieces(sent: list[bytes], cuts: list[int]) -> None:
    stream, parser = b"".join(sent), RequestParser()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(edges)]
    found = [request for piece in pieces for request in parser.feed(piece, 0.0)]
    assert [request_packet(each.id, each.instruction, each.parameters) for each in found] == sent


@given(noise=st.lists(st.binary(max_size=60), max_size=6))
def test_a_request_is_understood_after_any_noise(noise: list[bytes]) -> None:
    parser = RequestParser()
    for piece in noise:
        list(parser.feed(piece, 0.0))
    found = list(parser.feed(request_packet(1, 1), 1.0))  # a pause, and the rest of what was before is forgotten
    assert [(each.id, each.instruction) for each in found] == [(1, 1)]
