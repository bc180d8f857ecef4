"""Feetech's protocol by id: instruction packets out, status packets in, as `feetech-servo-sdk` makes and reads them.

A request is FF FF id length instruction parameters checksum, an answer FF FF id length error parameters checksum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lerobot_ops.errors import PrerequisiteError
from lerobot_ops.motors.port import SerialPort

BROADCAST = 0xFE
MOST_IDS = 253
"""Ids are 0 to 252."""
PING, READ, WRITE = 1, 2, 3
_ANSWER_BYTES = 6
_AFTER_DAMAGE_S = 0.005
"""After a damaged answer the others follow at once or never."""
_SLOT_S = 0.003
"""How long a motor may wait for those of lower ids before it answers a ping of all."""
_SILENCE_S = 0.25


class NoAnswerError(Exception):
    """A motor did not answer, or not with what was asked for; its text says which."""


@dataclass(frozen=True)
class Answers:
    """What came back of one question to many motors."""

    data: dict[int, bytes]
    errors: dict[int, int]
    """Error byte of each answer."""
    reason: str
    """Why the others are not there."""


class FeetechWire:
    """Conversations over one open port."""

    def __init__(self, port: SerialPort) -> None:
        self.port = port
        self._packets = packet_handler()

    def ping(self, motor_id: int) -> int:
        """The error byte of the answer; raises NoAnswerError."""
        return self._ask(motor_id, [PING], 0)[1]

    def read(self, motor_id: int, address: int, size: int) -> tuple[bytes, int]:
        """Data and error byte of the answer; raises NoAnswerError."""
        return self._ask(motor_id, [READ, address, size], size)

    def write(self, motor_id: int, address: int, data: bytes) -> int:
        """The error byte of the answer; raises NoAnswerError."""
        return self._ask(motor_id, [WRITE, address, *data], 0)[1]

    def sync_read(self, ids: Sequence[int], address: int, size: int) -> Answers:
        """Ask all of `ids` at once; those that do not answer in time are missing."""
        self._check(self._packets.syncReadTx(self.port, address, size, ids, len(ids)))
        # Every answer comes whole even when one of them is damaged: read on, so that the others are not lost with it.
        self.port.setPacketTimeout((_ANSWER_BYTES + size) * len(ids))
        missing, data, errors, reason = set(ids), dict[int, bytes](), dict[int, int](), ""
        while missing:
            packet, result = self._packets.rxPacket(self.port)
            if result:
                self.port.doubtful = True
                reason = reason or self._why(result)
                if self.port.isPacketTimeout():
                    break
                self.port.wait_at_most(_AFTER_DAMAGE_S)
            elif packet[2] in missing and len(packet) == _ANSWER_BYTES + size:
                missing.discard(packet[2])
                data[packet[2]], errors[packet[2]] = bytes(packet[5:-1]), packet[4]
        return Answers(data, errors, reason)

    def sync_write(self, address: int, data: Mapping[int, bytes]) -> None:
        """Tell each motor its data in one packet; nobody answers."""
        send_sync_write(self._packets, self.port, address, data)

    def broadcast_ping(self) -> list[int]:
        """The ids of all motors that answer to a ping of all, in the order of their answers."""
        packet = [0, 0, BROADCAST, 2, PING, 0]
        self._check(self._packets.txPacket(self.port, packet))
        most = self.port.seconds(_ANSWER_BYTES * MOST_IDS) + _SLOT_S * MOST_IDS + self.port.timeout_ms / 1000
        received = self.port.read_until_silent(most, _SILENCE_S)
        found, at = [], received.find(b"\xff\xff")
        while 0 <= at <= len(received) - _ANSWER_BYTES:
            body = received[at + 2 : at + _ANSWER_BYTES]
            whole = body[1] == 2 and (sum(body) & 0xFF) == 0xFF and body[0] < MOST_IDS
            if whole and body[0] not in found:
                found.append(body[0])
            at = received.find(b"\xff\xff", at + (_ANSWER_BYTES if whole else 1))
        return found

    def _ask(self, motor_id: int, body: list[int], size: int) -> tuple[bytes, int]:
        """One instruction and the answer to it, of `size` bytes of data; one of another size is to an earlier question.

        The SDK's own reading takes what comes first, whatever its size, and cuts it.
        """
        self._check(self._packets.txPacket(self.port, [0, 0, motor_id, len(body) + 1, *body, 0]))
        self.port.setPacketTimeout(_ANSWER_BYTES + size)
        while True:
            packet, result = self._packets.rxPacket(self.port)
            self._check(result)
            if packet[2] == motor_id and len(packet) == _ANSWER_BYTES + size:
                return bytes(packet[5:-1]), packet[4]

    def _check(self, result: int) -> None:
        if result:
            self.port.doubtful = True
            raise NoAnswerError(self._why(result))

    def _why(self, result: int) -> str:
        known = {-6: f"no status packet within {self.port.timeout_ms:g} ms", -7: "a damaged status packet"}
        return known.get(result) or str(self._packets.getTxRxResult(result)).removeprefix("[TxRxResult] ")


class Recorder:
    """A port that keeps what is written to it."""

    is_using = False

    def __init__(self) -> None:
        self.written = b""

    def clearPort(self) -> None:  # noqa: N802
        """There is nothing to throw away."""

    def writePort(self, packet: list[int]) -> int:  # noqa: N802
        self.written += bytes(packet)
        return len(packet)


def sync_write_packet(address: int, data: Mapping[int, bytes]) -> bytes:
    """The packet that tells each motor its data."""
    port = Recorder()
    send_sync_write(packet_handler(), port, address, data)
    return port.written


def send_sync_write(packets: Any, port: SerialPort | Recorder, address: int, data: Mapping[int, bytes]) -> None:
    """Send one packet with every motor's data; NoAnswerError if it could not be sent."""
    size = len(next(iter(data.values())))
    parameters = [byte for motor_id, value in data.items() for byte in (motor_id, *value)]
    result = packets.syncWriteTxOnly(port, address, size, parameters, len(parameters))
    if result:
        raise NoAnswerError(str(packets.getTxRxResult(result)).removeprefix("[TxRxResult] "))


def packet_handler() -> Any:
    """The SDK's packet handler.

    Its order of bytes is a global of the SDK, which two buses of different protocols would share: nothing here uses it.
    """
    try:
        from scservo_sdk.protocol_packet_handler import protocol_packet_handler
    except ImportError:
        raise PrerequisiteError(
            "Feetech motors need feetech-servo-sdk", fix="pip install 'lerobot-ops[hardware]'"
        ) from None
    return protocol_packet_handler()
