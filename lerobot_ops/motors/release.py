"""How the torque of a chain of motors is taken off without asking anyone."""

import os
import time
from dataclasses import dataclass

ANSWERED_S = 0.003
"""After that six motors have answered whatever they were asked."""


@dataclass(frozen=True)
class Release:
    """Bytes that take the torque off without any state: a process that outlives ours can send them."""

    port: str
    """A serial device."""
    baudrate: int
    packets: bytes

    def send(self) -> None:
        """Write to the port beside whoever has it open; OSError if it is gone.

        Twice: on the one wire the first may meet an answer.
        """
        file = os.open(self.port, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            os.write(file, self.packets)
            time.sleep(ANSWERED_S)
            os.write(file, self.packets)
        finally:
            os.close(file)
