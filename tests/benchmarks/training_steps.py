"""What a training command does at every step, seen from inside: both sides use it, and it needs torch alone."""

import atexit
import json
import os
import time
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook


def watch(file: Path, seeded: bool) -> None:
    """Have every step's end (seconds of the clock), its loss and the CPU seconds so far written to `file` at exit.

    With `seeded` the random numbers of every step are drawn from its number, so that both sides draw the same.
    """
    begun, ends, cpu, losses = [0.0], [], [], []
    fresh = [True]

    def before_forward(*_) -> None:
        if fresh[0] and torch.is_grad_enabled():  # some ask their layers for shapes when they are made
            fresh[0] = False
            if not ends:
                begun[0] = time.time()
            if seeded:
                torch.manual_seed(len(ends))

    def after_step(*_) -> None:
        ends.append(time.time())
        cpu.append(cpu_seconds())
        fresh[0] = seeded
        if not seeded:
            first.remove()  # it is called for every layer

    first = register_module_forward_pre_hook(before_forward)
    register_optimizer_step_post_hook(after_step)
    backward = torch.Tensor.backward

    def noted(loss, *arguments, **options) -> None:
        losses.append(loss.detach())
        backward(loss, *arguments, **options)

    torch.Tensor.backward = noted

    def write() -> None:
        found = {"begun": begun[0], "ends": ends, "cpu": cpu, "losses": [float(loss) for loss in losses]}
        file.write_text(json.dumps(found))

    atexit.register(write)


def cpu_seconds() -> float:
    """CPU seconds of this process and its children until now."""
    ticks = 0
    for pid in ("self", *children()):
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children() -> list[str]:
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
