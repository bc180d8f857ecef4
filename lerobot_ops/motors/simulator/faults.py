"""What goes wrong on a bus, to be switched on in a simulated one."""

import random
from dataclasses import dataclass, field
from typing import Literal, get_args

from lerobot_ops.errors import ConfigError, did_you_mean

Kind = Literal[
    "no_reply", "corrupt_checksum", "wrong_length", "late_reply", "overload", "overheat", "voltage_drop", "unplug"
]
KINDS: tuple[str, ...] = get_args(Kind)
OF_REPLIES = ("no_reply", "corrupt_checksum", "wrong_length", "late_reply")


@dataclass
class Fault:
    """One fault; see `docs/simulator.md` for what each kind does."""

    kind: Kind
    motors: tuple[str, ...] | None = None
    """Names of the motors that it befalls; all of them by default."""
    count: int | None = None
    """How many replies it spoils before it is over; until it is cleared by default."""
    probability: float = 1.0
    """Of spoiling each reply."""
    delay_s: float = 0.1
    """How late a late reply is."""
    volts: float = 3.0
    """How much of the supply a voltage drop takes."""
    seed: int = 0
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("there is no such fault", found=self.kind, fix=did_you_mean(self.kind, KINDS))
        self._random = random.Random(self.seed)  # noqa: S311

    def befalls(self, motor: str) -> bool:
        return self.motors is None or motor in self.motors

    def strikes(self, motor: str) -> bool:
        """Whether it spoils this reply of `motor`; counts it."""
        if not self.befalls(motor) or self.count == 0 or self._random.random() >= self.probability:
            return False
        if self.count is not None:
            self.count -= 1
        return True


def spoiled(kind: str, reply: bytes) -> bytes:
    """A reply as it comes out of a fault."""
    if kind == "no_reply":
        return b""
    if kind == "corrupt_checksum":
        return reply[:-1] + bytes([reply[-1] ^ 0x55])
    if kind == "wrong_length":
        return reply[:3] + bytes([reply[3] - 1]) + reply[4:-2] + reply[-1:]
    return reply
