"""`lerobot-ops simulate-arm`: simulated arms in a process of their own, for every program that opens a serial port."""

import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError
from lerobot_ops.motors.calibration import save_calibration
from lerobot_ops.motors.simulator.arm import SimulatedArm, simulate
from lerobot_ops.motors.simulator.control import HELP, act, wave


class SimulateArmConfig(Config):
    """Arms to simulate."""

    kind: str = "so101"
    """Kind of arm: so100, so101, or scs_hand, whose motors speak protocol 1."""
    names: list[str] = Field(default_factory=list)
    """Names of the arms and of their ports; by default the kind, numbered if there are several."""
    count: int = Field(default=1, ge=1, le=16)
    """How many arms, where `names` does not say."""
    directory: Path = Path("outputs/simulated")
    """Where the ports are: a link for each arm, and its true calibration beside it."""
    waved: list[str] = Field(default_factory=list)
    """Arms whose joints a hand swings while their torque is off: leader arms."""
    calibrated: bool = True
    """Whether the servos hold their calibration; otherwise they are as new, with their ids set."""
    timing: bool = True
    """Whether answers take as long as their bytes take at the line's rate."""
    latency_ms: float = Field(default=1.0, ge=0)
    """How long the USB adapter keeps an answer, in ms."""
    volts: float = Field(default=7.4, gt=0)
    """Voltage of the power supply."""

    def arms(self) -> list[str]:
        """The names of the arms."""
        numbered = [f"{self.kind}-{number}" for number in range(self.count)] if self.count > 1 else [self.kind]
        return self.names or numbered


def simulate_arms(config: SimulateArmConfig, commands: Iterable[str], output: TextIO) -> None:
    """Simulate until `commands` say quit, or until the process is told to end; see `control.HELP` for the commands."""
    for name in config.waved:
        if name not in config.arms():
            raise ConfigError("there is no such arm to wave", found=name, expected=", ".join(config.arms()))
    with contextlib.ExitStack() as stack:
        arms = {name: stack.enter_context(_arm(config, name)) for name in config.arms()}
        for arm in arms.values():
            print(f"{arm.name}: port {arm.port}, calibration {arm.port}.json", file=output, flush=True)
        for line in commands:
            if line.strip() == "quit":
                return
            answer = HELP if line.strip() == "help" else act(arms, line)
            if answer:
                print(answer, file=output, flush=True)


def run(config: SimulateArmConfig) -> None:
    """Simulate with commands from standard input; its end is not the end of the arms, SIGINT and SIGTERM are."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("commands: help, or quit", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        simulate_arms(config, _lines(), sys.stdout)


@contextlib.contextmanager
def _arm(config: SimulateArmConfig, name: str) -> Iterator[SimulatedArm]:
    with simulate(
        config.kind, name=name, directory=config.directory, calibrated=config.calibrated, timing=config.timing,
        latency_s=config.latency_ms / 1000, volts=config.volts,
    ) as arm:  # fmt: skip
        save_calibration(Path(f"{arm.port}.json"), arm.calibration)
        if name in config.waved:
            arm.hand(wave(arm.angles))
        yield arm


def _lines() -> Iterator[str]:
    yield from sys.stdin
    while True:
        signal.pause()
