"""The guest: one environment that obeys requests on stdin and answers on stdout.

`python -m lerobot_ops.evaluation.worker` runs in a sandbox: it needs only the standard library, numpy, msgpack and the
benchmark. Requests are maps with an "op" (see `Session`); an answer is the op's map, or {"error": {type, message,
traceback}}, with the request's "id". It renders only what a request asks for. Whatever libraries print goes to stderr,
and a question that they ask on stdin meets its end. The worker ends with the stream, even in the middle of a step.
"""

import contextlib
import importlib.metadata
import os
import platform
import resource
import select
import sys
import threading
import traceback
from collections import deque
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lerobot_ops import envs
from lerobot_ops.errors import ConfigError, did_you_mean
from lerobot_ops.evaluation import protocol

Observation = dict[str, NDArray[Any]]


class Session:
    """The requests a worker answers: hello, then reset, then step or expert until done, then reset again.

    `cameras` and `observe` are lists of observation keys such as "observation.image". With `last` of n > 1 an
    observation is a window: every key has the values after the last n steps, oldest first, as (n, ...); those before
    the episode's first are copies of the first. Nothing is rendered but what a window shows, and nothing once the
    episode is over. `video` is None or {"every": n, "size": pixels}: a frame before the first action, after every n-th
    step of the episode and after the last one, gathered in "frames" as uint8 (f, size, size, 3).
    """

    def __init__(self) -> None:
        self._env: Any = None
        self._benchmark = ""
        self._renders = False
        self._step = 0
        self._done = True
        self._window: deque[Observation] = deque()
        self._noise = np.random.default_rng(0)

    def hello(self, benchmark: str, options: dict[str, Any], cameras: list[str], video: bool = False) -> dict[str, Any]:
        """Make the environment. With cameras or video, first check that this machine can render."""
        known = envs.benchmark(benchmark)
        self._renders = bool(cameras or video)
        render = known.prepare_rendering(self._renders)
        try:
            self._env = envs.make_env(benchmark, **options)
        except TypeError as error:
            raise ConfigError(f"{benchmark} does not take these options: {error}", found=options) from error
        self._benchmark = benchmark
        shown = [key for key, entry in self._env.features.items() if entry["dtype"] == "video"]
        for key in cameras:
            if key not in shown:
                fix = did_you_mean(key, shown)
                raise ConfigError(f"{benchmark} has no such camera", field="cameras", found=key, fix=fix)
        return {
            "protocol": protocol.VERSION,
            "fps": self._env.fps,
            "max_steps": self._env.max_steps,
            "action_dim": self._env.action_dim,
            "action_bounds": _bounds(self._env),
            "features": self._env.features,
            "versions": _versions(known.distributions),
            "render": render,
        }

    def reset(
        self,
        task: str,
        seed: int,
        number: int = 0,
        observe: list[str] | None = None,
        last: int = 1,
        video: dict[str, int] | None = None,
    ) -> dict[str, Any]:
        """Begin the episode of a task, a seed and a number.

        Answers {observation, init_state (index or None), instruction, max_steps of the task, frames, memory}; the last
        is the most that this process has used so far, in bytes.
        """
        init_state = self._env.reset(task, seed, number)
        self._step, self._done = 0, False
        self._noise = np.random.default_rng(seed)
        self._window = deque([self._observe(observe or [])] * last, maxlen=last)
        return {
            "observation": self._seen(),
            "init_state": init_state,
            # Of a repository's environment only the environment knows.
            "instruction": getattr(self._env, "instruction", "") or envs.instruction(self._benchmark, task),
            "max_steps": self._env.max_steps,
            "frames": self._render(video)[None] if video else None,
            "memory": _peak_memory(),
        }

    def step(
        self,
        actions: NDArray[np.float32],
        observe: list[str],
        last: int = 1,
        video: dict[str, int] | None = None,
    ) -> dict[str, Any]:
        """Play actions (k, action_dim) open loop until the first success or the limit.

        Answers {steps, rewards, success, done, observation, frames}; the observation is None once the episode is over.
        An episode's requests name the same cameras and the same `last`.
        """
        rewards: list[float] = []
        frames: list[NDArray[np.uint8]] = []
        success = False
        self._must_be_playing()
        if last != self._window.maxlen:
            raise protocol.ProtocolError(f"the episode began with windows of {self._window.maxlen}, not of {last}")
        for number, action in enumerate(actions, start=1):
            reward, success = self._play(action)
            rewards.append(reward)
            if video and (self._done or self._step % video["every"] == 0):
                frames.append(self._render(video))
            if self._done:
                break
            if len(actions) - number < last:
                self._window.append(self._observe(observe))
        return {
            "steps": len(rewards),
            "rewards": rewards,
            "success": success,
            "done": self._done,
            "observation": None if self._done else self._seen(),
            "frames": np.stack(frames) if frames else None,
        }

    def expert(self, steps: int, cameras: list[str], noise: float = 0.0) -> dict[str, Any]:
        """Let the scripted expert play up to `steps` steps.

        Answers {observations: {key: (k, ...)} before each action, actions (k, action_dim), rewards, successes, done}.
        `noise` is the standard deviation that is added to the expert's action, drawn from the episode's seed; an
        action is what was sent to the simulator, noise included, within its bounds.
        """
        self._must_be_playing()
        observations: dict[str, list[NDArray[Any]]] = {}
        actions: list[NDArray[np.float32]] = []
        rewards: list[float] = []
        successes: list[bool] = []
        while len(actions) < steps and not self._done:
            for key, value in self._observe(cameras).items():
                observations.setdefault(key, []).append(value)
            action = self._env.expert_action()
            if noise:
                shaken = action + noise * self._noise.standard_normal(action.shape)
                action = np.clip(shaken, -1, 1).astype(np.float32)
            reward, success = self._play(action)
            actions.append(action)
            rewards.append(reward)
            successes.append(success)
        return {
            "observations": {key: np.stack(values) for key, values in observations.items()},
            "actions": np.array(actions, dtype=np.float32).reshape(-1, self._env.action_dim),
            "rewards": rewards,
            "successes": successes,
            "done": self._done,
        }

    def close(self) -> dict[str, Any]:
        """Let go of the simulator."""
        if self._env is not None:
            self._env.close()
        return {}

    def _play(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        step = self._env.step(action)
        self._step += 1
        self._done = step.terminated or step.truncated
        return step.reward, step.success

    def _observe(self, cameras: list[str]) -> Observation:
        if cameras:
            self._must_render()
        observation: Observation = self._env.observe(cameras)
        return observation

    def _seen(self) -> Observation:
        """The window, or the one observation that it holds."""
        if len(self._window) == 1:
            return self._window[0]
        return {key: np.stack([seen[key] for seen in self._window]) for key in self._window[-1]}

    def _render(self, video: dict[str, int]) -> NDArray[np.uint8]:
        self._must_render()
        frame: NDArray[np.uint8] = self._env.render(video["size"])
        return frame

    def _must_render(self) -> None:
        if not self._renders:
            raise protocol.ProtocolError("nothing was to be rendered: name the cameras, or video, in hello")

    def _must_be_playing(self) -> None:
        if self._done:
            raise protocol.ProtocolError("no episode is being played: reset first")


def answer(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    """What a session answers to one request; whatever goes wrong becomes an answer too."""
    ops = {"hello", "reset", "step", "expert", "close"}
    try:
        arguments = dict(request)
        op = arguments.pop("op", None)
        if op not in ops:
            raise protocol.ProtocolError(f"a worker has no op {op!r}")
        reply: dict[str, Any] = getattr(session, op)(**arguments)
        return reply
    except Exception as error:
        return {
            "error": {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc(limit=-8)}
        }


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the stream ends or one of them is "close"."""
    session = Session()
    try:
        while (request := protocol.receive(requests)) is not None:
            number = request.pop("id", None)
            reply = {**answer(session, request), "id": number}
            try:
                protocol.send(replies, reply)
            except protocol.ProtocolError as error:
                too_much = {"type": "ProtocolError", "message": str(error), "traceback": ""}
                protocol.send(replies, {"error": too_much, "id": number})
            if request.get("op") == "close":
                break
    finally:
        session.close()


def main() -> None:
    """Serve on private copies of stdin and stdout, so that nothing else can read or write in between."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    with os.fdopen(requests, "rb") as incoming, os.fdopen(replies, "wb") as outgoing:
        serve(incoming, outgoing)


def _end_with(stream: int) -> None:
    """End this process when the host is gone, whatever the simulator is doing."""
    poller = select.poll()
    poller.register(stream, 0)
    poller.poll()
    os._exit(0)


def _peak_memory() -> int:
    """The most resident memory so far, in bytes."""
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    # It counts in bytes on macOS. On Linux it would include what the process that started this one had used.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _bounds(env: Any) -> NDArray[np.float64]:
    """The least and the greatest of every number of an action, (2, action_dim)."""
    bounds = [getattr(env, "action_low", -1.0), getattr(env, "action_high", 1.0)]
    return np.array([np.broadcast_to(bound, env.action_dim) for bound in bounds], np.float64)


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in distributions}
    return {"python": platform.python_version(), **found}


if __name__ == "__main__":
    main()
