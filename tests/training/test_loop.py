"""What a training can do besides steps: accumulate, average, look at held-out episodes, end early, be told to end."""

import json
import logging
import os
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

from lerobot_ops.cli import main
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.errors import ConfigError, OpsError
from lerobot_ops.policies import load_policy
from lerobot_ops.policies.checkpoint import load_checkpoint
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.data import BatchReader
from lerobot_ops.training.dry_run import dry_run
from lerobot_ops.training.ema import EMAConfig
from lerobot_ops.training.holdout import parted, sampled_frames
from lerobot_ops.training.sampler import EpisodeAwareSampler, frame_weights
from lerobot_ops.training.train import train
from tests.training.test_train import KILLED, content, interrupt_at, rows

Configured = Callable[..., TrainConfig]
PLAIN = {"use_vae": False, "dropout": 0.0}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def eval_losses(root: Path) -> dict[int, float]:
    return {int(row["step"]): row["eval_loss"] for row in rows(root / "eval_loss.csv")}


def test_accumulated_gradients_are_those_of_one_large_batch(configured: Configured, tmp_path: Path) -> None:
    policy = {**PLAIN, "chunk_size": 1, "n_action_steps": 1}  # no chunk is cut off, so that every frame weighs the same
    # With such an epsilon Adam's step is the gradient's, not its sign's.
    own = {"type": "adam", "lr": 1.0, "weight_decay": 0.0, "grad_clip_norm": 0.0, "eps": 10.0}
    usual = {"steps": 3, "policy": policy, "use_policy_training_preset": False, "optimizer": own}
    large = configured(batch_size=8, output_dir=tmp_path / "large", **usual)
    parts = configured(batch_size=4, output_dir=tmp_path / "parts", **usual)
    parts = parts.altered("accelerator.gradient_accumulation.steps", 2)
    one, other = (weights(train(config).checkpoint) for config in (large, parts))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)
    state = json.loads((tmp_path / "parts/checkpoints/last/training_state/training_step.json").read_text())
    assert (state["step"], state["batch_size"], state["grad_accum_steps"]) == (3, 4, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"accelerator": {"gradient_accumulation": {"steps": 3}}},
        {"accelerator": {"mixed_precision": "bf16"}},
        {"ema": {"enable": True}},
        {"dataset": {"eval_split": 0.25}, "eval_steps": 3},
        {
            "use_policy_training_preset": False,
            "optimizer": {"type": "adam", "lr": 1e-3, "weight_decay": 0, "grad_clip_norm": 1},
            "scheduler": {"type": "diffuser", "name": "linear", "num_warmup_steps": 2},
        },
    ],
    ids=["accumulation", "bf16", "ema", "held-out", "own optimiser"],
)
def test_resumed_is_as_if_it_had_not_been_interrupted(
    configured: Configured, tmp_path: Path, options: dict[str, object]
) -> None:
    config = configured(resume="auto", **options)
    interrupt_at(config, 8)
    resumed = train(config)
    whole = train(configured(output_dir=tmp_path / "whole", resume="auto", **options))
    assert content(resumed.output_dir) == content(whole.output_dir)


def test_the_average_of_the_weights(configured: Configured) -> None:
    result = train(configured(ema={"enable": True, "decay": 0.5}, save_freq=1, steps=4))
    steps = [result.output_dir / f"checkpoints/00000{step}" for step in (1, 2, 3, 4)]
    average = weights(steps[0] / "pretrained_model")
    for step in steps[1:]:
        present = weights(step / "pretrained_model")
        average = {name: torch.lerp(average[name], present[name], 0.5) for name in average}
        kept = weights(step / "pretrained_model_ema")
        for name, tensor in kept.items():
            torch.testing.assert_close(tensor, average[name], rtol=1e-6, atol=1e-7)
    assert load_policy(steps[-1] / "pretrained_model_ema").config.chunk_size == 5


