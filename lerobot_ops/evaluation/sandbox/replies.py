"""What a worker may answer: every reply is checked here before anything of it is used.

A benchmark is a guest, and one that is broken or hostile must not cost more than the episode that it plays. So arrays
have the shape that the features say and the request asks for, numbers are finite, and texts are short and hold nothing
that a terminal would obey.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.evaluation import protocol
from lerobot_ops.evaluation.protocol import ProtocolError

Message = dict[str, Any]
MAX_TEXT = 4000
"""Characters of an instruction or of an error's message."""
_ROOM = 1 << 20
"""Bytes of a reply without its arrays."""
# Keys become columns and folders of datasets.
_KEY = re.compile(r"action|observation(\.[A-Za-z0-9_-]+)+")


def most_bytes(request: Message, info: Message) -> int:
    """How long the reply to a request may be; `info` is what the worker answered to hello, before that {}."""
    features = info.get("features", {})
    observation = sum(math.prod(entry["shape"]) * _dtype(entry).itemsize for entry in features.values())
    video = request.get("video")
    frame = 3 * video["size"] ** 2 if isinstance(video, dict) else 0
    shown = 1 + _steps(request)
    return min(_ROOM + max(shown, request.get("last", 1)) * observation + shown * frame, protocol.MAX_BYTES)


def checked(request: Message, reply: Message, info: Message) -> Message:
    """What of the reply answers the request; raises ProtocolError when it is no answer to it."""
    if "error" in reply:
        error = _map(reply, "error")
        return {"error": {key: legible(_text(error, key)) for key in ("type", "message", "traceback")}}
    return _ANSWERS[request["op"]](request, reply, info)


def legible(text: str, most: int = MAX_TEXT) -> str:
    """The last `most` characters of what a guest says, without what a terminal would obey."""
    cut = text if len(text) <= most else f"… {text[-most:]}"
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in cut)


def _hello(request: Message, reply: Message, info: Message) -> Message:
    if (version := _whole(reply, "protocol", 0, 1_000_000)) != protocol.VERSION:
        raise ProtocolError(f"it speaks version {version} of the protocol, not {protocol.VERSION}: build it again")
    versions, action_dim = _map(reply, "versions"), _whole(reply, "action_dim", 1, 4096)
    return {
        "protocol": version,
        "fps": _whole(reply, "fps", 1, 100_000),
        "max_steps": _whole(reply, "max_steps", 1, 10_000_000),
        "action_dim": action_dim,
        "action_bounds": _array("action_bounds", reply.get("action_bounds"), np.dtype("float64"), (2, action_dim)),
        "features": {key: _feature(key, entry) for key, entry in _map(reply, "features").items()},
        "versions": {legible(name, 100): legible(_text(versions, name), 100) for name in versions},
        "render": _plain("render", reply.get("render")),
    }


def _reset(request: Message, reply: Message, info: Message) -> Message:
    instruction = _text(reply, "instruction")
    if legible(instruction) != instruction:
        raise ProtocolError(f"its instruction is no line of text: {legible(instruction, 100)!r}")
    return {
        "observation": _observation(reply, "observation", info, request.get("observe") or (), _window(request)),
        "instruction": instruction,
        "init_state": None if reply.get("init_state") is None else _whole(reply, "init_state", 0, 10_000_000),
        "max_steps": _whole(reply, "max_steps", 1, 10_000_000),
        "memory": _whole(reply, "memory", 0, 1 << 50),
        "frames": _frames(reply, request, 1),
    }


def _step(request: Message, reply: Message, info: Message) -> Message:
    steps = _played(_whole(reply, "steps", 1, _steps(request)), request, reply)
    return {
        "steps": steps,
        "rewards": _numbers(reply, "rewards", steps),
        "success": _flag(reply, "success"),
        "done": reply["done"],
        "observation": (
            None if reply["done"] else _observation(reply, "observation", info, request["observe"], _window(request))
        ),
        "frames": _frames(reply, request, steps),
    }


def _expert(request: Message, reply: Message, info: Message) -> Message:
    rewards = reply.get("rewards")
    steps = _played(len(rewards) if isinstance(rewards, list) else 0, request, reply)
    successes = reply.get("successes")
    if not isinstance(successes, list) or [type(value) for value in successes] != [bool] * steps:
        raise ProtocolError(f"its successes are not {steps} times true or false: {_shown(successes)}")
    return {
        "rewards": _numbers(reply, "rewards", steps),
        "successes": successes,
        "done": reply["done"],
        "observations": _observation(reply, "observations", info, request["cameras"], (steps,)),
        "actions": _array("actions", reply.get("actions"), np.dtype("float32"), (steps, info["action_dim"])),
    }


_ANSWERS: dict[str, Callable[[Message, Message, Message], Message]] = {
    "hello": _hello,
    "reset": _reset,
    "step": _step,
    "expert": _expert,
    "close": lambda request, reply, info: {},
}


