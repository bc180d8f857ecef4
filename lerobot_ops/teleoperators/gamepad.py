"""A gamepad: LeRobot's end-effector deltas, or joint targets for an arm without a leader; no window is needed."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from lerobot_ops.errors import DeviceError, PrerequisiteError
from lerobot_ops.teleoperators.end_effector import EndEffectorConfig, EndEffectorJog
from lerobot_ops.teleoperators.jogging import Clock, Jog
from lerobot_ops.teleoperators.keyboard import CLOSE, OPEN, STAY
from lerobot_ops.teleoperators.teleoperator import Teleoperator, TeleoperatorConfig, TeleopEvents

FULL = 32767
# SDL's numbers of axes and buttons, equal for every pad that it knows.
LEFT_X, LEFT_Y, RIGHT_X, RIGHT_Y, LEFT_TRIGGER, RIGHT_TRIGGER = range(6)
A, X, Y, RIGHT_SHOULDER, UP, DOWN = 0, 2, 3, 10, 11, 12
PRESSED = 0.5
DIRECTIONS = {
    "delta_x": (LEFT_Y, -1.0),
    "delta_y": (LEFT_X, -1.0),
    "delta_z": (RIGHT_Y, -1.0),
}


def so_arm_speeds() -> dict[str, float]:
    """Of the six motors of an SO arm, at full deflection, per second."""
    return {
        "shoulder_pan.pos": 60.0,
        "shoulder_lift.pos": -60.0,
        "elbow_flex.pos": 60.0,
        "wrist_flex.pos": 60.0,
        "wrist_roll.pos": 90.0,
        "gripper.pos": 100.0,
    }


class GamepadConfig(TeleoperatorConfig):
    """Sticks: x, y, and z; triggers: gripper; right shoulder: intervention; Y: success, A: failure, X: redo.

    In the mode joints the sticks move shoulder_pan, shoulder_lift, wrist_roll and elbow_flex, the cross wrist_flex.
    """

    type: Literal["gamepad"] = "gamepad"
    use_gripper: bool = True
    index: int = Field(default=0, ge=0)
    """Which gamepad, where there are several."""
    deadzone: float = Field(default=0.1, ge=0, lt=1)
    """Deflections of a stick that count as none."""
    mode: Literal["ee", "joints"] = "ee"
    """End-effector deltas, each in -1 to 1, or joint targets that begin where the robot is."""
    end_effector: EndEffectorConfig | None = None
    """In the mode ee: the arm, if it takes joint targets."""
    speeds: dict[str, float] = Field(default_factory=so_arm_speeds)
    """Of the joints, per second at full deflection; in the order left x, left y, right y, cross, right x, triggers."""

    def make(self) -> Teleoperator:
        return Gamepad(self)


class Gamepad(Teleoperator):
    """Reads the events of one pad; raises DeviceError once it is unplugged."""

    name = "gamepad"
    config: GamepadConfig

    def __init__(self, config: GamepadConfig) -> None:
        super().__init__(config)
        self._pygame: Any = None
        self._controller: Any = None
        self._pad = Pad(config.deadzone)
        self._jog = Jog(tuple(config.speeds)) if config.mode == "joints" else None
        self._arm = _arm(config)
        self._clock = Clock()

    @property
    def action_features(self) -> dict[str, type]:
        if moved := self._jog or self._arm:
            return dict.fromkeys(moved.keys, float)
        return dict.fromkeys([*DIRECTIONS, *(["gripper"] if self.config.use_gripper else [])], float)

    @property
    def is_connected(self) -> bool:
        return self._pygame is not None

    def connect(self, calibrate: bool = True) -> None:
        pygame, controller = _pygame()
        pygame.display.init()
        controller.init()
        found = controller.get_count()
        if found <= self.config.index or not controller.is_controller(self.config.index):
            controller.quit()
            pygame.display.quit()
            raise DeviceError(
                "there is no such gamepad",
                field="index",
                found=f"{found} of them",
                fix="plug it in or pair it; on Linux /dev/input/js0 must be readable (group input)",
            )
        self._controller = controller.Controller(self.config.index)
        self._pygame = pygame
        self._clock.begin()

    def begin(self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> None:
        if moved := self._jog or self._arm:
            moved.begin(position, limits)
        self._clock.begin()

    def get_action(self) -> dict[str, float]:
        self._listen()
        if self._jog is not None:
            return self._joints(self._jog)
        if self._arm is not None:
            forward, left, up = (sign * self._pad.axis(number) for number, sign in DIRECTIONS.values())
            self._arm.move(forward, left, up, self._pad.grip, self._clock.elapsed())
            return self._arm.targets()
        action = {key: sign * self._pad.axis(number) for key, (number, sign) in DIRECTIONS.items()}
        if self.config.use_gripper:
            grip = self._pad.grip
            action["gripper"] = OPEN if grip > PRESSED else CLOSE if grip < -PRESSED else STAY
        return action

    def get_teleop_events(self) -> TeleopEvents:
        """What was pressed since the last call."""
        self._listen()
        pressed = self._pad.newly_pressed()
        return TeleopEvents(
            is_intervention=self._pad.holds(RIGHT_SHOULDER),
            terminate_episode=bool(pressed & {A, X}),
            success=Y in pressed,
            rerecord_episode=X in pressed,
        )

    def disconnect(self) -> None:
        if self._pygame is not None:
            self._controller.quit()
            self._pygame.display.quit()
            self._pygame = self._controller = None

    def _listen(self) -> None:
        if self._pygame is None:
            raise DeviceError("the gamepad is not connected", fix="call connect() first")
        self._pad.take(self._pygame, self._pygame.event.get())

    def _joints(self, jog: Jog) -> dict[str, float]:
        seconds = self._clock.elapsed()
        for (key, speed), deflection in zip(self.config.speeds.items(), self._pad.deflections(), strict=False):
            jog.move(key, speed * deflection * seconds)
        return jog.targets()


class Pad:
    """Where the sticks of one pad are, and which of its buttons are held."""

    def __init__(self, deadzone: float) -> None:
        self._deadzone = deadzone
        self._axes: dict[int, float] = {}
        self._held: set[int] = set()
        self._new: set[int] = set()

    def take(self, pygame: Any, events: Iterable[Any]) -> None:
        """Follow pygame's events; raises DeviceError when the pad was unplugged."""
        for event in events:
            if event.type == pygame.CONTROLLERAXISMOTION:
                self._axes[event.axis] = max(-1.0, event.value / FULL)
            elif event.type == pygame.CONTROLLERBUTTONDOWN:
                self._held.add(event.button)
                self._new.add(event.button)
            elif event.type == pygame.CONTROLLERBUTTONUP:
                self._held.discard(event.button)
            elif event.type == pygame.CONTROLLERDEVICEREMOVED:
                self._axes, self._held = {}, set()
                raise DeviceError("the gamepad is gone", fix="plug it in or charge it, and connect again")

    def axis(self, number: int) -> float:
        """Deflection in -1 to 1."""
        value = self._axes.get(number, 0.0)
        return 0.0 if abs(value) < self._deadzone else value

    @property
    def grip(self) -> float:
        """-1 close (right trigger) to 1 open (left trigger)."""
        return self.axis(LEFT_TRIGGER) - self.axis(RIGHT_TRIGGER)

    def deflections(self) -> tuple[float, ...]:
        """Of left x, left y, right y, cross, right x and triggers."""
        cross = float(self.holds(UP)) - float(self.holds(DOWN))
        sticks = [self.axis(number) for number in (LEFT_X, LEFT_Y, RIGHT_Y, RIGHT_X)]
        return (*sticks[:3], cross, sticks[3], self.grip)

    def holds(self, button: int) -> bool:
        return button in self._held

    def newly_pressed(self) -> set[int]:
        """Buttons pressed since the last call."""
        new, self._new = self._new, set()
        return new


def _arm(config: GamepadConfig) -> EndEffectorJog | None:
    if config.mode == "joints" or config.end_effector is None:
        return None
    return EndEffectorJog(config.end_effector, gripper=config.use_gripper)


def _pygame() -> tuple[Any, Any]:
    # Before SDL starts: no window, events without focus, and signals stay with those who make the arm safe.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
        from pygame._sdl2 import controller
    except ImportError:
        raise PrerequisiteError("pygame is not installed", fix="pip install 'lerobot-ops[hardware]'") from None
    return pygame, controller
