"""Trainings in two processes: equal to one, the same to the bit after a kill, and ended together."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lerobot_ops.errors import ConfigError
from lerobot_ops.policies import load_policy
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.distributed import check_parallelism
from lerobot_ops.training.ranks import process
from lerobot_ops.training.sampler import EpisodeAwareSampler, Position
from lerobot_ops.training.train import train
from tests.training.processes import start
from tests.training.test_train import content, rows

Configured = Callable[..., TrainConfig]
SHARDED = {"dp_shard": -1}
# Without noise, and where every frame weighs the same: what two processes compute is then what one computes.
PLAIN = {"use_vae": False, "dropout": 0.0, "chunk_size": 1, "n_action_steps": 1}
# With such an epsilon Adam's step is the gradient's, not its sign's.
STEADY = {"type": "adam", "lr": 1.0, "weight_decay": 0.0, "grad_clip_norm": 5.0, "eps": 10.0}
EQUAL = {"policy": PLAIN, "use_policy_training_preset": False, "optimizer": STEADY, "steps": 20, "save_freq": 10}


def difference(one: Path, other: Path, file: str = "pretrained_model/model.safetensors") -> float:
    mine, theirs = load_file(one / file), load_file(other / file)
    assert mine.keys() == theirs.keys()
    return max((mine[name].double() - theirs[name].double()).abs().max().item() for name in mine)


def test_two_processes_learn_what_one_learns_from_twice_the_batch(configured: Configured, tmp_path: Path) -> None:
    options = {
        **EQUAL,
        "dataset": {"eval_split": 0.25},
        "ema": {"enable": True},
    }  # an epoch's last batch is a small one
    one = configured(batch_size=8, output_dir=tmp_path / "one", **options)
    two = configured(batch_size=4, output_dir=tmp_path / "two", **options)
    parts = configured(batch_size=4, output_dir=tmp_path / "parts", parallelism=SHARDED, **options)
    trainings = [start(config, 2) for config in (two, parts)]
    train(one)
    for training in trainings:
        assert training.wait() == [0, 0], training.output()
    for name in ("pretrained_model/model.safetensors", "checkpoints/last/pretrained_model_ema/model.safetensors"):
        assert difference(tmp_path / "one", tmp_path / "two", name) < 2e-6
        assert difference(tmp_path / "two", tmp_path / "parts", name) < 2e-6
    state = "checkpoints/last/training_state/optimizer_state.safetensors"
    assert difference(tmp_path / "one", tmp_path / "two", state) < 2e-6
    assert difference(tmp_path / "two", tmp_path / "parts", state) < 2e-6
    for file in ("loss.csv", "eval_loss.csv"):
        found = [[list(row.values()) for row in rows(tmp_path / name / file)] for name in ("one", "two", "parts")]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-5)
    counts = json.loads((tmp_path / "parts/checkpoints/last/training_state/training_step.json").read_text())
    assert (counts["dp_world_size"], counts["batch_size"], counts["parallelism"]["dp_shard"]) == (2, 4, 2)
    assert load_policy(tmp_path / "parts/pretrained_model").config.chunk_size == 1


def test_gradients_of_several_batches_are_averaged_once(configured: Configured, tmp_path: Path) -> None:
    one = configured(batch_size=8, output_dir=tmp_path / "one", **EQUAL)
    one = one.altered("accelerator.gradient_accumulation.steps", 2)
    two = one.altered("batch_size", 4).altered("output_dir", tmp_path / "two")
    parts = two.altered("output_dir", tmp_path / "parts").altered("parallelism.dp_shard", 2)
    trainings = [start(config, 2) for config in (two, parts)]
    train(one)
    for training, name in zip(trainings, ("two", "parts"), strict=True):
        assert training.wait() == [0, 0], training.output()
        assert difference(tmp_path / "one", tmp_path / name) < 2e-6


@pytest.mark.parametrize("shards", [1, 2])
def test_killed_and_resumed_is_as_if_it_had_not_been(configured: Configured, tmp_path: Path, shards: int) -> None:
    """With dropout and noise, in the middle of a line of the log."""
    options = {"steps": 20, "save_freq": 10, "log_freq": 7, "parallelism": {"dp_shard": shards}}
    options |= {"ema": {"enable": True}, "dataset": {"eval_split": 0.25}, "resume": "auto"}
    whole = start(configured(output_dir=tmp_path / "whole", **options), 2)
    killed = start(configured(**options), 2, step=13, rank=1)
    codes = killed.wait()
    assert codes == [1, -signal.SIGKILL], killed.output()
    assert "process 0 of this training has lost the others" in killed.output(0)
    assert "Traceback" not in killed.output()
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").glob("0*")) == ["000010"]
    resumed = start(configured(**options), 2)
    assert resumed.wait() == whole.wait() == [0, 0], resumed.output() + whole.output()
    mine, theirs = content(tmp_path / "run"), content(tmp_path / "whole")
    assert mine.pop("run.json").startswith(b"{")
    assert theirs.pop("run.json").startswith(b"{")
    assert mine == theirs
    state = tmp_path / "run/checkpoints/last/training_state"
    first, second = (
        load_file(state / name)["torch_rng_state"] for name in ("rng_state.safetensors", "rng_state_1.safetensors")
    )
    assert not torch.equal(first, second)


def test_another_number_of_processes_goes_on(
    configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes, then one with as many frames a step, then one with another number of frames, then two again."""
    options = {**EQUAL, "log_freq": 4, "save_freq": 4, "steps": 4}
    config = configured(parallelism=SHARDED, **options)
    two = start(config, 2)
    train(configured(output_dir=tmp_path / "one", **{**options, "steps": 8, "batch_size": 8}))
    assert two.wait() == [0, 0], two.output()

    config = config.altered("resume", True).altered("parallelism.dp_shard", 1)
    with caplog.at_level(logging.WARNING):
        train(config.altered("steps", 8).altered("batch_size", 8))
    assert "made by 2 process(es) with batches of 4 each, and here are 1 with 8: noise" in caplog.text
    assert difference(tmp_path / "one", tmp_path / "run") < 2e-6

    with caplog.at_level(logging.WARNING):
        train(config.altered("steps", 12).altered("batch_size", 5))
    assert "not their batches" in caplog.text
    counts = json.loads((tmp_path / "run/checkpoints/last/training_state/training_step.json").read_text())
    assert counts["order"] == {"batches": 8, "epoch": 1, "start": 8}  # 50 frames are 7 batches of 8; one more was seen
    again = start(config.altered("steps", 14), 2)
    assert again.wait() == [0, 0], again.output()
    with pytest.raises(ConfigError, match=r"dim_model: 16 there, 32 here"):
        train(config.altered("steps", 16).altered("policy.dim_model", 32))


