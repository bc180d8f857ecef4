"""Training runs: what they leave, and that an interrupted one ends like one that was not."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lerobot_ops.errors import ArtifactError, CheckpointError, ConfigError, OpsError
from lerobot_ops.policies import load_policy
from lerobot_ops.policies.inference import PolicyRunner
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
from lerobot_ops.versioning.digest import digest
from tests.training.lessons import CAMERA

Configured = Callable[..., TrainConfig]


def content(root: Path) -> dict[str, bytes]:
    """Every file below `root`, without what says when it happened."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "log.csv")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def rows(file: Path) -> list[dict[str, float]]:
    with file.open() as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def test_a_training_run(configured: Configured, tmp_path: Path) -> None:
    seen: dict[int, dict[str, float]] = {}
    result = train(configured(), on_metrics=lambda step, metrics: seen.update({step: metrics}))
    run = tmp_path / "run"
    assert result.checkpoint == run / "pretrained_model"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000005", "000010", "000012", "last"]
    assert os.readlink(run / "checkpoints/last") == "000012"
    names = {"config.json", "model.safetensors", "train_config.json", "manifest.json"}
    names |= {"policy_preprocessor.json", "policy_preprocessor_step_3_normalizer_processor.safetensors"}
    names |= {"policy_postprocessor.json", "policy_postprocessor_step_0_unnormalizer_processor.safetensors"}
    assert {path.name for path in result.checkpoint.iterdir()} == names
    assert [row["step"] for row in rows(run / "log.csv")] == [4, 8, 12] == list(seen)
    assert rows(run / "loss.csv")[-1]["loss"] == pytest.approx(seen[12]["loss"], rel=1e-6)
    assert result.metrics == pytest.approx(seen[12], rel=1e-6)
    assert set(seen[12]) == {"loss", "lr", "grad_norm", "steps_per_s", "data_s", "update_s"}
    assert load_policy(result.checkpoint).config.chunk_size == 5


def test_the_training_state_is_laid_out_as_lerobots(configured: Configured, tmp_path: Path) -> None:
    train(configured())
    state = tmp_path / "run/checkpoints/last/training_state"
    step = json.loads((state / "training_step.json").read_text())
    assert (step["step"], step["batch_size"], step["dp_world_size"]) == (12, 4, 1)
    groups = json.loads((state / "optimizer_param_groups.json").read_text())
    tensors = load_file(state / "optimizer_state.safetensors")
    indices = [index for group in groups for index in group["params"]]
    assert indices == list(range(len(indices)))
    expected = {f"state/{index}/{name}" for index in indices for name in ("exp_avg", "exp_avg_sq", "step")}
    assert set(tensors) == expected
    assert tensors["state/0/step"].item() == 12
    assert {"torch_rng_state", "py_rng_state", "np_rng_state_values"} <= set(load_file(state / "rng_state.safetensors"))


def test_the_same_training_gives_the_same_bytes_anywhere(configured: Configured, tmp_path: Path) -> None:
    one, other = (train(configured(output_dir=tmp_path / name)) for name in ("one", "deep/other"))
    assert content(one.output_dir) == content(other.output_dir)
    text = b"".join(body for body in content(one.checkpoint).values())
    assert str(tmp_path).encode() not in text


def test_killed_and_resumed_is_as_if_it_had_not_been(configured: Configured, tmp_path: Path) -> None:
    config = configured(steps=900, save_freq=70, log_freq=30, batch_size=8)
    whole = train(config.altered("output_dir", tmp_path / "whole"))
    command = [sys.executable, "-c", KILLED, config.model_dump_json()]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoints/000140").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("0*"))
    assert saved[-1] < "000900"
    assert not (tmp_path / "run/pretrained_model").exists()

    half_written = tmp_path / "run/checkpoints/.000500.partial-0123456789ab"
    (half_written / "pretrained_model").mkdir(parents=True)

    steps: list[int] = []
    resumed = train(config.altered("resume", True), on_metrics=lambda step, _: steps.append(step))
    assert steps[0] > int(saved[-1])
    assert not half_written.exists()
    assert content(resumed.checkpoint) == content(whole.checkpoint)
    assert content(resumed.output_dir / "checkpoints/000900") == content(whole.output_dir / "checkpoints/000900")
    assert (resumed.output_dir / "loss.csv").read_bytes() == (whole.output_dir / "loss.csv").read_bytes()


KILLED = """
import sys
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.train import train
train(TrainConfig.model_validate_json(sys.argv[1]))
"""


def interrupt_at(config: TrainConfig, step: int) -> None:
    """Train until the log line of `step`, and stop as if a user had."""

    def stop(at: int, _: dict[str, float]) -> None:
        if at == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, on_metrics=stop)


def test_auto_starts_continues_and_returns(configured: Configured, tmp_path: Path) -> None:
    config = configured(resume="auto")
    interrupt_at(config, 8)
    starts: list[int] = []
    lines: list[int] = []
    result = train(config, on_metrics=lambda step, _: lines.append(step), on_start=lambda: starts.append(1))
    assert lines == [8, 12]
    before = content(result.output_dir)
    again = train(config, on_metrics=lambda step, _: lines.append(step), on_start=lambda: starts.append(1))
    assert again == result
    assert (lines, starts) == ([8, 12], [1])
    assert content(result.output_dir) == before
    whole = train(configured(output_dir=tmp_path / "whole"))
    assert content(whole.output_dir) == before