def test_the_decay_grows_with_the_steps() -> None:
    decays = [EMAConfig(update_after_step=2, max_decay=0.9).decay_at(step) for step in range(1, 200)]
    assert decays[:3] == [0, 0, 0]
    assert decays[3] == pytest.approx(1 - 2**-0.75)
    assert decays == sorted(decays)
    assert decays[-1] == 0.9


def test_held_out_episodes_are_the_last_ones_of_each_task(dataset: Path) -> None:
    view = LeRobotDataset(dataset)
    assert parted(view, 0.25) == ([0, 1, 2], [3])
    assert parted(view, 0.3) == ([0, 1], [2, 3])
    with pytest.raises(ConfigError, match=r"eval_split[\s\S]*0\.9 of the 4 episode"):
        parted(view, 0.9)
    assert len(sampled_frames(view, 0)) == view.num_frames
    assert sampled_frames(view, 7).tolist() == list(range(7))


def test_the_loss_on_held_out_episodes(configured: Configured) -> None:
    seen: dict[int, dict[str, float]] = {}

    def note(step: int, metrics: dict[str, float]) -> None:
        seen.setdefault(step, {}).update(metrics)

    config = configured(dataset={"eval_split": 0.25}, eval_steps=6, steps=60, save_freq=30, batch_size=16)
    result = train(config, on_metrics=note)
    losses = eval_losses(result.output_dir)
    assert list(losses) == list(range(6, 61, 6))
    assert {step: metrics["eval_loss"] for step, metrics in seen.items() if "eval_loss" in metrics} == losses
    best = min((30, 60), key=losses.__getitem__)
    assert os.readlink(result.output_dir / "checkpoints/best") == f"{best:06d}"

    trained, held = load_checkpoint(result.checkpoint), LeRobotDataset(config.dataset.root, episodes=[3])
    batch = BatchReader(held, trained.policy.config)(np.arange(11))
    with torch.no_grad():
        loss, _ = trained.policy(trained.preprocessor(batch))
    assert losses[60] == pytest.approx(loss.item(), rel=1e-6)


def test_looking_changes_nothing(configured: Configured, tmp_path: Path) -> None:
    often, seldom = (
        train(configured(dataset={"eval_split": 0.25}, eval_steps=steps, output_dir=tmp_path / str(steps)))
        for steps in (1, 12)
    )
    assert content(often.checkpoint) == content(seldom.checkpoint)


def test_training_ends_early_and_is_finished(configured: Configured) -> None:
    options = {"dataset": {"eval_split": 0.25}, "eval_steps": 2, "early_stop": {"patience": 3, "min_delta": 10.0}}
    config = configured(steps=1000, save_freq=4, keep_checkpoints=1, resume="auto", **options)
    result = train(config)
    assert result.steps == 8  # the first look counts, three more were no better by 10
    assert list(eval_losses(result.output_dir)) == [2, 4, 6, 8]
    before = content(result.output_dir)
    assert train(config) == result
    assert content(result.output_dir) == before


def test_the_best_checkpoint_stays(configured: Configured) -> None:
    options = {"dataset": {"eval_split": 0.25}, "policy": {"optimizer_lr": 0.1}, "save_freq": 2, "steps": 10}
    result = train(configured(keep_checkpoints=1, **options))
    losses = eval_losses(result.output_dir)
    best = min(losses, key=losses.__getitem__)
    assert best < 10  # a learning rate that makes it worse and worse
    kept = sorted(path.name for path in (result.output_dir / "checkpoints").iterdir())
    assert kept == sorted({f"{best:06d}", "000010", "best", "last"})


def test_early_stopping_needs_episodes_to_look_at(configured: Configured) -> None:
    with pytest.raises(ConfigError, match=r"early_stop needs held-out episodes: set dataset\.eval_split"):
        configured(early_stop={"patience": 2})


