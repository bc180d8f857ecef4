"""What the configurations of all policies share, with LeRobot's field names and in the order of its `config.json`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lerobot_ops.config import Config
from lerobot_ops.policies.schedules import Schedule
from lerobot_ops.processors.features import FeatureType, NormalizationMode, PolicyFeature

if TYPE_CHECKING:
    from lerobot_ops.policies.policy import Policy

    PolicyClass = type[Policy]


class OptimizerConfig(Config):
    """The optimiser that a policy is trained with."""

    type: str
    """`adamw` or `adam`."""
    lr: float = Field(gt=0)
    """Learning rate; a parameter group may have its own."""
    weight_decay: float = Field(ge=0)
    grad_clip_norm: float = Field(ge=0)
    """Gradients are scaled down to this norm; 0 leaves them."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def adam_preset(policy: Any) -> OptimizerConfig:
    """Adam with the fields `optimizer_*` of a policy's configuration."""
    return OptimizerConfig(
        type="adam",
        lr=policy.optimizer_lr,
        weight_decay=policy.optimizer_weight_decay,
        grad_clip_norm=10.0,
        betas=policy.optimizer_betas,
        eps=policy.optimizer_eps,
    )


class PeftConfig(Config):
    """An adapter that is trained beside a pretrained policy's weights, which stay as they are; LeRobot's names."""

    method_type: Annotated[Literal["LORA"], BeforeValidator(lambda value: str(value).upper())] = "LORA"
    """LoRA: the product of two thin matrices is added to a layer's weight."""
    target_modules: list[str] | str | None = None
    """The layers that get one: ends of their names, a regular expression for all of the name, or `all-linear`; none
    takes those that the policy names (see `Policy.adapts`)."""
    full_training_modules: list[str] | None = None
    """Ends of the names of modules that are trained themselves, and saved whole; peft's `modules_to_save`."""
    init_type: Literal["gaussian", "orthogonal"] | None = None
    """How an adapter begins, always as one that changes nothing; none is peft's default (Kaiming, and zero)."""
    r: int = Field(default=16, ge=1)
    """The rank: the width of the thin matrices."""
    lora_alpha: int | None = Field(default=None, ge=1)
    """The product is scaled by lora_alpha / r; none is peft's 8."""


class PolicyConfig(Config):
    """A policy's inputs, outputs and where it runs. Subclasses fix `type` and add their own fields."""

    type: str
    n_obs_steps: int = Field(default=1, ge=1)
    """How many of the latest observations the policy sees."""
    input_features: dict[str, PolicyFeature] = Field(default_factory=dict)
    """What the policy reads; left empty, training takes all observations of the dataset."""
    output_features: dict[str, PolicyFeature] = Field(default_factory=dict)
    """What the policy computes; training takes the dataset's action."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, `mps`; none chooses the best that is there."""
    use_amp: bool = False
    """LeRobot's field: compute in 16 bits where `accelerator.mixed_precision` says nothing."""
    use_peft: bool = False
    """Whether the checkpoint is an adapter (`policies.peft`); training sets it."""
    push_to_hub: bool = False
    """LeRobot's field; publishing is an operation of its own here."""
    repo_id: str | None = None
    """The model's repository on the Hub."""
    private: bool | None = None
    """Whether that repository is private."""
    tags: list[str] | None = None
    """Tags of the model card."""
    license: str | None = None
    """License of the model card."""
    pretrained_path: str | None = None
    """The checkpoint whose weights training starts from: a folder, or OWNER/NAME on the Hub."""
    pretrained_revision: str | None = None
    """The revision of `pretrained_path` on the Hub."""

    def policy_class(self) -> "PolicyClass":
        """The torch module of this policy; importing it is what costs."""
        raise NotImplementedError

    def optimizer(self) -> OptimizerConfig:
        """The training preset."""
        raise NotImplementedError

    def scheduler(self) -> Schedule | None:
        """How the learning rate changes over a training; none leaves it."""
        return None

    @property
    def normalization(self) -> dict[FeatureType, NormalizationMode]:
        """How each type of feature is scaled; what is not named stays as it is."""
        raise NotImplementedError

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """The frames before the present one that the policy reads, as offsets; none for the present one alone."""
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        """The frames whose actions the policy learns, as offsets from the present one."""
        raise NotImplementedError

    @property
    def n_last_frames_dropped(self) -> int:
        """The last frames of an episode that training does not start from."""
        return 0

    @property
    def n_actions(self) -> int:
        """How many actions one query of the policy gives to execute."""
        raise NotImplementedError

    @property
    def keeps_memory(self) -> bool:
        """Whether an action depends on earlier queries of the episode, and not on the observation alone.

        Such a policy is asked at every step, through `select_action`, and sees every observation of the episode.
        """
        return False

    @property
    def remembers_chunks_only(self) -> bool:
        """Of a policy that keeps memory: whether that is of its own chunks alone, which `Policy.combined` makes use of.

        Its chunks can then be predicted for several episodes in one batch.
        """
        return False

    @property
    def is_random(self) -> bool:
        """Whether a query draws random numbers: `predict_chunk` then takes `draws`."""
        return False

    @property
    def tokenizer(self) -> dict[str, Any] | None:
        """How instructions become tokens, as `processors.tokenizer.Tokenize` takes it; none for who follows none."""
        return None

    def reads(self, name: str, feature: PolicyFeature) -> bool:
        """Whether this observation of a dataset is an input when the configuration names none."""
        return True

    def check_features(self) -> None:
        """Raise ConfigError unless the policy can work with its input and output features."""

    def portable(self) -> "PolicyConfig":
        """The configuration as a checkpoint holds it: complete, and without paths of this machine.

        Initial weights of a backbone that lie in a file are not named: the checkpoint has the trained ones.
        """
        update: dict[str, Any] = {"pretrained_path": None, "pretrained_revision": None}
        weights: str | None = getattr(self, "pretrained_backbone_weights", None)
        if weights is not None and "_Weights." not in weights:
            update["pretrained_backbone_weights"] = None
        return self.model_copy(update=update)

    @property
    def image_features(self) -> dict[str, PolicyFeature]:
        return {name: f for name, f in self.input_features.items() if f.type == FeatureType.VISUAL}

    @property
    def action_dim(self) -> int:
        return self.output_features["action"].shape[0]

    def entry(self) -> dict[str, Any]:
        """The JSON object of `config.json`."""
        return self.model_dump(mode="json")

    def to_dict(self) -> dict[str, Any]:
        """The same, under the name by which `peft` asks a model's configuration for it."""
        return self.entry()
