"""What a motor on a bus is: its id, its model, in which unit its position is said, and how it is calibrated."""

from dataclasses import dataclass
from enum import StrEnum


class MotorNormMode(StrEnum):
    """The unit of a motor's position; LeRobot's names and values."""

    RANGE_0_100 = "range_0_100"
    """0 at one end of the calibrated range, 100 at the other: a gripper."""
    RANGE_M100_100 = "range_m100_100"
    """-100 at one end of the calibrated range, 100 at the other."""
    DEGREES = "degrees"
    """Degrees from the middle of the calibrated range."""


@dataclass(frozen=True)
class Motor:
    """One motor on a bus."""

    id: int
    """0 to 252, no two alike on a bus."""
    model: str
    """A key of `tables.MODELS`, such as "sts3215"."""
    norm_mode: MotorNormMode


@dataclass(frozen=True)
class MotorCalibration:
    """What a calibration says of one motor, in LeRobot's fields; positions in steps of the encoder."""

    id: int
    drive_mode: int
    """1 where the normalised position runs against the encoder."""
    homing_offset: int
    """What the motor subtracts from its encoder, so that the middle of the joint reads as the middle of a turn."""
    range_min: int
    range_max: int
