"""Which process a container belongs to, so that another one can tell whether anybody still waits for it."""

import os
from pathlib import Path


def present() -> str:
    """The name of this process: machine, process id and start time; "" where the kernel does not tell."""
    try:
        return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"
    except OSError:
        return ""


def is_gone(owner: str) -> bool:
    """Whether the process of this name has ended; False for one of another machine, of which nobody here can tell."""
    try:
        machine, number, started = owner.split(":")
        return machine == _machine() and started != _started(int(number))
    except (OSError, ValueError):
        return False


def _machine() -> str:
    """Names the system since it was booted, and the container that we are in, which has process ids of its own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _started(process: int) -> str:
    """When a process started, in ticks since boot; "" for one that has ended."""
    try:
        # The name of the program, in brackets, may hold anything.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if state == "Z" else fields[18]
