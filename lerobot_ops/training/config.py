"""A training's configuration, with LeRobot's names and defaults."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lerobot_ops.config import Config
from lerobot_ops.datasets.transforms.transforms import ImageTransformsConfig
from lerobot_ops.hub.checkpoints import checkpoint_folder, weights_digest
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.config import OptimizerConfig, PeftConfig
from lerobot_ops.policies.registry import AnyPolicyConfig, based
from lerobot_ops.policies.schedules import Schedule
from lerobot_ops.training.ema import EMAConfig
from lerobot_ops.training.lerobot_settings import without_lerobots

NOT_DECIDING = {"output_dir", "job_name", "resume", "log_freq", "save_checkpoint", "save_freq", "keep_checkpoints"}
NOT_DECIDING |= {"num_workers", "prefetch_factor", "cudnn_deterministic", "parallelism"}
"""Fields of a training that its result does not depend on, but for rounding."""


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
    eval_split: float = Field(default=0.0, ge=0, lt=1)
    """The share of every task's episodes, its last ones, that is held out, to see the loss on them."""
    task_weights: dict[str, float] | None = None
    """How often frames of a task are drawn, relative to frames of a task with weight 1, which the others have."""


class AccumulationConfig(Config):
    """Batches that are too large for the memory, in parts."""

    steps: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one step of the optimiser. Unlike LeRobot's, our `steps`, schedules and
    intervals count steps of the optimiser."""


class AcceleratorConfig(Config):
    """How a training computes."""

    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Compute in 16 bits and keep weights in 32; none does what `policy.use_amp` says."""
    gradient_accumulation: AccumulationConfig = AccumulationConfig()
    """Batches for one step of the optimiser."""


class ParallelismConfig(Config):
    """How the processes that torchrun starts share a training; without torchrun there is one."""

    dp_replicate: int = Field(default=1, ge=1)
    """Groups of processes that hold the whole policy; 1 lets every process hold it, unless dp_shard is set."""
    dp_shard: int = Field(default=1, ge=-1)
    """Parts that a policy and its optimiser's state are in, each held by a process (FSDP); -1 as many as there are."""
    timeout_s: float = Field(default=600.0, gt=0)
    """How long a process waits for the gradients of another one before the training ends."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.dp_shard == 0:
            raise ValueError("dp_shard is a number of parts, or -1 for as many as there are processes")
        return self


class EarlyStopConfig(Config):
    """When a training ends before its last step; needs held-out episodes."""

    patience: int = Field(default=0, ge=0)
    """Looks at the held-out episodes in a row without a lower loss, after which training ends; 0 never ends it."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much a loss has to be lower to count."""


