"""The training's log: means over the steps since the last line, in two tables that a resumed run continues.

`log.csv` has all numbers; `loss.csv` only those that are the same whenever and wherever the training is repeated.
"""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerobot_ops.artifacts import write_bytes
from lerobot_ops.training.distributed import World

COLUMNS = ("step", "loss", "lr", "grad_norm", "steps_per_s", "data_s", "update_s")
LOG, LOSSES = "log.csv", "loss.csv"


class Window:
    """The steps since the last line. Sums stay on the device: reading one would make the device wait."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Begin the next line."""
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device if self.device != "mps" else "cpu")
        self.grad_norm = self.loss.clone()
        self.bad_step = torch.zeros((), dtype=torch.int64, device=self.loss.device)
        """The first step whose loss or gradient was no number; 0 for none."""
        self.steps = 0
        self.timed_steps, self.data_s, self.started = 0, 0.0, time.perf_counter()

    def add(self, step: int, loss: Tensor, grad_norm: Tensor, data_s: float) -> None:
        """Count one step."""
        loss, grad_norm = loss.detach().to(self.loss.device), grad_norm.detach().to(self.loss.device)
        self.loss += loss
        self.grad_norm += grad_norm
        first = (self.bad_step == 0) & ~torch.isfinite(loss + grad_norm)
        self.bad_step += first * step
        self.steps += 1
        self.timed_steps += 1
        self.data_s += data_s

    def first_bad_step(self, world: World) -> int:
        """The first step that was no number in any process; 0 for none."""
        return min((int(step) for step in world.gathered(self.bad_step) if step), default=0)

    def sums(self, world: World) -> dict[str, Any]:
        """What a resumed run needs to end the line as if it had not been interrupted."""
        losses = [loss.item() for loss in world.gathered(self.loss)]
        sums = {"steps": self.steps, "loss": sum(losses) / world.size, "grad_norm": self.grad_norm.item()}
        return sums | ({"losses": losses} if world.size > 1 else {})

    def load(self, sums: dict[str, Any], world: World) -> None:
        """Go on from `sums`; with as many processes, each from its own."""
        self.steps = int(sums["steps"])
        losses = sums.get("losses", [])
        self.loss.fill_(losses[world.rank] if len(losses) == world.size else sums["loss"])
        self.grad_norm.fill_(sums["grad_norm"])

    def means(self, lr: float, world: World) -> dict[str, float]:
        """The line's numbers; seconds are per step. Of the processes' waits for data it is the longest."""
        losses = [found.item() for found in world.gathered(self.loss)]
        loss, grad_norm = sum(losses) / world.size / self.steps, self.grad_norm.item() / self.steps
        step_s = (time.perf_counter() - self.started) / max(1, self.timed_steps)
        data_s = max(found.item() for found in world.gathered(torch.tensor(self.data_s, dtype=torch.float64)))
        data_s /= max(1, self.timed_steps)
        return {
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "steps_per_s": 1 / step_s,
            "data_s": data_s,
            "update_s": step_s - data_s,
        }


class Tables:
    """`log.csv` and `loss.csv` in a run directory; lines after step `start` are what an interrupted run had left."""

    def __init__(self, root: Path, start: int) -> None:
        self.paths = {root / LOG: COLUMNS, root / LOSSES: COLUMNS[:2]}
        for path, columns in self.paths.items():
            kept = [line for line in _lines(path) if int(line.split(",")[0]) <= start]
            write_bytes(path, ("\n".join([",".join(columns), *kept]) + "\n").encode())

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line to each."""
        values: dict[str, Any] = {"step": step, **metrics}
        for path, columns in self.paths.items():
            with path.open("a") as file:
                file.write(",".join(f"{values[name]:.9g}" for name in columns) + "\n")


def last_metrics(root: Path) -> dict[str, float]:
    """The numbers in the last line of `log.csv`; empty when nothing was logged."""
    lines = _lines(root / LOG)
    return dict(zip(COLUMNS[1:], map(float, lines[-1].split(",")[1:]), strict=True)) if lines else {}


def _lines(path: Path) -> list[str]:
    """The table's whole lines, without its header."""
    if not path.exists():
        return []
    return path.read_text().rpartition("\n")[0].split("\n")[1:]
