"""The policy types that are known, and policies made of their configurations or loaded from checkpoints."""

import contextlib
import functools
import json
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from lerobot_ops.errors import CheckpointError, ConfigError, did_you_mean
from lerobot_ops.hub.checkpoints import CONFIG, checkpoint_folder, repository_of
from lerobot_ops.policies.act.config import ACTConfig
from lerobot_ops.policies.config import PolicyConfig
from lerobot_ops.policies.diffusion.config import DiffusionConfig
from lerobot_ops.policies.multi_task_dit.config import MultiTaskDiTConfig
from lerobot_ops.policies.vqbet.config import VQBeTConfig

if TYPE_CHECKING:
    from lerobot_ops.policies.policy import Policy

ENTRY_POINTS = "lerobot_ops.policies"


@functools.cache
def policy_types() -> dict[str, type[PolicyConfig]]:
    """Every known policy type with its configuration class."""
    known: dict[str, type[PolicyConfig]] = {
        "act": ACTConfig,
        "diffusion": DiffusionConfig,
        "vqbet": VQBeTConfig,
        "multi_task_dit": MultiTaskDiTConfig,
    }
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            known[entry.name] = entry.load()
        except Exception as error:  # a stranger's package must not take all policies down with it
            warnings.warn(f"the policy {entry.name!r} of {entry.value} cannot be used: {error!r}", stacklevel=2)
    return known


def _known_type(value: Any) -> Any:
    if isinstance(value, PolicyConfig):
        return value
    if not isinstance(value, dict) or "type" not in value:
        raise ValueError(f"a policy has a type: {did_you_mean('', policy_types())}")
    if value["type"] not in policy_types():
        raise ValueError(f"unknown policy type {value['type']!r}; {did_you_mean(str(value['type']), policy_types())}")
    return value


def _one_of_the_types() -> Any:
    members = tuple(policy_types().values())
    choice: Any = Union[members]  # noqa: UP007 - the members are known only at run time
    return Annotated[choice, Field(discriminator="type")] if len(members) > 1 else choice


if TYPE_CHECKING:
    AnyPolicyConfig = PolicyConfig
else:
    AnyPolicyConfig = Annotated[_one_of_the_types(), BeforeValidator(_known_type)]
    """A field of this type holds any registered policy's configuration, chosen by its `type`."""


def parse_policy_config(values: dict[str, Any], file: Path | None = None) -> PolicyConfig:
    """The configuration that a checkpoint's `config.json` holds; raises CheckpointError naming every wrong field."""
    known: Any = Annotated[_one_of_the_types(), BeforeValidator(_known_type)]
    try:
        config: PolicyConfig = TypeAdapter(known).validate_python(values)
    except ValidationError as error:
        raise CheckpointError(
            "the policy's configuration is not valid:\n" + "\n".join(_sentences(values, error)), file=file
        ) from None
    return config


def _sentences(values: dict[str, Any], error: ValidationError) -> list[str]:
    sentences = []
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"] if part not in policy_types()]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown parameter; {did_you_mean(path[-1], policy_types()[values['type']].model_fields)}"
        sentences.append(f"  {'.'.join(path) or 'policy'}: {message}")
    return sentences


def make_policy(config: PolicyConfig, *, pretrained_backbone: bool = True) -> "Policy":
    """A policy with fresh weights, on the CPU; without `pretrained_backbone` a checkpoint is to give them values."""
    from lerobot_ops.policies.weights import Unfilled

    config.check_features()
    make: Any = config.policy_class()
    with contextlib.nullcontext() if pretrained_backbone else Unfilled():
        policy: Policy = make(config, pretrained_backbone=pretrained_backbone)
    return policy


def based(values: dict[str, Any]) -> dict[str, Any]:
    """A policy's configuration that goes on from the checkpoint at `path`: its own, with the other `values` on top.

    `path` is a folder or OWNER/NAME[@REVISION] on the Hub, whose commit is noted. What LeRobot's `--policy.path` does.
    Raises CheckpointError, and ConfigError when `values` name another type than the checkpoint's.
    """
    place, revision = str(values["path"]), values.get("pretrained_revision")
    folder = checkpoint_folder(place, revision)
    stored = load_config(folder).entry()
    if values.get("type", stored["type"]) != stored["type"]:
        raise ConfigError(
            "the checkpoint is of another type", field="policy.type", found=values["type"], expected=stored["type"]
        )
    repository = repository_of(folder)
    source = {"pretrained_path": place, "pretrained_revision": None}
    if repository is not None:
        at_root = folder.parent.name == "snapshots"
        source = {"pretrained_path": repository[0], "pretrained_revision": repository[1] if at_root else revision}
    machine = {"device": None, "repo_id": None, "push_to_hub": False}  # of where it was trained, not of here
    return stored | machine | {name: value for name, value in values.items() if name != "path"} | source


def load_config(path: Path) -> PolicyConfig:
    """The policy configuration in the checkpoint folder `path`; raises CheckpointError."""
    file = path / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            "there is no checkpoint here",
            file=file,
            found="no such file",
            expected="a folder with config.json and model.safetensors",
            fix="give the folder named pretrained_model",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError("the policy's configuration cannot be read", file=file, found=str(error)) from None
    return parse_policy_config(values, file)


def load_policy(path: Path, device: str = "cpu") -> "Policy":
    """The policy in the checkpoint folder `path`, in evaluation mode.

    Of an adapter its base is loaded, too. Raises CheckpointError unless the weights have exactly the names and shapes
    of the configured policy.
    """
    policy = make_policy(load_config(path), pretrained_backbone=False)
    fill(policy, path)
    return policy.to(device).eval()


def fill(policy: "Policy", folder: Path) -> None:
    """Replace a policy's weights by those of the checkpoint in `folder`: its own, or its base's and an adapter."""
    from lerobot_ops.policies.peft import is_adapter, load_adapter
    from lerobot_ops.policies.weights import load_weights

    if policy.config.use_peft or is_adapter(folder):
        load_adapter(policy, folder)
        policy.config = policy.config.model_copy(update={"use_peft": True})
    else:
        load_weights(policy, folder)
