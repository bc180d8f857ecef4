"""Where an arm's end effector is, and joints that put it elsewhere: kinematics of a URDF, by MuJoCo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_ops.errors import ConfigError, PrerequisiteError, did_you_mean

Joints = Sequence[float] | np.ndarray
ITERATIONS = 10
PRECISE = 1e-5
"""Radians of the last step of a solution."""
LONGEST_STEP = 0.2
"""Radians that a joint moves in one iteration: so far the linear model holds."""
DAMPING = 1e-3
"""Metres per radian: a joint that moves the end effector by less is hardly used, so a stretched arm stays stretched."""
ORIENTATION_DAMPING = 1e-2


class Kinematics:
    """The chain of joints from a robot's base to one of its links.

    Joint positions are in degrees, as the motors have them; poses are 4x4 matrices in the base's frame, in metres.
    """

    def __init__(self, urdf_path: Path, target_frame_name: str) -> None:
        """Raises ConfigError when the file is no URDF or has no such link, PrerequisiteError without MuJoCo."""
        self._mujoco = _mujoco()
        self._model = _compiled(self._mujoco, urdf_path, target_frame_name)
        self._data = self._mujoco.MjData(self._model)
        self._body = self._model.body(target_frame_name).id
        self._joints = self._chain()
        if not self._joints or any(self._model.jnt_type[self._joints] != self._mujoco.mjtJoint.mjJNT_HINGE):
            raise ConfigError(
                "the link is not moved by joints that turn",
                file=urdf_path,
                field="target_frame_name",
                found=target_frame_name,
                expected="a link at the end of a chain of revolute joints",
            )
        self.joint_names = tuple(self._model.joint(number).name for number in self._joints)
        """Those that move the link, from the base on."""

    def forward(self, joints: Joints) -> np.ndarray:
        """The pose (4, 4) of the link."""
        self._place(np.deg2rad(joints))
        pose = np.eye(4)
        pose[:3, :3] = self._data.xmat[self._body].reshape(3, 3)
        pose[:3, 3] = self._data.xpos[self._body]
        return pose

    def inverse(
        self, joints: Joints, pose: np.ndarray, limits: Sequence[tuple[float, float]], *, orientation: bool = True
    ) -> np.ndarray:
        """Joints within `limits` whose link is at `pose`, which is not far from where `joints` have it.

        The position comes first. What it leaves free is used for the `orientation`: five joints cannot have every one.
        Where there is no such pose they are as near as they came.
        """
        lows, highs = np.deg2rad(np.asarray(limits, float)).T
        now = np.clip(np.deg2rad(joints), lows, highs)
        for _ in range(ITERATIONS):
            step = self._step(now, pose, lows, highs, orientation)
            step *= LONGEST_STEP / max(LONGEST_STEP, np.abs(step).max())
            now = np.clip(now + step, lows, highs)
            if np.abs(step).max() < PRECISE:
                break
        return np.rad2deg(now)

    def front(self) -> np.ndarray:
        """The horizontal direction (3,) in which the arm points when every joint is at zero."""
        reach = self.forward([0.0] * len(self._joints))[:3, 3] - self._data.xanchor[self._joints[0]]
        reach[2] = 0.0
        return reach / np.linalg.norm(reach) if np.linalg.norm(reach) > 0.01 else np.array([1.0, 0.0, 0.0])

    def _chain(self) -> list[int]:
        joints: list[int] = []
        body = self._body
        while body:
            first, count = self._model.body_jntadr[body], self._model.body_jntnum[body]
            joints[:0] = range(first, first + count)
            body = self._model.body_parentid[body]
        return joints

    def _place(self, radians: np.ndarray) -> None:
        self._data.qpos[self._joints] = radians
        self._mujoco.mj_kinematics(self._model, self._data)

    def _step(
        self, now: np.ndarray, pose: np.ndarray, lows: np.ndarray, highs: np.ndarray, orientation: bool
    ) -> np.ndarray:
        """A step towards `pose`; joints that it would push past their limits stay, and the others make up for them."""
        self._place(now)
        self._mujoco.mj_comPos(self._model, self._data)
        linear, angular = np.zeros((2, 3, self._model.nv))
        self._mujoco.mj_jacBody(self._model, self._data, linear, angular, self._body)
        linear, angular = linear[:, self._joints], angular[:, self._joints]
        offset = pose[:3, 3] - self._data.xpos[self._body]
        turn = Rotation.from_matrix(pose[:3, :3] @ self._data.xmat[self._body].reshape(3, 3).T).as_rotvec()
        free = np.ones(len(now), bool)
        step = np.zeros(len(now))
        while free.any():
            step[:] = 0.0
            step[free] = _damped(linear[:, free], offset, DAMPING)
            if orientation:
                step[free] += _within_freedom(linear[:, free], angular[:, free], turn - angular @ step)
            stuck = free & (((now <= lows) & (step < 0)) | ((now >= highs) & (step > 0)))
            if not stuck.any():
                break
            free &= ~stuck
        return step


def _within_freedom(linear: np.ndarray, angular: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Joint steps that make up for `turn` as far as they do not move the link."""
    freedom = np.eye(linear.shape[1]) - np.linalg.pinv(linear, rcond=0.01) @ linear
    return freedom @ _damped(angular @ freedom, turn, ORIENTATION_DAMPING)


def _damped(jacobian: np.ndarray, wanted: np.ndarray, damping: float) -> np.ndarray:
    """Damped least squares (Wampler 1986)."""
    return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping**2 * np.eye(len(jacobian)), wanted)


def _compiled(mujoco: Any, urdf_path: Path, target_frame_name: str) -> Any:
    try:
        spec = mujoco.MjSpec.from_string(urdf_path.read_text())
    except (OSError, ValueError) as error:
        problem = "the robot's description cannot be read"
        raise ConfigError(problem, file=urdf_path, field="urdf_path", found=error, expected="a URDF") from None
    names = [body.name for body in spec.bodies]
    if target_frame_name not in names:
        fix = did_you_mean(target_frame_name, names)
        raise ConfigError(
            "the robot has no such link", file=urdf_path, field="target_frame_name", found=target_frame_name, fix=fix
        )
    for shape in [*spec.geoms, *spec.meshes]:  # only joints matter: no file of a mesh is read
        spec.delete(shape)
    spec.compiler.fusestatic = False  # a frame that is fixed to the gripper is a link as well
    # Masses do not matter either, and those of many descriptions are none that a body could have.
    spec.compiler.boundmass, spec.compiler.boundinertia, spec.compiler.balanceinertia = 1e-3, 1e-6, True
    return spec.compile()


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError:
        raise PrerequisiteError("MuJoCo is not installed", fix="pip install 'lerobot-ops[hardware]'") from None
    return mujoco
