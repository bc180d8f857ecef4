"""Settings of the SO-100 and SO-101 leader arms, and of a pair of them."""

from typing import Literal

from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.teleoperators.teleoperator import Teleoperator, TeleoperatorConfig


class SOLeaderArmConfig(Config):
    """What both kinds of arm, and each arm of a pair, can be told."""

    port: str
    """Serial device; `lerobot-ops find-port` finds it."""
    use_degrees: bool = True
    """Degrees from the middle of a joint's range; else -100 to 100 over its range. As the follower's."""
    num_read_retries: int = Field(default=2, ge=0)
    """How often a reading is repeated that the bus garbled, at once."""


class SOLeaderConfig(SOLeaderArmConfig, TeleoperatorConfig):
    """A leader arm."""

    def make(self) -> Teleoperator:
        from lerobot_ops.teleoperators.so_leader import SOLeader

        return SOLeader(self)


class SO100LeaderConfig(SOLeaderConfig):
    """SO-100."""

    type: Literal["so100_leader"] = "so100_leader"


class SO101LeaderConfig(SOLeaderConfig):
    """SO-101."""

    type: Literal["so101_leader"] = "so101_leader"


class BiSOLeaderConfig(TeleoperatorConfig):
    """Two leader arms; keys begin with `left_` and `right_`."""

    type: Literal["bi_so_leader"] = "bi_so_leader"
    left_arm_config: SOLeaderArmConfig
    right_arm_config: SOLeaderArmConfig

    def make(self) -> Teleoperator:
        from lerobot_ops.teleoperators.bi_so_leader import BiSOLeader

        return BiSOLeader(self)
