"""The policy that a training begins with: fresh, or a pretrained one, perhaps with an adapter."""

from lerobot_ops.errors import ConfigError
from lerobot_ops.hub.checkpoints import checkpoint_folder, weights_digest
from lerobot_ops.policies.config import PeftConfig, PolicyConfig
from lerobot_ops.policies.peft import adapt, is_adapter
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.registry import fill, make_policy


def first_policy(config: PolicyConfig, peft: PeftConfig | None = None) -> Policy:
    """The policy that `config` describes, with its weights, on the CPU.

    Without a `pretrained_path` it is fresh. Of a checkpoint that is an adapter, the adapter goes on being trained; to
    any other one `peft` adds a new one. Raises CheckpointError when the checkpoint is not for this configuration, and
    ConfigError when `peft` is not for this policy.
    """
    config = config.model_copy(update={"use_peft": False})
    if config.pretrained_path is None:
        if peft is not None:
            raise ConfigError(
                "an adapter is trained beside a pretrained policy, and there is none",
                field="policy.path",
                found="nothing",
                expected="a checkpoint's folder, or OWNER/NAME on the Hub",
                fix="add --policy.path=…, or leave out --peft",
            )
        return make_policy(config)
    folder = checkpoint_folder(config.pretrained_path, config.pretrained_revision)
    if peft is not None and is_adapter(folder):
        raise ConfigError(
            "this checkpoint is an adapter already",
            field="peft",
            found=folder,
            fix=f"leave out --peft to train it further, or first: lerobot-ops merge-adapter {folder} NEW_FOLDER",
        )
    policy = make_policy(config, pretrained_backbone=False)
    fill(policy, folder)
    if peft is not None:
        policy.check_adaptable()
        adapt(policy, peft, config.pretrained_path, config.pretrained_revision, weights_digest(folder))
        policy.config = policy.config.model_copy(update={"use_peft": True})
    return policy
