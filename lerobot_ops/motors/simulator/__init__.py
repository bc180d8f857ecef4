"""Arms for those who have none: simulated servos behind a real serial port, with faults to be switched on."""

from lerobot_ops.motors.simulator.arm import SimulatedArm, simulate
from lerobot_ops.motors.simulator.faults import Fault

__all__ = ["Fault", "SimulatedArm", "simulate"]