def test_frames_are_drawn_by_the_weight_of_their_task(dataset: Path) -> None:
    view = LeRobotDataset(dataset)
    assert frame_weights(view, None) is None
    with pytest.raises(ConfigError, match="did you mean 'reach the target'"):
        frame_weights(view, {"reach the targets": 2.0})
    first, last = view.episode_bounds
    odds = np.where(np.arange(view.num_frames) < first[1], 3.0, 1.0)
    sampler = EpisodeAwareSampler(first, last, batch_size=50, seed=0, weights=odds)
    drawn = np.concatenate([sampler.batch(step) for step in range(2000)])
    share = np.mean(drawn < first[1])
    assert share == pytest.approx(3 * 13 / (3 * 13 + 37), abs=0.01)
    assert np.array_equal(
        sampler.batch(3), EpisodeAwareSampler(first, last, batch_size=50, seed=0, weights=odds).batch(3)
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_told_to_end_it_saves_and_goes_on_later(configured: Configured, tmp_path: Path, number: signal.Signals) -> None:
    config = configured(steps=100_000, save_freq=100_000, log_freq=10)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, config.model_dump_json()],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/log.csv").exists() or len(rows(tmp_path / "run/log.csv")) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    told = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - told < 10
    assert process.returncode == 143 if number == signal.SIGTERM else process.returncode
    assert f"{number.name}: saving a checkpoint" in said.decode()
    saved = int(os.readlink(tmp_path / "run/checkpoints/last"))
    assert saved >= 30
    resumed = train(configured(steps=saved + 5, save_freq=100_000, log_freq=10, resume=True))
    whole = train(configured(steps=saved + 5, save_freq=100_000, log_freq=10, output_dir=tmp_path / "whole"))
    assert content(resumed.checkpoint) == content(whole.checkpoint)


def test_divergence_says_which_episodes(configured: Configured) -> None:
    with pytest.raises(OpsError, match=r"at step \d+, whose batch has frames of the episodes \d") as caught:
        train(configured(policy={"optimizer_lr": 1e30}, save_freq=1, steps=50))
    assert "validate" in str(caught.value)


def test_a_checkpoint_that_cannot_be_written_ends_the_training(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def block(step: int, _: dict[str, float]) -> None:
        if step == 4:
            (tmp_path / "run/checkpoints").mkdir(exist_ok=True)
            (tmp_path / "run/checkpoints/000005").write_text("in the way")

    with pytest.raises((OpsError, OSError)):
        train(configured(), on_metrics=block)
    assert not (tmp_path / "run/pretrained_model").exists()


def test_waiting_for_data_is_said_once(
    configured: Configured, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = BatchReader.__call__

    def slow(self: BatchReader, rows: np.ndarray, epoch: int = 0) -> dict[str, object]:
        time.sleep(0.2)
        return quick(self, rows, epoch)

    monkeypatch.setattr(BatchReader, "__call__", slow)
    with caplog.at_level(logging.WARNING):
        train(configured())
    said = [record.getMessage() for record in caplog.records if "waiting for data" in record.getMessage()]
    assert len(said) == 1
    assert "num_workers (4 now)" in said[0]


def test_a_dry_run_shows_what_training_would_do(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(ema={"enable": True})
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json(exclude={"policy": {"input_features", "output_features"}}))
    main(["train", f"--config_path={file}", "--dry_run=true"])
    said = capsys.readouterr().out
    assert "policy.chunk_size: 5\n" in said
    assert "observation.state: (4, 4)\n" in said
    assert "action: (4, 5, 4)\n" in said
    assert "dataset: 4 episodes, 50 frames; 0.9 epochs\n" in said
    assert not config.output_dir.exists()

    found, trained = dry_run(config), train(config)
    floats = sum(tensor.numel() for tensor in weights(trained.checkpoint).values())
    assert found.memory["weights"] == found.memory["average of the weights"] == 4 * floats
    assert found.memory["gradients"] == 4 * found.learned
    assert found.memory["optimiser"] >= 8 * found.learned
    assert found.memory["activations"] > 0
