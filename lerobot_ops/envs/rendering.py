"""Offscreen pictures from MuJoCo: which OpenGL library to use, a check that it draws, and the renderer itself.

MuJoCo binds one OpenGL library when it is imported, so the choice is made before, from the environment variable
MUJOCO_GL or else by looking at what the machine has: EGL (a GPU, or Mesa's llvmpipe), then OSMesa.
"""

import ctypes
import ctypes.util
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops.errors import PrerequisiteError

PACKAGES = "libegl1 libgl1 libopengl0 libgl1-mesa-dri libosmesa6"

_LEVEL = 0.999
"""How upright the normal of a floor is: its height, of a length of 1."""
_BALL = """<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="0.4" rgba="1 0.5 0 1"/>
<camera name="front" pos="0 -2 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>"""


def prepare(rendered: bool) -> dict[str, Any] | None:
    """Make this process ready to render, after a check, or to do without OpenGL; call it before MuJoCo is imported."""
    if rendered:
        return preflight()
    os.environ["MUJOCO_GL"] = "disable"
    return None


def choose_library() -> str:
    """Settle on "egl" or "osmesa" for this process; raises PrerequisiteError when the machine has neither.

    Call it before MuJoCo is imported.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted not in {"", "egl", "osmesa"}:
        raise PrerequisiteError(
            "cameras cannot be rendered offscreen with this setting",
            field="MUJOCO_GL",
            found=wanted,
            expected="egl or osmesa, or unset to let the machine decide",
        )
    lacks = {"egl": _egl_lacks, "osmesa": _osmesa_lacks}
    reasons = {}
    for library in [wanted] if wanted else ["egl", "osmesa"]:
        reasons[library] = lacks[library]()
        if reasons[library] is None:
            os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = library
            return library
    raise PrerequisiteError(
        "cameras cannot be rendered: no OpenGL library works offscreen",
        found="; ".join(f"{library}: {reason}" for library, reason in reasons.items()),
        fix=f"apt-get install -y {PACKAGES}",
    )


def preflight() -> dict[str, Any]:
    """Draw a lit ball and look at it: {"library": name, "seconds": cost of the first frame}.

    Raises PrerequisiteError when the frame is black or the driver fails, before an episode is wasted on it.
    """
    library = choose_library()
    started = time.perf_counter()
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string(_BALL)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        renderer = Renderer(model, "front")
        frame = renderer.frame(data, 64)
        renderer.close()
    except Exception as error:
        raise PrerequisiteError(
            "cameras cannot be rendered: the OpenGL driver fails",
            field="MUJOCO_GL",
            found=f"{library}: {type(error).__name__}: {error}",
            fix=f"apt-get install -y {PACKAGES}, or choose the other of egl and osmesa",
        ) from error
    check_frame(frame, library)
    return {"library": library, "seconds": round(time.perf_counter() - started, 3)}


def check_frame(frame: NDArray[np.uint8], library: str) -> None:
    """Raise PrerequisiteError when a frame that must show a lit ball shows nothing."""
    if frame.max() < 32 or frame.std() < 1:
        raise PrerequisiteError(
            "cameras render black frames",
            field="MUJOCO_GL",
            found=library,
            fix=f"apt-get install -y {PACKAGES}, or choose the other of egl and osmesa",
        )


class Renderer:
    """Pictures of one model from its cameras, drawn as gymnasium's offscreen viewer draws them."""

    def __init__(self, model: Any, camera: str, hidden_groups: Sequence[int] = ()) -> None:
        """`hidden_groups` are groups of geometries that no picture shows."""
        import mujoco

        if os.environ.get("MUJOCO_GL") == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.egl import GLContext
        self._mujoco, self._model = mujoco, model
        self._scene = mujoco.MjvScene(model, 1000)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        self._option, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._option.geomgroup[list(hidden_groups)] = 0
        self._gl = GLContext(model.vis.global_.offwidth, model.vis.global_.offheight)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def frame(self, data: Any, size: int | tuple[int, int], camera: str | None = None) -> NDArray[np.uint8]:
        """What the camera, or another one, sees, uint8 (height, width, 3), top row first."""
        mujoco = self._mujoco
        height, width = (size, size) if isinstance(size, int) else size
        if camera is not None:
            self._camera.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        self._gl.make_current()
        if width > self._context.offWidth or height > self._context.offHeight:
            largest = max(width, self._context.offWidth), max(height, self._context.offHeight)
            mujoco.mjr_resizeOffscreen(*largest, self._context)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, self._perturb, self._camera, everything, self._scene)
        self._spare_floors()
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def _spare_floors(self) -> None:
        # Nothing lies below a floor: nobody sees its shadow, and yet it fills the shadow map. Decoration throws none.
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.type == self._mujoco.mjtGeom.mjGEOM_PLANE and geom.mat[2, 2] > _LEVEL:
                geom.category = self._mujoco.mjtCatBit.mjCAT_DECOR

    def close(self) -> None:
        """Free the OpenGL context and what it holds."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _osmesa_lacks() -> str | None:
    return None if ctypes.util.find_library("OSMesa") else "libOSMesa is not installed"


def _egl_lacks() -> str | None:
    """Why EGL cannot make a context without a display here, or None when it can."""
    if not (ctypes.util.find_library("OpenGL") or ctypes.util.find_library("GL")):
        return "libOpenGL is not installed"
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return "libEGL is not installed"
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query, display_of = (egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display_of:
        return "this libEGL cannot list devices"
    devices, count = (ctypes.c_void_p * 32)(), ctypes.c_int()
    ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(query)(
        32, devices, ctypes.byref(count)
    )
    make_display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(display_of)
    egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3
    platform_device = 0x313F
    for device in devices[: count.value]:
        display = make_display(platform_device, device, None)
        if display and egl.eglInitialize(display, None, None):
            return None
    return f"none of its {count.value} devices has a working driver"
