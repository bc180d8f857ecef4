"""The baud rate that a program set on a pty."""

import fcntl
import struct
import termios

_TCGETS2 = 0x802C542A
"""Linux: settings of a terminal with rates as numbers, so that 250000 can be one."""
_TERMIOS2 = struct.Struct("4IB19s2I")
_RATES = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdigit()}


def line_speed(descriptor: int) -> int:
    """The rate of a terminal in baud."""
    try:
        settings = fcntl.ioctl(descriptor, _TCGETS2, bytes(_TERMIOS2.size))
    except OSError:
        return _RATES.get(termios.tcgetattr(descriptor)[5], 0)
    return int(_TERMIOS2.unpack(settings)[-1])