def test_auto_moves_another_training_aside(configured: Configured, tmp_path: Path) -> None:
    first = digest(train(configured(resume="auto")).checkpoint)
    for seed in (2, 1000, 3, 1000):
        last = digest(train(configured(resume="auto", seed=seed)).checkpoint)
    assert last == first
    assert len(list(tmp_path.glob("run.old-*"))) == 4


def test_a_product_that_was_removed_is_exported_again(configured: Configured) -> None:
    result = train(configured(resume="auto"))
    before = content(result.checkpoint)
    for file in result.checkpoint.iterdir():
        file.unlink()
    result.checkpoint.rmdir()
    assert content(train(configured(resume="auto")).checkpoint) == before


def test_a_finished_training_can_become_longer(configured: Configured, tmp_path: Path) -> None:
    train(configured(steps=8))
    longer = train(configured(resume=True))
    at_once = train(configured(output_dir=tmp_path / "whole"))
    assert content(longer.checkpoint) == content(at_once.checkpoint)
    with pytest.raises(ConfigError, match="longer already"):
        train(configured(resume=True, steps=8))


def test_what_resume_refuses(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no training to resume"):
        train(configured(resume=True))
    assert not (tmp_path / "run").exists()
    train(configured())
    with pytest.raises(ArtifactError, match="--resume=true"):
        train(configured())
    with pytest.raises(ConfigError, match=r"policy\.dropout: 0\.1 there, 0\.2 here"):
        train(configured(resume=True, policy={"dropout": 0.2}))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    for resume in (False, "auto"):
        with pytest.raises(ArtifactError, match="no training's"):
            train(configured(output_dir=tmp_path / "photos", resume=resume))


def test_a_damaged_checkpoint_is_refused(configured: Configured, tmp_path: Path) -> None:
    interrupt_at(configured(), 8)
    state = tmp_path / "run/checkpoints/000005/training_state/optimizer_state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"optimizer_state\.safetensors"):
        train(configured(resume=True))


def test_only_the_latest_checkpoints_stay(configured: Configured, tmp_path: Path) -> None:
    train(configured(keep_checkpoints=2))
    assert [path.name for path in sorted((tmp_path / "run/checkpoints").glob("0*"))] == ["000010", "000012"]


def test_two_trainings_do_not_share_an_output(configured: Configured) -> None:
    def begin_another(*_: object) -> None:
        for seed in (1000, 2):
            with pytest.raises(ArtifactError, match="another process"):
                train(configured(resume="auto", seed=seed))

    train(configured(), on_metrics=begin_another)


@pytest.mark.parametrize("use_vae", [True, False])
def test_it_learns(configured: Configured, use_vae: bool) -> None:
    config = configured(steps=400, log_freq=50, save_freq=400, batch_size=16, policy={"use_vae": use_vae, "dropout": 0})
    result = train(config.altered("policy.optimizer_lr", 3e-3))
    losses = [row["loss"] for row in rows(result.output_dir / "loss.csv")]
    assert losses[-1] < losses[0] / 3


def test_a_policy_with_a_camera(configured: Configured, filmed: Path) -> None:
    values = {"dataset": {"root": filmed}, "steps": 2, "save_freq": 1, "batch_size": 2}
    result = train(configured(**values))
    tensors = load_file(result.checkpoint / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    assert tensors[f"{CAMERA}.mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    runner = PolicyRunner.from_checkpoint(result.checkpoint)
    assert runner.cameras == [CAMERA]

    own = configured(**{**values, "dataset": {"root": filmed, "use_imagenet_stats": False}, "resume": "auto"})
    tensors = load_file(train(own).checkpoint / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    assert tensors[f"{CAMERA}.mean"].flatten().tolist() != pytest.approx([0.485, 0.456, 0.406], abs=1e-3)


def test_starting_from_a_checkpoint(configured: Configured, tmp_path: Path) -> None:
    first = train(configured(output_dir=tmp_path / "first"))
    second = train(configured(policy={"pretrained_path": str(first.checkpoint)}, steps=1))
    before, after = (load_file(result.checkpoint / "model.safetensors") for result in (first, second))
    change = max((after[name] - before[name]).abs().max().item() for name in before)
    assert 0 < change < 2e-3  # one step of Adam
    config = json.loads((second.checkpoint / "config.json").read_text())
    assert config["pretrained_path"] is None


def test_divergence_is_an_error(configured: Configured) -> None:
    with pytest.raises(OpsError, match=r"diverged[\s\S]*optimizer_lr"):
        train(configured(policy={"optimizer_lr": 1e30}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy": {"type": "atc"}}, r"unknown policy type 'atc'.*did you mean 'act'"),
        ({"policy": {"type": "act", "chunk_siez": 3}}, "did you mean 'chunk_size'"),
        ({"batch_sise": 3}, "did you mean 'batch_size'"),
        ({"policy": {"n_action_steps": 9}}, r"n_action_steps \(9\) is at most chunk_size \(5\)"),
    ],
)
def test_a_wrong_parameter(configured: Configured, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(**values)


def test_an_output_that_cannot_be_written(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="written"):
        train(configured(output_dir=tmp_path / "file/run"))
