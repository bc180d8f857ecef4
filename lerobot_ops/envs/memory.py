"""Memory that MuJoCo and the C library keep for a second use that never comes: about 70 MB in a worker."""

import contextlib
import ctypes
import gc
from pathlib import Path


def cache_no_meshes() -> None:
    """Let MuJoCo keep no meshes and textures for further models; call it before a model is compiled."""
    import mujoco

    mujoco.mj_setCacheCapacity(mujoco.mj_getCache(), 0)


def release_sources() -> None:
    """Free what compiling a model left: the XML file that was read last, with its meshes, and the heap's free pages.

    Nothing can be saved with `mj_saveLastXML` afterwards.
    """
    import mujoco

    gc.collect()
    for library in Path(mujoco.__file__).parent.glob("libmujoco.so.*"):
        ctypes.CDLL(str(library)).mj_freeLastXML()  # a function of MuJoCo's that its Python module lacks
    trim_heap()


def trim_heap() -> None:
    """Give the heap's free pages back to the system."""
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)
