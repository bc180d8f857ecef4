"""The SO-100 and SO-101 leader arms: a person moves one, and its joints are the action."""

from collections.abc import Mapping, Sequence

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.feetech import OperatingMode
from lerobot_ops.motors.release import Release
from lerobot_ops.motors.so_arm import MOTORS, SOArm
from lerobot_ops.teleoperators.so_leader_config import SOLeaderConfig
from lerobot_ops.teleoperators.teleoperator import Teleoperator


class SOLeader(Teleoperator):
    """One leader arm. It is limp, until `send_feedback` moves it to where the follower is."""

    name = "so_leader"
    config: SOLeaderConfig

    def __init__(self, config: SOLeaderConfig) -> None:
        super().__init__(config)
        self._arm = SOArm(
            config.port,
            folder="teleoperators",
            kind=self.name,
            id=config.id,
            calibration_dir=config.calibration_dir,
            use_degrees=config.use_degrees,
            retries=config.num_read_retries,
        )
        self.bus = self._arm.bus
        self._holds = False

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._arm.keys, float)

    @property
    def feedback_features(self) -> dict[str, type]:
        return self.action_features

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected

    def connect(self, calibrate: bool = True) -> None:
        self._arm.connect(calibrate)
        try:
            self.configure()
        except BaseException:
            self.disconnect()
            raise

    @property
    def is_calibrated(self) -> bool:
        return self.bus.is_calibrated

    def calibrate(self) -> None:
        self._arm.calibrate()

    def setup_motors(self) -> None:
        self._arm.setup_motors()

    def configure(self) -> None:
        with self._arm.patient():
            self.disable_torque()
            self.bus.configure_motors()
            self._arm.set("Operating_Mode", dict.fromkeys(MOTORS, int(OperatingMode.POSITION)))

    def begin(self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> None:
        """Give the arm into the operator's hands: it is where the follower is, if it was moved there."""
        if self._holds:
            self.disable_torque()

    def get_action(self) -> dict[str, float]:
        return self._arm.positions()

    def send_feedback(self, feedback: dict[str, float]) -> None:
        """Move the leader to `feedback`, the follower's positions; it stays stiff until `disable_torque`."""
        limits = self._arm.limits
        goals = {}
        for key, value in feedback.items():
            if key in limits:
                low, high = limits[key]
                goals[key.removesuffix(".pos")] = min(max(value, low), high)
        if not goals:
            raise DeviceError(
                "nothing that a leader arm can feel", found=", ".join(feedback), expected=", ".join(self._arm.keys)
            )
        if not self._holds:  # an old goal in the motors must not make the arm leap
            present = self.bus.sync_read("Present_Position", num_retry=self._arm.retries)
            self.bus.sync_write("Goal_Position", present)
            self.enable_torque()
        self.bus.sync_write("Goal_Position", goals)

    def releases(self) -> Sequence[Release]:
        return [self._arm.release]

    def enable_torque(self) -> None:
        """Make the arm stiff, where it is."""
        self.bus.enable_torque(num_retry=self._arm.retries)
        self._holds = True

    def disable_torque(self) -> None:
        """Give the arm into the operator's hands."""
        self.bus.disable_torque(num_retry=self._arm.retries)
        self._holds = False

    def disconnect(self) -> None:
        self._holds = False
        if self.bus.is_connected:
            self.bus.disconnect()
