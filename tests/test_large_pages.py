"""Programs that compute ask for large pages: they are started anew, once, as they were."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import os, sys
from lerobot_ops.large_pages import ask_for_large_pages
print("begun", os.getpid(), flush=True)
ask_for_large_pages()
held = b"x" * (64 << 20)
large = [line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
print(sys.argv[1:], os.environ["GLIBC_TUNABLES"], int(large[0]) > 32 << 10)
"""


def said(*, tunables: str | None) -> list[str]:
    variables = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    variables |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-c", PROGRAM, "a b", "--c=*"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not MODE.exists() or "[madvise]" not in MODE.read_text(), reason=f"{MODE} is not madvise")
def test_a_program_is_started_anew_once_with_its_arguments_and_gets_large_pages() -> None:
    first, again, last = said(tunables=None)
    assert first == again  # the same process
    assert last == "['a b', '--c=*'] glibc.malloc.hugetlb=1 True"
    *_, last = said(tunables="glibc.malloc.check=0")
    assert last == "['a b', '--c=*'] glibc.malloc.check=0:glibc.malloc.hugetlb=1 True"
    assert len(said(tunables="glibc.malloc.hugetlb=1")) == 2
    assert said(tunables="glibc.malloc.hugetlb=0")[-1].endswith("hugetlb=0 False")  # somebody does not want them
