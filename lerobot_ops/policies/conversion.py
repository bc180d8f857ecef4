"""Checkpoints made of others: an old one brought to today's layout, an adapter merged into its base.

Before LeRobot had processors (in 2025) a policy normalised by itself: the statistics lay among its weights, as
`normalize_inputs.buffer_<feature>.<statistic>` with every dot of the feature's name as an underscore.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerobot_ops.artifacts import staged, write_json
from lerobot_ops.config import Config
from lerobot_ops.errors import CheckpointError
from lerobot_ops.hub.checkpoints import CONFIG, MANIFEST, WEIGHTS, checkpoint_folder, weights_digest
from lerobot_ops.policies.checkpoint import save_checkpoint
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.policies.peft import is_adapter
from lerobot_ops.policies.peft import merge as merge_into_policy
from lerobot_ops.policies.policy import make_processors
from lerobot_ops.policies.registry import load_config, load_policy, make_policy
from lerobot_ops.policies.weights import OLD_NORMALIZERS, read_tensors, require_fit, save_weights

TRAIN_CONFIG = "train_config.json"
_COMPILED = "_orig_mod."
"""What torch.compile put into the names of weights."""


class ConversionConfig(Config):
    """One checkpoint to make another one of."""

    path: str
    """The checkpoint: a folder, or OWNER/NAME[@REVISION] on the Hub. It stays as it is."""
    output: Path
    """The folder of the new one, which must not exist."""


def migrate(config: ConversionConfig) -> Path:
    """Write an old checkpoint anew, with its statistics in processors; the new one computes the same.

    Its formulas divided by a range and 1e-8, today's by the range alone; that is what may differ, in the eighth digit.
    Raises CheckpointError when the checkpoint is no old one, or lacks a statistic that it needs.
    """
    folder = checkpoint_folder(config.path)
    stored = load_config(folder)
    tensors = {name.replace(_COMPILED, ""): tensor for name, tensor in read_tensors(folder / WEIGHTS).items()}
    stats = _old_stats(stored, tensors, folder / WEIGHTS)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(OLD_NORMALIZERS)}
    policy = make_policy(stored, pretrained_backbone=False)
    require_fit(weights, policy.state_dict(), folder / WEIGHTS)
    policy.load_state_dict(weights)
    try:
        pre, post = make_processors(stored, stats, stored.device or "cpu")
    except ValueError as error:
        raise CheckpointError(str(error), file=folder / WEIGHTS) from None
    with staged(config.output) as partial:
        save_checkpoint(partial, policy, pre, post)
        _copy(folder, partial, TRAIN_CONFIG, MANIFEST)
    return config.output


def merge_adapter(config: ConversionConfig) -> Path:
    """Write the plain checkpoint that an adapter and its base are together; raises CheckpointError for any other."""
    folder = checkpoint_folder(config.path)
    if not is_adapter(folder):
        raise CheckpointError(
            "this checkpoint is no adapter",
            file=folder,
            expected="adapter_config.json beside adapter_model.safetensors",
        )
    policy = load_policy(folder)
    merge_into_policy(policy)
    with staged(config.output) as partial:
        partial.mkdir(exist_ok=True)
        write_json(partial / CONFIG, policy.config.portable().entry(), indent=4)
        save_weights(policy.state_dict(), partial)
        _copy(folder, partial, TRAIN_CONFIG, *(path.name for path in sorted(folder.glob("policy_*processor*"))))
        if (folder / MANIFEST).is_file():
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            write_json(partial / MANIFEST, {**manifest, "adapter_digest": weights_digest(folder)})
    return config.output


def _old_stats(config: PolicyConfig, tensors: Mapping[str, Tensor], file: Path) -> dict[str, dict[str, Any]]:
    """The statistics among an old checkpoint's weights, by feature."""
    names = {name.replace(".", "_"): name for name in (*config.input_features, *config.output_features)}
    stats: dict[str, dict[str, Any]] = {}
    for key in sorted(name for name in tensors if name.startswith(OLD_NORMALIZERS)):
        buffer, _, statistic = key.partition(".")[2].rpartition(".")
        feature = names.get(buffer.removeprefix("buffer_"))
        if feature is None:
            raise CheckpointError(
                "the statistics are of a feature that config.json does not name",
                file=file,
                field=key,
                found=buffer.removeprefix("buffer_"),
                expected=", ".join(names),
            )
        value = tensors[key]
        if not torch.isfinite(value).all():
            raise CheckpointError("a statistic is no number: the policy was never trained", file=file, field=key)
        known = stats.setdefault(feature, {}).setdefault(statistic, value.numpy())
        if not (known == value.numpy()).all():
            raise CheckpointError("two statistics of a feature differ, and processors hold one", file=file, field=key)
    if not stats:
        raise CheckpointError(
            "the checkpoint has no statistics among its weights: there is nothing to migrate",
            file=file,
            expected=f"tensors {' or '.join(OLD_NORMALIZERS)}*",
            fix="copy policy_preprocessor*, policy_postprocessor* from where it was trained, or train it anew",
        )
    return stats


def _copy(source: Path, target: Path, *names: str) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
