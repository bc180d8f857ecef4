"""Settings of the SO-100 and SO-101 follower arms, and of a pair of them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lerobot_ops.cameras.registry import AnyCameraConfig
from lerobot_ops.config import Config
from lerobot_ops.robots.robot import Robot, RobotConfig

Positive = Annotated[float, Field(gt=0)]
PerMotor = Positive | dict[str, Positive] | None
"""One number for all motors, or one for each that is named (the others keep the default); none for no limit."""

_ARMS = ("left_arm_config", "right_arm_config")
DEFAULT_MAX_RELATIVE_TARGET = 25.0
DEFAULT_MAX_VELOCITY = 200.0


class SOArmConfig(Config):
    """What both kinds of arm, and each arm of a pair, can be told. Positions: degrees, and 0 to 100 of the gripper."""

    port: str
    """Serial device; `lerobot-ops find-port` finds it."""
    disable_torque_on_disconnect: bool = True
    """Otherwise the arm stays stiff where it is when it is disconnected, though not when it is stopped."""
    max_relative_target: PerMotor = DEFAULT_MAX_RELATIVE_TARGET
    """How far a goal may be from where a joint is; a farther one is brought nearer."""
    max_velocity: PerMotor = DEFAULT_MAX_VELOCITY
    """How fast a goal may move, per second; a faster one lags behind."""
    joint_limits: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Lowest and highest position of motors that may move less than their calibration says."""
    cameras: dict[str, AnyCameraConfig] = Field(default_factory=dict)
    """Cameras by name."""
    use_degrees: bool = True
    """Degrees from the middle of a joint's range; else -100 to 100 over its range."""
    position_p_coefficient: int = Field(default=16, ge=0, le=254)
    """Stiffness; the factory's 32 makes the arm shake."""
    position_i_coefficient: int = Field(default=0, ge=0, le=254)
    position_d_coefficient: int = Field(default=32, ge=0, le=254)
    num_read_retries: int = Field(default=2, ge=0)
    """How often a reading is repeated that the bus garbled, at once."""


class SOFollowerConfig(SOArmConfig, RobotConfig):
    """A follower arm."""

    def make(self) -> Robot:
        from lerobot_ops.robots.so_follower import SOFollower

        return SOFollower(self)


class SO100FollowerConfig(SOFollowerConfig):
    """SO-100."""

    type: Literal["so100_follower"] = "so100_follower"


class SO101FollowerConfig(SOFollowerConfig):
    """SO-101."""

    type: Literal["so101_follower"] = "so101_follower"


class BiSOFollowerConfig(RobotConfig):
    """Two follower arms. Keys of their joints and cameras begin with `left_` and `right_`; `cameras` are the pair's."""

    type: Literal["bi_so_follower"] = "bi_so_follower"
    left_arm_config: SOArmConfig
    right_arm_config: SOArmConfig

    def make(self) -> Robot:
        from lerobot_ops.robots.bi_so_follower import BiSOFollower

        return BiSOFollower(self)

    def without_cameras(self) -> Self:
        blind = {name: getattr(self, name).model_copy(update={"cameras": {}}) for name in _ARMS}
        return self.model_copy(update={**blind, "cameras": {}})

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        of_arms = {f"left_{name}" for name in self.left_arm_config.cameras}
        of_arms |= {f"right_{name}" for name in self.right_arm_config.cameras}
        if both := sorted(of_arms & set(self.cameras)):
            raise ValueError(f"a camera of the pair and one of an arm have the same key: {', '.join(both)}")
        return self
