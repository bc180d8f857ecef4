"""Messages between a worker and its host."""

import io
import pickle

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lerobot_ops.evaluation import protocol
from lerobot_ops.evaluation.protocol import ProtocolError

DTYPES = st.sampled_from(["u1", "i2", "<i8", ">i4", "<f4", ">f8", "f2", "?"]).map(np.dtype)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
ARRAYS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0)))
MESSAGES = st.dictionaries(
    st.text(max_size=8),
    st.recursive(PLAIN | ARRAYS, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
    max_size=4,
)


@given(MESSAGES)
def test_a_message_arrives_as_it_was_sent(message):
    stream = io.BytesIO()
    protocol.send(stream, message)
    protocol.send(stream, {"then": "another"})
    stream.seek(0)
    assert_same(protocol.receive(stream), message)
    assert protocol.receive(stream) == {"then": "another"}
    assert protocol.receive(stream) is None


def test_an_array_arrives_as_a_view_of_the_message():
    image = np.arange(480 * 480 * 3, dtype=np.uint8).reshape(480, 480, 3)
    got = protocol.decode(protocol.encode({"image": image[::-1]})[protocol.HEADER :])["image"]
    assert not got.flags.owndata
    np.testing.assert_array_equal(got, image[::-1])


@given(st.binary(max_size=64))
def test_garbage_is_refused_and_never_crashes(body):
    try:
        message = protocol.decode(body)
    except ProtocolError:
        return
    assert isinstance(message, dict)


@pytest.mark.parametrize(
    "head",
    [["O", [1]], ["<f4", [-1]], ["<f4", [2**62, 4]], ["<f4", [3]], ["V8", [1]], ["<f4"], "nonsense", ["<f4", None]],
)
def test_an_array_that_lies_about_itself_is_refused(head):
    packed = msgpack.packb(head)
    body = msgpack.packb({"array": msgpack.ExtType(1, bytes([len(packed)]) + packed + bytes(8))})
    with pytest.raises(ProtocolError):
        protocol.decode(body)


def test_nothing_is_unpickled():
    with pytest.raises(ProtocolError):
        protocol.decode(msgpack.packb({"object": msgpack.ExtType(2, pickle.dumps(print))}))
    with pytest.raises(ProtocolError, match="has no place in a message"):
        protocol.encode({"objects": np.array([print], dtype=object)})
    with pytest.raises(ProtocolError, match="has no place in a message"):
        protocol.encode({"object": print})


def test_something_else_on_the_stream_is_noticed():
    with pytest.raises(ProtocolError, match="the stream holds something else"):
        protocol.receive(io.BytesIO(b"Gym has been unmaintained since 2022"))
    with pytest.raises(ProtocolError, match="ended after 3 of 9 bytes"):
        protocol.receive(io.BytesIO(b"\0\0\0\x09abc"))


def test_a_message_over_the_limit_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_BYTES", 1000)
    with pytest.raises(ProtocolError, match="ask for fewer steps"):
        protocol.encode({"frames": np.zeros(1000, dtype=np.uint8)})
    with pytest.raises(ProtocolError):
        protocol.body_length((1001).to_bytes(4, "big"))


def assert_same(got, sent):
    if isinstance(sent, np.ndarray):
        assert (got.dtype.kind, got.dtype.itemsize, got.shape) == (sent.dtype.kind, sent.dtype.itemsize, sent.shape)
        np.testing.assert_array_equal(got, sent)
    elif isinstance(sent, dict):
        assert list(got) == list(sent)
        for key, value in sent.items():
            assert_same(got[key], value)
    elif isinstance(sent, list):
        assert len(got) == len(sent)
        for one, other in zip(got, sent, strict=True):
            assert_same(one, other)
    else:
        assert got == sent
        assert type(got) is type(sent)
