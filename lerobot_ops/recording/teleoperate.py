"""Lead a robot with a teleoperator, and store nothing."""

from lerobot_ops.recording.config import TeleoperateConfig
from lerobot_ops.recording.frames import Processors
from lerobot_ops.recording.loop import Loop
from lerobot_ops.recording.operator import Operator
from lerobot_ops.recording.pace import Timing
from lerobot_ops.recording.session import at_rest, session
from lerobot_ops.recording.sources import Teleoperation


def teleoperate(
    config: TeleoperateConfig, operator: Operator | None = None, *, processors: Processors | None = None
) -> Timing:
    """Lead until `config.teleop_time_s` is over or the operator stops; how punctual the loop was.

    Raises DeviceError when a device fails or the operator stops the robot, ConfigError when the two do not belong
    together; the robot's torque is off whatever happens.
    """
    operator, processors = operator or Operator(), processors or Processors()
    with session(config, operator, config.teleop) as (arm, teleop, display), arm:
        assert teleop is not None
        loop = Loop(arm, operator, config.fps, processors, display)
        source = Teleoperation(teleop, arm.robot, processors)
        at_rest(loop)
        outcome = loop.run(source, "teleoperating", seconds=config.teleop_time_s)
        at_rest(loop)
    return outcome.timing
