"""The keyboard of any terminal: joint targets for an arm without a leader, or LeRobot's end-effector deltas."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Literal, Self

from pydantic import Field, model_validator

from lerobot_ops.errors import DeviceError
from lerobot_ops.keys import Keys, listening
from lerobot_ops.teleoperators.end_effector import EndEffectorConfig, EndEffectorJog
from lerobot_ops.teleoperators.jogging import Clock, Jog, Joint, so_arm_joints
from lerobot_ops.teleoperators.teleoperator import Teleoperator, TeleoperatorConfig, TeleopEvents

HELD_S = 0.15
"""A terminal repeats a held key at 10 Hz or more: so long after a press it still counts as held."""
CLOSE, STAY, OPEN = 0.0, 1.0, 2.0
DELTAS = {
    "w": ("delta_y", -1.0),
    "s": ("delta_y", 1.0),
    "a": ("delta_x", 1.0),
    "d": ("delta_x", -1.0),
    "i": ("delta_z", 1.0),
    "k": ("delta_z", -1.0),
    "o": ("gripper", OPEN),
    "c": ("gripper", CLOSE),
}
"""Directions as LeRobot's arrows and Shift have them; letters, because arrows belong to the session."""


class KeyboardConfig(TeleoperatorConfig):
    """Joint targets: every press moves one joint by a step."""

    type: Literal["keyboard"] = "keyboard"
    joints: dict[str, Joint] = Field(default_factory=so_arm_joints)
    """Per action key the keys that move it."""

    def make(self) -> Teleoperator:
        return Keyboard(self)

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        keys = [key for joint in self.joints.values() for key in (joint.less, joint.more)]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"joints: used more than once: {', '.join(twice)}")
        return self


class KeyboardEEConfig(TeleoperatorConfig):
    """End-effector deltas, each -1, 0 or 1, and a gripper that is 0 (close), 1 (stay) or 2 (open).

    With `end_effector` the joint targets that move an arm so.
    """

    type: Literal["keyboard_ee"] = "keyboard_ee"
    use_gripper: bool = True
    end_effector: EndEffectorConfig | None = None
    """The arm, if it takes joint targets."""

    def make(self) -> Teleoperator:
        return KeyboardEE(self)


class _Listener(Teleoperator):
    """Listens to the terminal between `connect` and `disconnect`."""

    def __init__(self, config: TeleoperatorConfig) -> None:
        super().__init__(config)
        self._listening: ExitStack | None = None
        self.keys = Keys()

    @property
    def is_connected(self) -> bool:
        return self._listening is not None

    def connect(self, calibrate: bool = True) -> None:
        stack = ExitStack()
        stack.enter_context(listening(self.keys))
        self._listening = stack

    def disconnect(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def _pressed(self) -> list[str]:
        if self._listening is None:
            raise DeviceError(f"the {self.name} teleoperator is not connected", fix="call connect() first")
        return self.keys.pressed()


class Keyboard(_Listener):
    """Joint targets that begin where the robot is."""

    name = "keyboard"
    config: KeyboardConfig

    def __init__(self, config: KeyboardConfig) -> None:
        super().__init__(config)
        self._jog = Jog(tuple(config.joints))
        self._moves = {joint.less: (key, -joint.step) for key, joint in config.joints.items()}
        self._moves |= {joint.more: (key, joint.step) for key, joint in config.joints.items()}
        self._moved_at = float("-inf")

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self.config.joints, float)

    def begin(self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> None:
        self._jog.begin(position, limits)

    def get_action(self) -> dict[str, float]:
        for name in self._pressed():
            if name in self._moves:
                self._jog.move(*self._moves[name])
                self._moved_at = time.perf_counter()
        return self._jog.targets()

    def get_teleop_events(self) -> TeleopEvents:
        """The operator intervenes while a key is held."""
        return TeleopEvents(is_intervention=time.perf_counter() - self._moved_at < HELD_S)


class KeyboardEE(_Listener):
    """Deltas of the keys that are held."""

    name = "keyboard_ee"
    config: KeyboardEEConfig

    def __init__(self, config: KeyboardEEConfig) -> None:
        super().__init__(config)
        self._pressed_at: dict[str, float] = {}
        arm = config.end_effector
        self._jog = None if arm is None else EndEffectorJog(arm, gripper=config.use_gripper)
        self._clock = Clock()
        names = ("delta_x", "delta_y", "delta_z", "gripper")
        self._deltas = names if config.use_gripper else names[:3]

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._deltas if self._jog is None else self._jog.keys, float)

    def begin(self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> None:
        if self._jog is not None:
            self._jog.begin(position, limits)
        self._clock.begin()

    def get_action(self) -> dict[str, float]:
        self._listen()
        held = {"gripper": STAY} | dict([DELTAS[name] for name in self._held()])
        deltas = {key: held.get(key, 0.0) for key in self._deltas}
        if self._jog is None:
            return deltas
        # LeRobot's arrow that points ahead is -y, and the left one x.
        forward, left, up = -deltas["delta_y"], deltas["delta_x"], deltas["delta_z"]
        self._jog.move(forward, left, up, held["gripper"] - STAY, self._clock.elapsed())
        return self._jog.targets()

    def get_teleop_events(self) -> TeleopEvents:
        """The operator intervenes while a key is held; LeRobot's letters s, r and q belong to the session here."""
        self._listen()
        return TeleopEvents(is_intervention=bool(self._held()))

    def _listen(self) -> None:
        now = time.perf_counter()
        self._pressed_at |= {name: now for name in self._pressed() if name in DELTAS}

    def _held(self) -> list[str]:
        now = time.perf_counter()
        held = [name for name, at in self._pressed_at.items() if now - at < HELD_S]
        return sorted(held, key=lambda name: self._pressed_at[name])
