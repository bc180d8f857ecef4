"""Command lines and configurations of LeRobot's training, as they are pasted."""

import json
from pathlib import Path

import pytest

from lerobot_ops.errors import ConfigError
from lerobot_ops.flags import parse
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.lerobot_settings import goes_on_from

PASTED = """
    --dataset.repo_id=lerobot/pusht --policy.type=diffusion --policy.device=cpu --policy.push_to_hub=false
    --policy.repo_id=me/policy --output_dir=outputs/train/pusht --job_name=pusht --batch_size=64 --steps=200000
    --save_freq=25000 --save_checkpoint=true --log_freq=100 --seed=100000 --cudnn_deterministic=false --num_workers=0
    --prefetch_factor=2 --persistent_workers=true --dataloader_multiprocessing_context=fork --wandb.enable=false
    --wandb.project=pusht --wandb.disable_artifact=true --dataset.video_backend=pyav --dataset.streaming=false
    --dataset.image_transforms.enable=true --save_checkpoint_to_hub=false --job.target=local --tolerance_s=0.001
    --accelerator.mixed_precision=bf16 --accelerator.ddp.find_unused_parameters=true --parallelism.dp_shard=-1
"""


def test_a_pasted_command_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    (tmp_path / "lerobot/pusht").mkdir(parents=True)
    config = parse(TrainConfig, PASTED.split())
    assert config.dataset.root == tmp_path / "lerobot/pusht"
    assert (config.job_name, config.num_workers, config.prefetch_factor) == ("pusht", 0, 2)
    assert config.parallelism.dp_shard == -1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--wandb.enable=true", r"metrics are logged to MLflow.*--wandb\.enable=false"),
        ("--job.target=a10g-small", "run this on the machine"),
        ("--save_checkpoint_to_hub=true", "lerobot-ops publish"),
        ("--dataset.streaming=true", "--dataset.root"),
        ("--sample_weighting.type=rabc", "task_weights"),
        ("--parallelism.cfg_parallel=2", "only data is parallel"),
        ("--prefetch_facto=2", "did you mean 'prefetch_factor'"),
    ],
)
def test_what_is_done_otherwise_here_is_said(flag: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(TrainConfig, [flag])


def test_a_configuration_that_lerobot_wrote_is_understood(tmp_path: Path) -> None:
    """With its defaults, as far as they are not ours."""
    written = {
        "dataset": {"repo_id": "a/b", "root": None, "revision": None, "video_backend": "torchcodec"},
        "env": None,
        "policy": {"type": "act", "dim_model": 64, "push_to_hub": False, "pretrained_path": None},
        "reward_model": None,
        "output_dir": str(tmp_path),
        "optimizer": {"type": "adamw", "lr": 1e-05, "weight_decay": 0.0001, "grad_clip_norm": 10.0},
        "scheduler": {"type": "of a later version"},
        "use_policy_training_preset": True,
        "wandb": {"enable": False, "project": "lerobot", "run_id": None},
        "peft": None,
        "job": {"target": None, "timeout": "2d"},
        "sample_weighting": None,
        "rename_map": {},
        "checkpoint_path": None,
        "save_freq": -1,
    }
    written["dataset"] |= {"return_uint8": False, "depth_output_unit": "mm", "streaming": False, "repo_type": "dataset"}
    file = tmp_path / "train_config.json"
    file.write_text(json.dumps(written))
    config = parse(TrainConfig, [f"--config_path={file}"])
    assert config.optimizer is None
    assert config.save_freq == 0
    assert config.policy.type == "act"


def test_a_checkpoint_says_which_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoints/000010/pretrained_model"
    folder.mkdir(parents=True)
    flags = [f"--config_path={folder}", "--resume=true"]
    both = [f"--config_path={folder}/train_config.json", "--resume=true", f"--output_dir={tmp_path / 'run'}"]
    assert goes_on_from(flags) == goes_on_from(both[:2]) == both
    assert goes_on_from(["--config_path=params.yaml:train", "--resume=true"]) == [
        "--config_path=params.yaml:train",
        "--resume=true",
    ]
