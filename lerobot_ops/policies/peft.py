"""Adapters (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685) through `peft`, for any policy.

A pretrained policy's weights stay as they are, and a small part beside them is trained. The checkpoint holds that part
alone, as LeRobot's does: `adapter_config.json`, which names the base, and `adapter_model.safetensors`. Both are peft's
files. The policy stays the object that it was: peft exchanges layers inside of it.
"""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lerobot_ops.artifacts import write_json
from lerobot_ops.errors import CheckpointError, ConfigError, OpsError, PrerequisiteError, did_you_mean
from lerobot_ops.hub.checkpoints import ADAPTER, MANIFEST, WEIGHTS, checkpoint_folder, weights_digest
from lerobot_ops.policies.config import PeftConfig
from lerobot_ops.policies.policy import Policy
from lerobot_ops.policies.weights import load_weights, read_tensors, require_fit, save_weights

if TYPE_CHECKING:
    from peft import PeftConfig as LibraryConfig

ADAPTER_CONFIG = "adapter_config.json"


class Adapter:
    """The adapter in a policy."""

    def __init__(
        self, policy: Policy, config: "LibraryConfig", base: str, revision: str | None, base_digest: str | None
    ) -> None:
        """Freeze the policy, whose weights are those of `base`, and put an adapter into it that changes nothing yet."""
        from peft import get_peft_model

        policy.requires_grad_(False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of frozen layers that it cannot know
                self._model = get_peft_model(policy, config)
        except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
            raise ConfigError(
                "an adapter cannot be put into these layers",
                field="peft.target_modules",
                found=str(error).splitlines()[0],
                expected="linear layers and convolutions, or `all-linear`",
            ) from None
        self.base_digest = base_digest
        self._config = config
        self._config.base_model_name_or_path, self._config.revision = base, revision

    def weights(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint of it holds, by peft's names."""
        from peft import get_peft_model_state_dict

        found: dict[str, Tensor] = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        return found

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in one group: the adapter and the modules beside it that are trained whole."""
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def load(self, folder: Path) -> None:
        """Go on with the adapter of a checkpoint; raises CheckpointError when a name or a shape differs."""
        from peft import set_peft_model_state_dict

        tensors = read_tensors(folder / ADAPTER)
        require_fit(tensors, self.weights(), folder / ADAPTER)
        set_peft_model_state_dict(self._model, tensors)

    def entry(self) -> dict[str, Any]:
        """The JSON object of `adapter_config.json`; equal adapters give equal bytes."""
        found = {name: value for name, value in self._config.to_dict().items() if name != "auto_mapping"}
        found["inference_mode"] = True
        return {name: sorted(value) if isinstance(value, set) else value for name, value in sorted(found.items())}

    def merge(self) -> None:
        """Add the adapter to the weights that it is for; the policy is a plain one then."""
        self._model.merge_and_unload()


def adapt(
    policy: Policy, config: PeftConfig, base: str, revision: str | None = None, base_digest: str | None = None
) -> None:
    """Give a pretrained policy an adapter to be trained; `base` is where the policy comes from.

    Raises ConfigError when `config` names layers that are not there or cannot be adapted, and PrerequisiteError without
    `peft`.
    """
    library = _library()
    options: dict[str, Any] = {"r": config.r, "target_modules": _targets(policy, config.target_modules)}
    if config.full_training_modules:
        every = [name for name, _ in policy.named_modules() if name]
        _require(config.full_training_modules, every, "peft.full_training_modules")
        options["modules_to_save"] = config.full_training_modules
    if config.init_type is not None:
        options["init_lora_weights"] = config.init_type
    if config.lora_alpha is not None:
        options["lora_alpha"] = config.lora_alpha
    policy.adapter = Adapter(policy, library.LoraConfig(**options), base, revision, base_digest)


def is_adapter(folder: Path) -> bool:
    """Whether the checkpoint in `folder` is an adapter beside a base."""
    return (folder / ADAPTER_CONFIG).is_file()


def load_adapter(policy: Policy, folder: Path) -> None:
    """Fill a policy with the base of the adapter in `folder`, and put the adapter into it.

    Raises CheckpointError when one of the two is missing, damaged or not for this policy.
    """
    library = _library()
    entry = _entry(folder)
    base, revision = str(entry["base_model_name_or_path"]), entry.get("revision")
    place = _base_folder(folder, base, revision)
    _require_same(folder, place)
    load_weights(policy, place)
    try:
        config = library.get_peft_config({**entry, "inference_mode": False})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the adapter's kind is not known", file=folder / ADAPTER_CONFIG, found=str(error)
        ) from None
    config.base_model_name_or_path = None  # peft would say that it is being changed
    policy.adapter = Adapter(policy, config, base, revision, weights_digest(place))
    policy.adapter.load(folder)


def save_adapter(adapter: Adapter, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write the two files of an adapter, which LeRobot reads."""
    write_json(directory / ADAPTER_CONFIG, adapter.entry())
    save_weights(weights, directory, ADAPTER)


def merge(policy: Policy) -> None:
    """Make a policy with an adapter a plain one that computes the same; others stay as they are."""
    if policy.adapter is not None:
        policy.adapter.merge()
        policy.adapter = None
        policy.config = policy.config.model_copy(update={"use_peft": False})


def _library() -> Any:
    try:
        import peft
    except ImportError:
        raise PrerequisiteError(
            "adapters need peft, which is not installed", field="peft", fix="pip install 'lerobot-ops[peft]'"
        ) from None
    return peft


def _targets(policy: Policy, wanted: list[str] | str | None) -> list[str]:
    """The full names of the layers that get an adapter."""
    modules = {name: module for name, module in policy.named_modules() if name}
    trained = {name: m for name, m in modules.items() if any(p.requires_grad for p in m.parameters(recurse=False))}
    if wanted is None or wanted == "all-linear":
        chosen = [
            name
            for name, module in trained.items()
            if (policy.adapts(name, module) if wanted is None else type(module) is nn.Linear)
        ]
        if not chosen:
            raise ConfigError(
                f"the policy {policy.config.type} has no layers that an adapter is for by default",
                field="peft.target_modules",
                fix="name some with --peft.target_modules",
            )
        return chosen
    if isinstance(wanted, str):
        try:
            matched = [name for name in modules if re.fullmatch(wanted, name)]
        except re.error as error:
            raise ConfigError(
                "this is no regular expression", field="peft.target_modules", found=f"{wanted}: {error}"
            ) from None
        if matched:
            return matched
        wanted = [wanted]
    _require(wanted, list(modules), "peft.target_modules")
    return [name for name in modules if any(_ends(name, end) for end in wanted)]


def _require(ends: list[str], names: list[str], field: str) -> None:
    """Raise ConfigError unless each is the end of a module's name."""
    for end in ends:
        if not any(_ends(name, end) for name in names):
            known = {".".join(name.split(".")[-(end.count(".") + 1) :]) for name in names}
            known = {name for name in known if not name.isdigit()}
            raise ConfigError(
                "the policy has no module whose name ends so", field=field, found=end, fix=did_you_mean(end, known)
            )


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _entry(folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    try:
        entry: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not entry["base_model_name_or_path"]:
            raise ValueError("it names no base_model_name_or_path")
    except FileNotFoundError:
        raise CheckpointError(
            "the checkpoint is an adapter (use_peft in config.json), and its configuration is missing", file=file
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError("the adapter's configuration cannot be read", file=file, found=str(error)) from None
    return entry


def _base_folder(folder: Path, base: str, revision: str | None) -> Path:
    """The base's folder: as it is named, else beside the adapter, else on the Hub."""
    beside = folder / base
    try:
        return checkpoint_folder(base if Path(base).is_dir() or not beside.is_dir() else beside, revision)
    except OpsError as error:
        raise CheckpointError(
            "the checkpoint is an adapter, and the base that it was trained on is not found",
            file=folder / ADAPTER_CONFIG,
            field="base_model_name_or_path",
            found=f"{base}: {error.problem}",
            expected="a checkpoint's folder, seen from here or from the adapter, or OWNER/NAME on the Hub",
            fix="run it where it was trained, put the base there, or train with --policy.path=OWNER/NAME",
        ) from None


def _require_same(folder: Path, base: Path) -> None:
    """Raise CheckpointError when the adapter's manifest says that it was trained on other weights."""
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("base_digest")
    except (OSError, ValueError):
        return
    found = weights_digest(base)
    if expected is not None and found is not None and found != expected:
        raise CheckpointError(
            "the base of this adapter has other weights than when the adapter was trained",
            file=base / WEIGHTS,
            found=found,
            expected=expected,
            fix="give it the base that it was trained on",
        )
