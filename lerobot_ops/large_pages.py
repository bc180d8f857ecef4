"""Large pages of memory for what computes: with small ones a processor spends its time on finding them.

Where Linux gives them to whoever asks (`/sys/kernel/mm/transparent_hugepage/enabled` says madvise, as most
distributions have it), the GNU C library asks when it is told so in a variable that it reads when a process starts.
With them a training step of ACT takes a sixth less time. A frame that MuJoCo draws without a GPU, for which it fills a
shadow map of 64 MB, takes a quarter less, and half where others use the memory, too. Results are the same to the bit.
"""

import os
import sys
from pathlib import Path

_NAME, _ASK = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
ASKING = {_NAME: _ASK}
"""The variable, for processes that are started; without effect where there are no such pages, or another C library."""
_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask_for_large_pages() -> None:
    """Start this program anew, in this process, with the variable set; returns where that would change nothing.

    For a program that has just begun: everything that it has done is lost.
    """
    told = os.environ.get(_NAME, "")
    if "glibc.malloc.hugetlb" in told or not _given_to_who_asks():
        return
    os.environ[_NAME] = f"{told}:{_ASK}" if told else _ASK
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell: this very command again


def _given_to_who_asks() -> bool:
    try:
        return "[madvise]" in _MODE.read_text()
    except OSError:  # another system
        return False
