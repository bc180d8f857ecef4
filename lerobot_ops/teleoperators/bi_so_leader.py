"""Two SO leader arms as one teleoperator."""

import contextlib
from collections.abc import Mapping, Sequence

from lerobot_ops.errors import DeviceError
from lerobot_ops.motors.release import Release
from lerobot_ops.motors.so_arm import of_side, with_side
from lerobot_ops.teleoperators.so_leader import SOLeader
from lerobot_ops.teleoperators.so_leader_config import BiSOLeaderConfig, SO101LeaderConfig
from lerobot_ops.teleoperators.teleoperator import Teleoperator


class BiSOLeader(Teleoperator):
    """A left and a right arm; the calibrations are those of single arms with the ids `ID_left` and `ID_right`."""

    name = "bi_so_leader"
    config: BiSOLeaderConfig

    def __init__(self, config: BiSOLeaderConfig) -> None:
        super().__init__(config)
        settings = {"left": config.left_arm_config, "right": config.right_arm_config}
        self.arms = {
            side: SOLeader(
                SO101LeaderConfig(
                    id=f"{config.id}_{side}" if config.id else None,
                    calibration_dir=config.calibration_dir,
                    **arm.model_dump(),
                )
            )
            for side, arm in settings.items()
        }

    @property
    def action_features(self) -> dict[str, type]:
        return {
            key: kind for side, arm in self.arms.items() for key, kind in with_side(side, arm.action_features).items()
        }

    @property
    def feedback_features(self) -> dict[str, type]:
        return self.action_features

    @property
    def is_connected(self) -> bool:
        return all(arm.is_connected for arm in self.arms.values())

    def connect(self, calibrate: bool = True) -> None:
        if self.is_connected:
            raise DeviceError("the arms are connected already")
        try:
            for arm in self.arms.values():
                arm.connect(calibrate)
        except BaseException:
            self.disconnect()
            raise

    @property
    def is_calibrated(self) -> bool:
        return all(arm.is_calibrated for arm in self.arms.values())

    def calibrate(self) -> None:
        for arm in self.arms.values():
            arm.calibrate()

    def setup_motors(self) -> None:
        for arm in self.arms.values():
            arm.setup_motors()

    def configure(self) -> None:
        for arm in self.arms.values():
            arm.configure()

    def begin(self, position: Mapping[str, float], limits: Mapping[str, tuple[float, float]]) -> None:
        for side, arm in self.arms.items():
            arm.begin(of_side(side, position), of_side(side, limits))

    def get_action(self) -> dict[str, float]:
        return {
            key: value for side, arm in self.arms.items() for key, value in with_side(side, arm.get_action()).items()
        }

    def send_feedback(self, feedback: dict[str, float]) -> None:
        for side, arm in self.arms.items():
            arm.send_feedback(of_side(side, feedback))

    def releases(self) -> Sequence[Release]:
        return [release for arm in self.arms.values() for release in arm.releases()]

    def disconnect(self) -> None:
        with contextlib.ExitStack() as each:  # whatever fails, the other is closed
            for arm in self.arms.values():
                each.callback(arm.disconnect)
