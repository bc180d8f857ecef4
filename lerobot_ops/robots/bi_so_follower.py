"""Two SO follower arms as one robot."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from lerobot_ops.cameras.camera import Camera
from lerobot_ops.cameras.registry import make_camera
from lerobot_ops.errors import ConfigError, DeviceError, did_you_mean
from lerobot_ops.motors.release import Release
from lerobot_ops.motors.so_arm import SIDES, of_side, with_side
from lerobot_ops.robots.robot import Action, Observation, Robot
from lerobot_ops.robots.so_follower import SOFollower
from lerobot_ops.robots.so_follower_config import BiSOFollowerConfig, SO101FollowerConfig


class BiSOFollower(Robot):
    """A left and a right arm; the calibrations are those of single arms with the ids `ID_left` and `ID_right`."""

    name = "bi_so_follower"
    config: BiSOFollowerConfig

    def __init__(self, config: BiSOFollowerConfig) -> None:
        super().__init__(config)
        settings = {"left": config.left_arm_config, "right": config.right_arm_config}
        self.arms = {
            side: SOFollower(
                SO101FollowerConfig(
                    id=f"{config.id}_{side}" if config.id else None,
                    calibration_dir=config.calibration_dir,
                    **{name: getattr(arm, name) for name in type(arm).model_fields},
                )
            )
            for side, arm in settings.items()
        }
        self._shared = {name: make_camera(each, name) for name, each in config.cameras.items()}
        # In LeRobot's order, which is that of a dataset's features.
        left, right = (with_side(side, self.arms[side].cameras) for side in SIDES)
        self.cameras: dict[str, Camera] = {**left, **self._shared, **right}
        self._observed_at: dict[str, float] = {}

    @property
    def action_features(self) -> dict[str, type]:
        return self._of_both({side: arm.action_features for side, arm in self.arms.items()})

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        return self._of_both({side: arm.limits for side, arm in self.arms.items()})

    @property
    def is_connected(self) -> bool:
        cameras = all(camera.is_connected for camera in self._shared.values())
        return cameras and all(arm.is_connected for arm in self.arms.values())

    def connect(self, calibrate: bool = True) -> None:
        if self.is_connected:
            raise DeviceError("the arms are connected already")
        try:
            for arm in self.arms.values():
                arm.connect(calibrate)
            for camera in self._shared.values():
                camera.disconnect()  # they may have outlived a cable that was pulled
                camera.connect()
        except BaseException:
            with contextlib.suppress(DeviceError):  # what went wrong first is what to say
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

    def get_observation(self) -> Observation:
        observations = {side: arm.get_observation() for side, arm in self.arms.items()}
        both = self._of_both(observations)
        times = {side: arm.observed_at for side, arm in self.arms.items()}
        self._observed_at = {"state": min(each["state"] for each in times.values())}
        seen = self._of_both(times)
        for name, camera in self._shared.items():
            frame = camera.latest()
            both[name], seen[name] = frame.image, frame.captured_at
        self._observed_at |= {name: seen[name] for name in self.cameras}
        return {name: both[name] for name in self.observation_features}

    @property
    def observed_at(self) -> dict[str, float]:
        return self._observed_at

    def send_action(self, action: Action) -> Action:
        for key in action:
            if key not in self.action_features:
                raise ConfigError("the arms have no such joint", field=key, fix=did_you_mean(key, self.action_features))
        return self._of_both({side: arm.send_action(of_side(side, action)) for side, arm in self.arms.items()})

    def status(self) -> dict[str, float]:
        return self._of_both({side: arm.status() for side, arm in self.arms.items()})

    @property
    def alarms(self) -> Mapping[str, tuple[str, ...]]:
        return self._of_both({side: dict(arm.alarms) for side, arm in self.arms.items()})

    def stop(self) -> None:
        for arm in self.arms.values():
            arm.stop()

    def releases(self) -> Sequence[Release]:
        return [release for arm in self.arms.values() for release in arm.releases()]

    def identity(self) -> dict[str, Any]:
        return {
            "type": self.config.type,
            "id": self.config.id,
            "calibration": {side: arm.identity()["calibration"] for side, arm in self.arms.items()},
            "cameras": {name: camera.settings() for name, camera in self.cameras.items()},
        }

    def disconnect(self) -> None:
        with contextlib.ExitStack() as each:  # whatever fails, the others are closed
            for camera in self._shared.values():
                each.callback(camera.disconnect)
            for arm in self.arms.values():
                each.callback(arm.disconnect)

    def _of_both(self, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {key: value for side in SIDES for key, value in with_side(side, values[side]).items()}