class TrainConfig(Config):
    """A training run: policy, data, length, and where it is kept."""

    dataset: TrainDatasetConfig = TrainDatasetConfig()
    """What the policy learns from."""
    policy: AnyPolicyConfig = ACTConfig()
    """What is trained; `policy.type` chooses it, or `policy.path` names a checkpoint to go on from, a folder or
    OWNER/NAME on the Hub, whose configuration it has but for what is given beside."""
    peft: PeftConfig | None = None
    """Train an adapter (LoRA) beside the checkpoint's weights, and leave these as they are."""
    rename_map: dict[str, str] = Field(default_factory=dict)
    """Names of the dataset's observations, each with the policy's name; the checkpoint's preprocessor keeps them."""
    output_dir: Path = Path("outputs/train")
    """The run directory."""
    job_name: str | None = None
    """The name of the run in MLflow."""
    resume: bool | Literal["auto"] = False
    """true continues the run in output_dir; auto continues it, starts it, or returns it when it is finished already."""
    seed: int = Field(default=1000, ge=0)
    """Decides the initial weights, the order of the frames, dropout and noise."""
    cudnn_deterministic: bool = False
    """On a GPU, compute convolutions in a way that gives the same bits every time, and takes longer."""
    batch_size: int = Field(default=8, ge=1)
    """Frames of a batch, of every process: two of them learn from twice as many in a step."""
    steps: int = Field(default=100_000, ge=1)
    """Steps of the optimiser."""
    log_freq: int = Field(default=200, ge=1)
    """Steps between two lines of the log; each is the mean over the steps since the last one."""
    save_checkpoint: bool = True
    """Save checkpoints on the way; false saves the last step's only."""
    save_freq: int = Field(default=20_000, ge=0)
    """Steps between two checkpoints; the last step has one too. 0 saves the last one only."""
    keep_checkpoints: int | None = Field(default=None, ge=1)
    """How many of the latest checkpoints stay, beside the best; none keeps them all."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between two looks at the held-out episodes; 0 looks whenever a checkpoint is due."""
    max_eval_samples: int = Field(default=0, ge=0)
    """Frames of a look, the first ones of every task alike; 0 takes them all."""
    early_stop: EarlyStopConfig = EarlyStopConfig()
    """When to end before the last step."""
    ema: EMAConfig = EMAConfig()
    """Keep an average of the weights."""
    use_policy_training_preset: bool = True
    """Train with the policy's own optimiser and schedule; else with `optimizer` and `scheduler`."""
    optimizer: OptimizerConfig | None = None
    """In place of the preset's."""
    scheduler: Schedule | None = None
    """In place of the preset's; none leaves the learning rate as it is."""
    accelerator: AcceleratorConfig = AcceleratorConfig()
    """How a training computes."""
    parallelism: ParallelismConfig = ParallelismConfig()
    """How the processes that torchrun starts share the training."""
    compile: bool = False
    """Compile the policy with torch.compile: the first steps take minutes, the others less time."""
    tolerance_s: float = Field(default=1e-4, gt=0)
    """How far a frame's timestamp may be from the one that is asked for, in seconds."""
    num_workers: int = Field(default=4, ge=0)
    """Threads that decode batches ahead of the training; 0 decodes each when it is needed."""
    prefetch_factor: int = Field(default=4, ge=1)
    """Batches that are decoded before they are needed."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads of one computation; none leaves it to torch. Sums are rounded differently with another number."""

    @model_validator(mode="before")
    @classmethod
    def _without_lerobots(cls, values: Any) -> Any:
        return without_lerobots(values) if isinstance(values, dict) else values

    @model_validator(mode="before")
    @classmethod
    def _from_checkpoint(cls, values: Any) -> Any:
        """The configuration of the checkpoint that `policy.path` names, with the rest of `policy` on top."""
        policy = values.get("policy") if isinstance(values, dict) else None
        if not isinstance(policy, dict) or policy.get("path") is None:
            return values
        return {**values, "policy": based(policy)}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.early_stop.patience and not self.dataset.eval_split:
            raise ValueError("early_stop needs held-out episodes: set dataset.eval_split")
        if self.use_policy_training_preset and self.optimizer not in (None, self.policy.optimizer()):
            raise ValueError("optimizer needs use_policy_training_preset=false")
        if self.use_policy_training_preset and self.scheduler not in (None, self.policy.scheduler()):
            raise ValueError("scheduler needs use_policy_training_preset=false")
        if not self.use_policy_training_preset and self.optimizer is None:
            raise ValueError("use_policy_training_preset=false needs an optimizer")
        if any(not name.startswith("observation") for pair in self.rename_map.items() for name in pair):
            raise ValueError("rename_map is for observations, from names of the dataset to names of the policy")
        if any(weight < 0 for weight in (self.dataset.task_weights or {}).values()):
            raise ValueError("dataset.task_weights are not negative")
        return self

    def identity(self, dataset_digest: str) -> dict[str, Any]:
        """What decides the checkpoint, as JSON: no paths and intervals, and the dataset by its digest."""
        content = self.model_dump(mode="json", include=set(TrainConfig.model_fields) - NOT_DECIDING)
        # What is off decides nothing, and its fields may change.
        switched: dict[str, Any] = {
            "image_transforms": self.dataset.image_transforms.enable,
            "task_weights": self.dataset.task_weights,
            "eval_split": self.dataset.eval_split,
        }
        for name in ("root", "frame_cache", *(name for name, on in switched.items() if not on)):
            del content["dataset"][name]
        stops = self.early_stop.patience > 0
        options = {"ema": self.ema.enable, "early_stop": stops, "eval_steps": stops, "max_eval_samples": stops}
        options |= {"compile": self.compile, "accelerator": self.accelerator != AcceleratorConfig()}
        options |= dict.fromkeys(("optimizer", "scheduler"), not self.use_policy_training_preset)
        options |= {"peft": self.peft is not None, "rename_map": bool(self.rename_map)}
        options["use_policy_training_preset"] = not self.use_policy_training_preset
        for name in (name for name, on in options.items() if not on):
            del content[name]
        content["dataset"]["digest"] = dataset_digest
        if self.policy.pretrained_path is not None:  # by its content, wherever it lies
            folder = checkpoint_folder(self.policy.pretrained_path, self.policy.pretrained_revision)
            content["policy"] |= {"pretrained_path": weights_digest(folder), "pretrained_revision": None}
        return content
