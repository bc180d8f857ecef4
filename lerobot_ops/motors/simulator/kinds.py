"""The arms that can be simulated: their joints, ids, and what their stops make of a calibration."""

from collections.abc import Mapping

from lerobot_ops.errors import ConfigError, did_you_mean
from lerobot_ops.motors.motor import Motor, MotorCalibration, MotorNormMode
from lerobot_ops.motors.simulator.servo import Joint
from lerobot_ops.motors.tables import MODELS

_SO = (
    Joint("shoulder_pan", middle=1980, reach=1280),
    Joint("shoulder_lift", middle=2100, reach=1150, gravity=24),
    Joint("elbow_flex", middle=2050, reach=1100, gravity=14),
    Joint("wrist_flex", middle=2150, reach=1180, gravity=5),
    Joint("wrist_roll", middle=2040, reach=1900),
    Joint("gripper", middle=2300, reach=700),
)
_HAND = tuple(Joint(f"finger_{number}", model="scs0009", middle=512, reach=300) for number in range(1, 5))
KINDS: Mapping[str, tuple[Joint, ...]] = {"so100": _SO, "so101": _SO, "scs_hand": _HAND}
"""Kind of arm to its joints; the first has id 1."""
_WHOLE_TURN = frozenset({"wrist_roll"})
"""Joints that LeRobot calibrates to a whole turn."""


def joints(kind: str) -> tuple[Joint, ...]:
    """The joints of a kind of arm."""
    if kind not in KINDS:
        raise ConfigError("there is no such arm to simulate", found=kind, fix=did_you_mean(kind, KINDS))
    return KINDS[kind]


def motors(kind: str, mode: MotorNormMode = MotorNormMode.DEGREES) -> dict[str, Motor]:
    """The motors of a kind of arm for a bus; a gripper or finger is 0 to 100, every other joint in `mode`."""
    of_range = ("gripper", "finger")
    return {
        joint.name: Motor(number, joint.model, MotorNormMode.RANGE_0_100 if joint.name.startswith(of_range) else mode)
        for number, joint in enumerate(joints(kind), start=1)
    }


def calibration(kind: str) -> dict[str, MotorCalibration]:
    """What a careful operator's calibration of the arm says: the middle of each joint, and its stops."""
    return {joint.name: _entry(number, joint) for number, joint in enumerate(joints(kind), start=1)}


def _entry(number: int, joint: Joint) -> MotorCalibration:
    model = MODELS[joint.model]
    offset = round(joint.middle) - (model.resolution - 1) // 2 if model.protocol == 0 else 0
    if joint.reach is None or joint.name in _WHOLE_TURN:
        return MotorCalibration(number, 0, offset, 0, model.resolution - 1)
    middle = joint.middle - offset
    return MotorCalibration(number, 0, offset, round(middle - joint.reach), round(middle + joint.reach))
