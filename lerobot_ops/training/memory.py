"""Memory of a training on a processor: every step takes what the step before gave back."""

import contextlib
import ctypes
from collections.abc import Iterator

# mallopt(3)
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER, _MMAPS, _TRIMMED = -1, 65536, 128 * 1024
"""What switches giving back off, and the C library's own values."""


@contextlib.contextmanager
def kept_memory(device: str) -> Iterator[None]:
    """In this block the C library keeps what is freed, and gives it back to the system at the end.

    Otherwise every large tensor is memory that is new to the process, which the kernel clears page by page: a tenth of
    a step of ACT, and a quarter of one of Diffusion. Without effect for other devices, and with other C libraries.
    """
    libc = ctypes.CDLL(None)
    if device != "cpu" or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _MMAPS)
        libc.mallopt(_TRIM_THRESHOLD, _TRIMMED)
        libc.malloc_trim(0)
