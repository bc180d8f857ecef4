"""GPUs that render cameras: what a worker must be given to see one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import docker

# The driver's OpenGL comes with "graphics"; "compute", which policies need, stays out of simulators.
_CAPABILITIES = "graphics,utility"


def chosen(wanted: str, client: "docker.DockerClient") -> str:
    """What `sandbox.gpus` comes to with this engine: "none", "all" or a comma list of numbers."""
    if wanted != "auto":
        return wanted
    return "all" if "nvidia" in (client.info().get("Runtimes") or {}) else "none"


def container_options(gpus: str, number: int) -> dict[str, Any]:
    """What worker `number` needs to be created with, {} without a GPU."""
    from docker.types import DeviceRequest

    if gpus == "none":
        return {}
    one = _turn(gpus, number)
    which = {"count": -1} if one is None else {"device_ids": [one]}
    # Inside there is one device, whatever its number outside.
    first = {} if one is None else {"MUJOCO_EGL_DEVICE_ID": "0"}
    return {
        "device_requests": [DeviceRequest(driver="nvidia", capabilities=[["gpu"]], **which)],
        "environment": {"NVIDIA_DRIVER_CAPABILITIES": _CAPABILITIES, **first},
    }


def environment(gpus: str, number: int) -> dict[str, str]:
    """The variables that tell worker `number` its GPU, where nothing hides the others."""
    one = _turn(gpus, number)
    return {} if one is None else {"MUJOCO_EGL_DEVICE_ID": one}


def _turn(gpus: str, number: int) -> str | None:
    """The GPU that is worker `number`'s own, when they are named."""
    if gpus in ("auto", "none", "all"):
        return None
    known = gpus.split(",")
    return known[number % len(known)]
