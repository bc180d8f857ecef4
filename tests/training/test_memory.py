"""Memory that a training keeps for its next step, and gives back at its end."""

import resource
import subprocess
import sys

import pytest

from lerobot_ops.training.memory import kept_memory

STEPS = """
import gc, resource, sys, torch
from lerobot_ops.training.memory import kept_memory

def step():
    layers = [torch.ones(2**24) for _ in range(8)]  # 64 MB each, as large activations are

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with kept_memory(sys.argv[1]):
    for _ in range(3):
        step()
    before = faults()
    for _ in range(5):
        step()
    new_pages = faults() - before
print(new_pages, resident() // 2**20)
"""


def measured(device: str) -> tuple[int, int]:
    """New pages of five steps, and megabytes that stay."""
    done = subprocess.run([sys.executable, "-c", STEPS, device], capture_output=True, text=True, check=True)
    pages, resident = map(int, done.stdout.split())
    return pages, resident


@pytest.mark.skipif(sys.platform != "linux", reason="it is the C library of Linux that is asked")
def test_no_step_takes_new_memory_and_none_is_kept_after_the_last() -> None:
    pages, resident = measured("cpu")
    usual_pages, usual_resident = measured("cuda")
    assert pages < usual_pages / 20
    assert usual_pages * resource.getpagesize() > 5 * 8 * 2**26 / 2  # huge pages are fewer
    assert resident < usual_resident + 100


def test_it_ends_with_an_error_as_without() -> None:
    with pytest.raises(ZeroDivisionError), kept_memory("cpu"):
        1 / 0  # noqa: B018
