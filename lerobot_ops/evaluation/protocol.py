"""How a worker and its host speak: a 4-byte big-endian length, then that many bytes of msgpack.

Arrays travel as their dtype, shape and bytes. Nothing is pickled, so neither side can make the other run code. Runs in
a sandbox too: needs only the standard library, numpy and msgpack.
"""

import math
from typing import Any, BinaryIO

import msgpack
import numpy as np

VERSION = 2
MAX_BYTES = 512 * 1024 * 1024
HEADER = 4
MAX_ITEMS = 1 << 16
"""Of all lists and maps of a message together: a byte on the stream can become 64 bytes of Python's."""
_ARRAY = 1


class ProtocolError(Exception):
    """The other side sent, or we were to send, what the protocol does not allow."""


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message and flush it."""
    body = _packed(message)
    stream.write(len(body).to_bytes(HEADER, "big"))
    stream.write(body)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Read one message; None when the other side has closed the stream between two messages."""
    header = stream.read(HEADER)
    if not header:
        return None
    length = body_length(header)
    body = stream.read(length)
    if len(body) != length:
        raise ProtocolError(f"the stream ended after {len(body)} of {length} bytes")
    return decode(body)


def encode(message: dict[str, Any]) -> bytes:
    """A message of None, bool, int, float, str, bytes, list, dict and numpy arrays, with its length in front."""
    body = _packed(message)
    return len(body).to_bytes(HEADER, "big") + body


def _packed(message: dict[str, Any]) -> bytes:
    """A message without its length; an array is copied twice on the way, which is what joining costs."""
    try:
        body: bytes = msgpack.packb(message, default=_pack_array)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"a message cannot be sent: {error}") from error
    if len(body) > MAX_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is over the limit of {MAX_BYTES}: ask for fewer steps")
    return body


def body_length(header: bytes | bytearray) -> int:
    """How many bytes follow this header."""
    length = int.from_bytes(header, "big")
    if len(header) != HEADER or length > MAX_BYTES:
        raise ProtocolError(f"{bytes(header)!r} does not begin a message: the stream holds something else")
    return length


def decode(body: bytes | bytearray) -> dict[str, Any]:
    """The message in `body`; its arrays are views of it, so they cannot be written to when it is `bytes`."""
    items = 0

    def count(collection: Any) -> Any:
        nonlocal items
        items += 1 + len(collection)
        if items > MAX_ITEMS:
            raise ProtocolError(f"a message has more than {MAX_ITEMS} items")
        return collection

    try:
        message = msgpack.unpackb(
            body,
            ext_hook=_unpack_array,
            list_hook=count,
            object_hook=count,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"a message cannot be read: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"a message must be a map, not {type(message).__name__}")
    return message


def _pack_array(value: object) -> object:
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} has no place in a message")
    if value.dtype.kind not in "biuf":
        raise TypeError(f"an array of {value.dtype} has no place in a message")
    array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    head: bytes = msgpack.packb([array.dtype.str, list(value.shape)])
    return msgpack.ExtType(_ARRAY, b"".join((bytes([len(head)]), head, array.data)))


def _unpack_array(code: int, data: bytes) -> np.ndarray[Any, Any]:
    if code != _ARRAY:
        raise ProtocolError(f"a message holds an unknown type {code}")
    start = 1 + data[0]
    name, shape = msgpack.unpackb(data[1:start])
    dtype = np.dtype(name)
    if dtype.kind not in "biuf" or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ProtocolError(f"a message holds an array of dtype {name!r} and shape {shape!r}")
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ProtocolError(f"an array of dtype {name} and shape {shape} cannot have {len(data) - start} bytes")
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)
