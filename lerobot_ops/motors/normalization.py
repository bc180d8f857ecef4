"""Positions of the encoder as numbers that mean the same on every arm, and back; LeRobot's formulas to the last bit."""

from lerobot_ops.motors.motor import MotorCalibration, MotorNormMode


def normalize(position: int, mode: MotorNormMode, calibration: MotorCalibration, resolution: int) -> float:
    """Steps of the encoder to the unit of `mode`; percentages are clamped to the calibrated range, degrees are not."""
    low, high = calibration.range_min, calibration.range_max
    if mode is MotorNormMode.DEGREES:
        return (position - (low + high) / 2) * 360 / (resolution - 1)
    inside = min(high, max(low, position))
    if mode is MotorNormMode.RANGE_0_100:
        part = (inside - low) / (high - low) * 100
        return 100 - part if calibration.drive_mode else part
    part = (inside - low) / (high - low) * 200 - 100
    return -part if calibration.drive_mode else part


def unnormalize(value: float, mode: MotorNormMode, calibration: MotorCalibration, resolution: int) -> int:
    """A value in the unit of `mode` to steps of the encoder, cut towards zero as LeRobot cuts it."""
    low, high = calibration.range_min, calibration.range_max
    if mode is MotorNormMode.DEGREES:
        return int(value * (resolution - 1) / 360 + (low + high) / 2)
    if mode is MotorNormMode.RANGE_0_100:
        value = 100 - value if calibration.drive_mode else value
        return int(min(100.0, max(0.0, value)) / 100 * (high - low) + low)
    value = -value if calibration.drive_mode else value
    return int((min(100.0, max(-100.0, value)) + 100) / 200 * (high - low) + low)
