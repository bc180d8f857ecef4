"""Feetech's packets seen from the motors' side: requests out of a stream of bytes, status packets into it."""

from collections.abc import Iterator
from dataclasses import dataclass

PING, READ, WRITE, REG_WRITE, ACTION, RESET = 1, 2, 3, 4, 5, 6
SYNC_READ, SYNC_WRITE = 0x82, 0x83
BROADCAST = 0xFE
_HEADER = b"\xff\xff"
_FORGET_S = 0.01
"""A packet that stops half-way is forgotten after so long."""


@dataclass(frozen=True)
class Request:
    """One instruction packet."""

    id: int
    instruction: int
    parameters: bytes

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return 6 + len(self.parameters)


class RequestParser:
    """Requests out of a stream that may hold anything; what is no request is skipped, as motors do."""

    def __init__(self) -> None:
        self._rest = b""
        self._last = 0.0

    def feed(self, data: bytes, now: float) -> Iterator[Request]:
        """The requests that `data`, which came at `now` (s), completes."""
        rest = self._rest + data if self._rest and now - self._last < _FORGET_S else data
        self._last = now
        at = rest.find(_HEADER)
        while at >= 0 and at + 6 <= len(rest):
            motor_id, length = rest[at + 2], rest[at + 3]
            if motor_id == 0xFF or length < 2:  # a third FF may be the id's place in a header that starts one later
                at = rest.find(_HEADER, at + 1)
                continue
            end = at + 4 + length
            if end > len(rest):
                break
            if sum(rest[at + 2 : end]) & 0xFF == 0xFF:
                yield Request(motor_id, rest[at + 4], rest[at + 5 : end - 1])
                at = rest.find(_HEADER, end)
            else:
                at = rest.find(_HEADER, at + 1)
        self._rest = rest[at:] if at >= 0 else rest[-1:] if rest.endswith(b"\xff") else b""


def status_packet(motor_id: int, error: int, data: bytes = b"") -> bytes:
    """A motor's answer."""
    body = bytes((motor_id, len(data) + 2, error)) + data
    return _HEADER + body + bytes((~sum(body) & 0xFF,))


def request_packet(motor_id: int, instruction: int, parameters: bytes = b"") -> bytes:
    """What a host sends."""
    body = bytes((motor_id, len(parameters) + 2, instruction)) + parameters
    return _HEADER + body + bytes((~sum(body) & 0xFF,))
