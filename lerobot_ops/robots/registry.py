"""The kinds of robots that are known, and robots made of their configurations."""

from typing import TYPE_CHECKING

from lerobot_ops.robots.robot import Robot, RobotConfig
from lerobot_ops.robots.so_follower_config import BiSOFollowerConfig, SO100FollowerConfig, SO101FollowerConfig
from lerobot_ops.variants import Variants

ROBOTS: Variants[RobotConfig] = Variants(
    "robot",
    "lerobot_ops.robots",
    RobotConfig,
    {
        "so100_follower": SO100FollowerConfig,
        "so101_follower": SO101FollowerConfig,
        "bi_so_follower": BiSOFollowerConfig,
    },
)

if TYPE_CHECKING:
    AnyRobotConfig = RobotConfig
else:
    AnyRobotConfig = ROBOTS.annotation()
    """A field of this type holds any registered robot's configuration, chosen by its `type`."""


def make_robot(config: RobotConfig) -> Robot:
    """The robot of this configuration, not yet connected."""
    return config.make()
