"""A training that is killed anywhere, or runs out of disk, leaves whole checkpoints, and goes on as if nothing was."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lerobot_ops.errors import ArtifactError
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from tests.training.lessons import record
from tests.training.processes import start
from tests.training.test_train import content

Configured = Callable[..., TrainConfig]
POINTS = 8


def result(root: Path) -> dict[str, bytes | str]:
    links = {path.name: os.readlink(path) for path in (root / "checkpoints").iterdir() if path.is_symlink()}
    return {name: body for name, body in content(root).items() if name != "run.json"} | links


def test_killed_while_it_writes_it_goes_on_as_if_it_had_not_been(configured: Configured, tmp_path: Path) -> None:
    """Before system calls from the first to the last one; two checkpoints and the best one are kept."""
    options = {"dataset": {"eval_split": 0.25}, "steps": 8, "save_freq": 2, "log_freq": 3}
    options |= {"keep_checkpoints": 2, "resume": "auto", "ema": {"enable": True}}
    whole, calls = configured(output_dir=tmp_path / "whole", **options), tmp_path / "calls"
    assert start(whole, counted=calls).wait() == [0]
    expected, made = result(tmp_path / "whole"), int(calls.read_text())
    assert made > 100
    points = range(1, made, max(1, made // POINTS))
    trainings = {}
    for call in points:
        trainings[call] = start(configured(output_dir=tmp_path / f"killed-{call}", **options), call=call)
    for call, training in trainings.items():
        assert training.wait() == [-signal.SIGKILL], training.output()
        for checkpoint in (tmp_path / f"killed-{call}").glob("checkpoints/0*"):  # whatever has a name is whole
            load_file(checkpoint / "pretrained_model/model.safetensors")
            load_file(checkpoint / "training_state/optimizer_state.safetensors")
    for call in points:
        trainings[call] = start(configured(output_dir=tmp_path / f"killed-{call}", **options))
    for call, training in trainings.items():
        assert training.wait() == [0], training.output()
        assert result(tmp_path / f"killed-{call}") == expected, f"killed before call {call} of {made}"


def test_killed_with_threads_that_decode_it_goes_on_as_if_it_had_not_been(
    configured: Configured, tmp_path: Path
) -> None:
    options = {"dataset": {"root": record(tmp_path / "data", (9, 8), camera="video")}, "num_workers": 3}
    options |= {"steps": 20, "save_freq": 10, "log_freq": 7, "batch_size": 2, "resume": "auto"}
    whole = start(configured(output_dir=tmp_path / "whole", **options))
    killed = start(configured(**options), step=13)
    assert killed.wait() == [-signal.SIGKILL]
    resumed = start(configured(**options))
    assert resumed.wait() == whole.wait() == [0], resumed.output()
    assert result(tmp_path / "run") == result(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk that is full needs the right to mount one (run as root): {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_ends_the_training_and_harms_no_checkpoint(configured: Configured, small_disk: Path) -> None:
    config = configured(output_dir=small_disk / "run", steps=1000, save_freq=5, log_freq=4)
    filler = small_disk / "filler"

    def fill(step: int, _: dict[str, float]) -> None:
        if step == 8:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))

    with pytest.raises(ArtifactError, match=r"the disk is full[\s\S]*MiB free[\s\S]*MiB for a checkpoint") as caught:
        train(config, on_metrics=fill)
    assert str(small_disk / "run") in str(caught.value)
    assert "the checkpoint of step 5 is whole" in str(caught.value)
    assert sorted(path.name for path in (small_disk / "run/checkpoints").iterdir()) == ["000005", "last"]
    filler.unlink()
    assert train(config.altered("resume", True).altered("steps", 12)).steps == 12
