"""A training's configuration, with LeRobot's names and defaults."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.datasets.transforms import ImageTransformsConfig
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.registry import AnyPolicyConfig


class TrainDatasetConfig(Config):
    """What a policy learns from."""

    repo_id: str | None = None
    """The dataset's name, owner/name, for the model card."""
    root: Path = Path()
    """The dataset's folder, with meta/ and data/ in it."""
    episodes: list[int] | None = None
    """Learn from these episodes only."""
    use_imagenet_stats: bool = True
    """Normalise cameras by ImageNet's mean and standard deviation, which pretrained backbones expect."""
    image_transforms: ImageTransformsConfig = ImageTransformsConfig()
    """Random changes of the cameras' frames."""
    frame_cache: Path | None = None
    """Decode all frames once, into this directory, and read them from there: 0.7 MB for a frame of 480x480."""


class TrainConfig(Config):
    """A training run: policy, data, length, and where it is kept."""

    dataset: TrainDatasetConfig = TrainDatasetConfig()
    """What the policy learns from."""
    policy: AnyPolicyConfig = ACTConfig()
    """What is trained; `policy.type` chooses it."""
    output_dir: Path = Path("outputs/train")
    """The run directory."""
    resume: bool | Literal["auto"] = False
    """true continues the run in output_dir; auto continues it, starts it, or returns it when it is finished already."""
    seed: int = Field(default=1000, ge=0)
    """Decides the initial weights, the order of the frames, dropout and noise."""
    batch_size: int = Field(default=8, ge=1)
    steps: int = Field(default=100_000, ge=1)
    """Batches, each followed by one step of the optimiser."""
    log_freq: int = Field(default=200, ge=1)
    """Steps between two lines of the log; each is the mean over the steps since the last one."""
    save_freq: int = Field(default=20_000, ge=1)
    """Steps between two checkpoints; the last step has one too."""
    keep_checkpoints: int | None = Field(default=None, ge=1)
    """How many of the latest checkpoints stay; none keeps them all."""
    tolerance_s: float = Field(default=1e-4, gt=0)
    """How far a frame's timestamp may be from the one that is asked for, in seconds."""
    num_workers: int = Field(default=4, ge=1)
    """Threads that decode batches ahead of the training."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads of one computation; none leaves it to torch. Sums are rounded differently with another number."""

    def identity(self, dataset_digest: str) -> dict[str, Any]:
        """What decides the checkpoint, as JSON: no paths and intervals, and the dataset by its digest."""
        content = self.model_dump(mode="json", include=set(TrainConfig.model_fields))
        for name in ("output_dir", "resume", "log_freq", "save_freq", "keep_checkpoints", "num_workers"):
            del content[name]
        for name in ("root", "frame_cache", *([] if self.dataset.image_transforms.enable else ["image_transforms"])):
            del content["dataset"][name]
        content["dataset"]["digest"] = dataset_digest
        return content
