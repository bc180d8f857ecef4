"""The kinds of teleoperators that are known, and teleoperators made of their configurations."""

from typing import TYPE_CHECKING

from lerobot_ops.teleoperators.gamepad import GamepadConfig
from lerobot_ops.teleoperators.keyboard import KeyboardConfig, KeyboardEEConfig
from lerobot_ops.teleoperators.scripted import ScriptedConfig
from lerobot_ops.teleoperators.so_leader_config import BiSOLeaderConfig, SO100LeaderConfig, SO101LeaderConfig
from lerobot_ops.teleoperators.teleoperator import Teleoperator, TeleoperatorConfig
from lerobot_ops.variants import Variants

TELEOPERATORS: Variants[TeleoperatorConfig] = Variants(
    "teleoperator",
    "lerobot_ops.teleoperators",
    TeleoperatorConfig,
    {
        "so100_leader": SO100LeaderConfig,
        "so101_leader": SO101LeaderConfig,
        "bi_so_leader": BiSOLeaderConfig,
        "keyboard": KeyboardConfig,
        "keyboard_ee": KeyboardEEConfig,
        "gamepad": GamepadConfig,
        "scripted": ScriptedConfig,
    },
)

if TYPE_CHECKING:
    AnyTeleoperatorConfig = TeleoperatorConfig
else:
    AnyTeleoperatorConfig = TELEOPERATORS.annotation()
    """A field of this type holds any registered teleoperator's configuration, chosen by its `type`."""


def make_teleoperator(config: TeleoperatorConfig) -> Teleoperator:
    """The teleoperator of this configuration, not yet connected."""
    return config.make()
