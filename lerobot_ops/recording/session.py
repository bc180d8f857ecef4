"""What every session with a robot has: signals, an operator, a teleoperator and a guarded robot; all left safely."""

import contextlib
from collections.abc import Callable, Iterator

from lerobot_ops.errors import DeviceError
from lerobot_ops.recording.config import SessionConfig
from lerobot_ops.recording.display import displaying
from lerobot_ops.recording.frames import Moment
from lerobot_ops.recording.loop import Loop
from lerobot_ops.recording.operator import Operator
from lerobot_ops.recording.pace import settled
from lerobot_ops.recording.safety import GuardedRobot
from lerobot_ops.recording.signals import leaving_on_signals
from lerobot_ops.recording.sources import Pose
from lerobot_ops.robots.registry import make_robot
from lerobot_ops.teleoperators.registry import make_teleoperator
from lerobot_ops.teleoperators.teleoperator import Teleoperator, TeleoperatorConfig


@contextlib.contextmanager
def session(
    config: SessionConfig, operator: Operator, teleop: TeleoperatorConfig | None
) -> Iterator[tuple[GuardedRobot, Teleoperator | None, Callable[[Moment], None]]]:
    """A robot that is to be entered (`with robot:`), not yet connected, a connected teleoperator, and a display.

    Raises DeviceError when the teleoperator cannot be connected or is not calibrated.
    """
    leader = None if teleop is None else make_teleoperator(teleop)
    arm = GuardedRobot(
        make_robot(config.robot),
        config.safety,
        dry_run=config.dry_run,
        terminal=operator.terminal,
        beside=() if leader is None else leader.releases(),
    )
    with leaving_on_signals(), operator.session(arm.emergency), contextlib.ExitStack() as stack:
        if leader is not None:
            stack.callback(leader.disconnect)
            leader.connect(calibrate=False)
            if not leader.is_calibrated:
                named = f"--teleop.type={leader.config.type} --teleop.id={leader.config.id}"
                fix = f"lerobot-ops calibrate {named} --teleop.port=…"
                raise DeviceError("the teleoperator is not calibrated", field=leader.name, fix=fix)
        display = stack.enter_context(displaying(config.display_data))
        stack.enter_context(settled())
        yield arm, leader, display


def at_rest(loop: Loop) -> None:
    """Take the rest pose slowly, if there is one."""
    rest = loop.arm.config.rest
    if rest is not None:
        keys = list(loop.arm.robot.action_features)
        loop.run(Pose(rest, keys), "moving", about=lambda: {"task": "to the rest pose"})