def test_the_order_of_frames_goes_on_with_batches_of_another_size() -> None:
    bounds = np.array([0, 13, 22]), np.array([13, 22, 39])
    before, after = (EpisodeAwareSampler(*bounds, batch_size=size, seed=1) for size in (8, 3))
    assert not after.go_on(7, 8, Position())  # an epoch of 5 batches, and 2 more
    plain = np.concatenate([before.batch(step) for step in range(5, 10)])
    assert np.array_equal(np.concatenate([after.batch(step) for step in range(7, 7 + 8)]), plain[16:])
    assert after.position(15) == Position(15, 2, 0)
    assert np.array_equal(after.batch(15), before.batch(10)[:3])
    assert EpisodeAwareSampler(*bounds, batch_size=3, seed=1).go_on(15, 3, after.origin)


def test_parts_of_a_batch_weigh_as_much_as_they_have_frames() -> None:
    bounds = np.array([0, 13, 22]), np.array([13, 22, 39])
    sampler = EpisodeAwareSampler(*bounds, batch_size=8, seed=1)
    for step in range(5):
        parts = [sampler.part(step, rank, 3) for rank in range(3)]
        assert np.array_equal(np.concatenate([rows for rows, _ in parts]), sampler.batch(step))
        assert sum(weight for _, weight in parts) == pytest.approx(3)
    alone = EpisodeAwareSampler(bounds[0][:1], bounds[1][:1], batch_size=12, seed=1)
    assert [weight for _, weight in (alone.part(1, rank, 3) for rank in range(3))] == [3.0, 0.0, 0.0]