def _steps(request: Message) -> int:
    """How many steps a request asks for."""
    return len(request["actions"]) if "actions" in request else int(request.get("steps", 0))


def _window(request: Message) -> tuple[int, ...]:
    """The leading axis of the observations that a request asks for."""
    return (request["last"],) if request.get("last", 1) > 1 else ()


def _played(steps: int, request: Message, reply: Message) -> int:
    asked, done = _steps(request), _flag(reply, "done")
    if not 1 <= steps <= asked or (steps < asked and not done):
        raise ProtocolError(f"it played {steps} of {asked} steps, and the episode is {'' if done else 'not '}over")
    return steps


def _feature(key: str, entry: object) -> Message:
    if not _KEY.fullmatch(key):
        raise ProtocolError(f"it has a feature {legible(key, 100)!r}, which is not observation.NAME or action")
    if not isinstance(entry, dict):
        raise ProtocolError(f"its feature {key} is no entry with dtype, shape and names: {_shown(entry)}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 1 for side in shape):
        raise ProtocolError(f"its feature {key} has no shape: {_shown(shape)}")
    if math.prod(shape) * _dtype(entry).itemsize > protocol.MAX_BYTES // 4:
        raise ProtocolError(f"its feature {key} is too large for a message: {_shown(shape)}")
    return {"dtype": entry["dtype"], "shape": shape, "names": _plain("names", entry.get("names"))}


def _dtype(entry: Message) -> np.dtype[Any]:
    name = entry.get("dtype")
    if not isinstance(name, str):
        raise ProtocolError(f"it has a feature of dtype {_shown(name)}")
    if name in ("video", "image"):
        return np.dtype("uint8")
    if name in ("bool", "uint8", "int16", "int32", "int64", "float32", "float64"):
        return np.dtype(name)
    raise ProtocolError(f"it has a feature of dtype {_shown(name)}")


def _observation(
    reply: Message, key: str, info: Message, cameras: Sequence[str], lead: tuple[int, ...] = ()
) -> Message:
    """Every low-dimensional key and the cameras that were asked for, no more and no less; `lead` are leading axes."""
    found, features = _map(reply, key), info["features"]
    low = [name for name, entry in features.items() if name != "action" and entry["dtype"] not in ("video", "image")]
    wanted = {*low, *cameras}
    if found.keys() != wanted:
        names = ", ".join(sorted(legible(name, 100) for name in found.keys() ^ wanted)[:8])
        raise ProtocolError(f"its {key} lacks, or has too much: {names}")
    return {
        name: _array(name, found[name], _dtype(features[name]), (*lead, *features[name]["shape"])) for name in found
    }


def _frames(reply: Message, request: Message, most: int) -> NDArray[np.uint8] | None:
    frames, video = reply.get("frames"), request.get("video")
    if frames is None:
        return None
    if not video or not isinstance(frames, np.ndarray) or not frames.ndim or not 1 <= len(frames) <= most:
        raise ProtocolError(f"it sends frames that nobody asked for: {_shown(frames)}")
    return _array("frames", frames, np.dtype("uint8"), (len(frames), video["size"], video["size"], 3))


def _array(name: str, value: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
        raise ProtocolError(f"{name} is {_shown(value)}, not {dtype} {shape}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ProtocolError(f"{name} holds a number that is not finite")
    return value


def _numbers(reply: Message, key: str, count: int) -> list[float]:
    values = reply.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise ProtocolError(f"its {key} are not {count} numbers: {_shown(values)}")
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ProtocolError(f"its {key} are not all finite numbers: {_shown(values)}")
    return [float(value) for value in values]


def _whole(reply: Message, key: str, low: int, high: int) -> int:
    value = reply.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"its {key} is {_shown(value)}, not a whole number from {low} to {high}")
    return value


def _flag(reply: Message, key: str) -> bool:
    value = reply.get(key)
    if type(value) is not bool:
        raise ProtocolError(f"its {key} is {_shown(value)}, not true or false")
    return value


def _text(reply: Message, key: str) -> str:
    value = reply.get(key)
    if not isinstance(value, str):
        raise ProtocolError(f"its {key} is {_shown(value)}, not a text")
    return value


def _map(reply: Message, key: str) -> Message:
    value = reply.get(key)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ProtocolError(f"its {key} is {_shown(value)}, not a map of names")
    return value


def _plain(name: str, value: object) -> Any:
    """A value of lists, maps, texts and numbers, as JSON has them."""
    if isinstance(value, dict):
        return {legible(key, 100): _plain(name, inner) for key, inner in _map({name: value}, name).items()}
    if isinstance(value, list):
        return [_plain(name, inner) for inner in value]
    if isinstance(value, str):
        return legible(value, 100)
    if value is None or type(value) in (bool, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ProtocolError(f"its {name} holds {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, list | dict | str) and len(value) > 20:
        return f"a {type(value).__name__} of {len(value)}"
    return legible(repr(value), 100)
