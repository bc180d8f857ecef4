"""The safety settings of the loop, each with its default; to allow more, name the setting and give another value.

How far and how fast a joint may move is the robot's own setting (`robot.max_relative_target`, `robot.max_velocity`,
`robot.joint_limits`).
"""

from pydantic import Field

from lerobot_ops.config import Config


class SafetyConfig(Config):
    """What stops or slows a robot; null switches a guard off. Positions are in the robot's own units."""

    start_velocity: float | None = Field(default=45.0, gt=0)
    """How fast goals may move until the robot has caught up with whoever begins to lead it, per second."""
    caught_up_within: float = Field(default=2.0, gt=0)
    """How near the goal must be to what is wanted for that."""
    rest: dict[str, float] | None = None
    """The pose that is taken slowly before the start and at a normal end; null stays where it is."""
    max_temperature: float | None = 60.0
    """Degrees Celsius of any motor."""
    max_current: float | None = 1800.0
    """mA of any motor, in `readings` readings in a row."""
    min_voltage: float | None = 4.5
    """Volts; servos lose their strength, and some their position, below."""
    max_voltage: float | None = 13.5
    readings: int = Field(default=3, ge=1)
    """A current may be too high in fewer readings in a row than this."""
    stop_on_alarms: bool = True
    """A motor that complains (overload, overheating, ...) ends the session; otherwise it protects itself alone."""
    status_interval_s: float | None = Field(default=0.1, gt=0)
    """Seconds between readings of temperature, current and voltage."""
    max_camera_age_ms: float | None = Field(default=200.0, gt=0)
    """A camera without a new picture for so long ends the recording."""
    watchdog: bool = True
    """A second process takes the torque off when this one is killed, stopped or stuck."""
    watchdog_ms: float = Field(default=80.0, ge=20)
    """How long this process or its loop may stand still."""