def until_logged(run: Path, lines: int, ended: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not (run / "log.csv").exists() or len(rows(run / "log.csv")) < lines:
        assert not ended(), "\n".join(file.read_text() for file in run.parent.glob("**/said*"))
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_process_that_is_told_to_end_ends_all_with_a_checkpoint(configured: Configured, tmp_path: Path) -> None:
    config = configured(steps=100_000, save_freq=100_000, log_freq=10)
    training = start(config, 2)
    until_logged(tmp_path / "run", 2, lambda: not training.processes[0].is_alive())
    os.kill(training.processes[1].pid or 0, signal.SIGINT)
    assert training.wait(60) == [130, 130], training.output()
    assert training.output(0).endswith("stopped; run the same command again to continue\n")
    assert "stopped" not in training.output(1)
    saved = int(os.readlink(tmp_path / "run/checkpoints/last"))
    assert saved >= 20


def test_torchrun_that_is_told_to_end_saves_a_checkpoint(configured: Configured, tmp_path: Path) -> None:
    config = configured(steps=100_000, save_freq=100_000, log_freq=10)
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json(exclude={"policy": {"input_features", "output_features"}}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "lerobot_ops.cli", "train", f"--config_path={file}", "--tracking.enable=false"]
    root = Path(__file__).parents[2]
    with (tmp_path / "said").open("w") as said_to:
        started = subprocess.Popen(command, cwd=root, stderr=said_to, start_new_session=True)
    until_logged(tmp_path / "run", 2, lambda: started.poll() is not None)
    told = time.monotonic()
    started.send_signal(signal.SIGTERM)
    started.wait(60)
    said = (tmp_path / "said").read_text()
    assert time.monotonic() - told < 20
    assert started.returncode
    assert said.count("SIGTERM: saving a checkpoint") == 1, said
    saved = int(os.readlink(tmp_path / "run/checkpoints/last"))
    assert saved >= 20
    again = start(config.altered("resume", True).altered("steps", saved + 1), 2)
    assert again.wait() == [0, 0], again.output()


def test_a_process_that_does_not_answer_ends_the_others(configured: Configured, tmp_path: Path) -> None:
    config = configured(steps=100_000, log_freq=10).altered("parallelism.timeout_s", 3.0)
    training = start(config, 2)
    until_logged(tmp_path / "run", 1, lambda: not training.processes[0].is_alive())
    os.kill(training.processes[1].pid or 0, signal.SIGSTOP)
    training.processes[0].join(60)
    assert training.processes[0].exitcode == 1
    assert "did not answer for 3 s" in training.output(0)
    training.processes[1].kill()
    training.wait()


def test_problems_are_told_once(configured: Configured, tmp_path: Path) -> None:
    missing = start(configured(dataset={"root": tmp_path / "nowhere"}), 2)
    diverging = start(configured(policy={"optimizer_lr": 1e30}, save_freq=1, output_dir=tmp_path / "diverging"), 2)
    codes = missing.wait()
    assert codes == [1, 1]
    assert missing.output(0).startswith("error: ")
    assert missing.output(1) == ""
    codes = diverging.wait()
    assert codes == [1, 1], diverging.output()
    assert re.search(r"error: training has diverged[\s\S]*at step \d+, whose batch has", diverging.output(0))
    assert "diverged" not in diverging.output(1)
    last = os.readlink(tmp_path / "diverging/checkpoints/last")
    weights = load_file(tmp_path / "diverging/checkpoints" / last / "pretrained_model/model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize(
    ("options", "processes", "message"),
    [
        ({"parallelism": {"dp_shard": 2}}, 1, "torchrun --nproc-per-node=2"),
        ({"parallelism": {"dp_shard": 3}}, 4, r"dp_shard=3 for 4 process"),
        ({"parallelism": {"dp_shard": -1, "dp_replicate": 3}}, 4, "cannot be arranged"),
        ({"policy": {"device": "cuda:1"}}, 2, "CUDA_VISIBLE_DEVICES"),
        ({"compile": True, "parallelism": SHARDED}, 2, "not compiled"),
        ({"accelerator": {"mixed_precision": "fp16"}, "parallelism": SHARDED}, 2, "bf16"),
        ({"parallelism": {"dp_shard": 0}}, 1, "dp_shard is a number of parts"),
    ],
)
def test_what_cannot_be_shared(configured: Configured, options: dict, processes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_parallelism(configured(**options), processes)


def test_an_environment_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start the training with torchrun, or unset WORLD_SIZE"):
        process()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert process() == (0, 1, 0)
