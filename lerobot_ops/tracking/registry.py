"""The registry of checkpoints: every trained policy a version, the best one the champion.

A version is a folder of safetensors and JSON among a run's artifacts; nothing is pickled. The alias `champion` marks
the version that the weekly benchmarks evaluate; a new version takes it when it is at least as good.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot_ops.artifacts import staged
from lerobot_ops.errors import ArtifactError, ConfigError, did_you_mean
from lerobot_ops.tracking.config import TrackingConfig
from lerobot_ops.tracking.run import MlflowRun, Run
from lerobot_ops.versioning.digest import digest as content_digest

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ALIAS = "champion"
FOLDER = "checkpoint"
"""Artifact folder of a run that holds its checkpoint."""


@dataclass(frozen=True)
class Registered:
    """A checkpoint in the registry."""

    name: str
    version: str
    digest: str
    run_id: str


@dataclass(frozen=True)
class Promotion:
    """What became of a version that stood for champion."""

    name: str
    version: str
    promoted: bool
    previous: str | None
    """The version that was champion before; None when there was none."""
    reason: str


@dataclass(frozen=True)
class Champion:
    """The champion's checkpoint on this machine."""

    name: str
    version: str
    path: Path
    digest: str
    run_id: str
    pc_success: float | None


def register_checkpoint(
    run: Run, checkpoint: Path, *, name: str, tags: dict[str, str] | None = None
) -> Registered | None:
    """Upload a checkpoint folder to `run` and register it as a version of `name`; None when `run` tracks nothing.

    The same bytes under the same name are registered once. Raises ConfigError for a name that MLflow does not take and
    ArtifactError when the folder is missing or holds a pickle.
    """
    if not isinstance(run, MlflowRun):
        return None
    _refuse_pickles(checkpoint)
    digest = content_digest(checkpoint)
    _create(run.client, name)
    for version in run.client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("digest") == digest:
            run.set_tags({"checkpoint.digest": digest, "checkpoint.version": f"{name}/{version.version}"})
            return Registered(name, str(version.version), digest, version.run_id or "")
    run.log_artifacts(checkpoint, FOLDER)
    source = f"{run.client.get_run(run.id).info.artifact_uri}/{FOLDER}"
    created = run.client.create_model_version(name, source, run.id, tags={**(tags or {}), "digest": digest})
    run.set_tags({"checkpoint.digest": digest, "checkpoint.version": f"{name}/{created.version}"})
    return Registered(name, str(created.version), digest, run.id)


def promote(
    config: TrackingConfig, version: Registered, *, pc_success: float, n_episodes: int, benchmark: str
) -> Promotion:
    """Make `version` the champion when its `pc_success` (0 to 100) is at least the present champion's recorded one.

    `benchmark` says on what it was measured, for example "metaworld/button-press-topdown-v3". Raises ConfigError when
    the present champion was measured on something else, because the two numbers cannot be compared.
    """
    from lerobot_ops.tracking.store import open_client

    client = open_client(config)
    tags = {"pc_success": repr(float(pc_success)), "n_episodes": str(n_episodes), "benchmark": benchmark}
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    present = _champion(client, version.name)
    if present is None:
        return _crown(client, version, None, "it is the first champion")
    if str(present.version) == version.version:
        return Promotion(version.name, version.version, True, _previous(present), "it is the champion already")
    if present.tags.get("benchmark", benchmark) != benchmark:
        raise ConfigError(
            f"the champion of {version.name!r} was measured on another benchmark, so the two cannot be compared",
            field="benchmark",
            found=benchmark,
            expected=present.tags["benchmark"],
            fix="register this policy under another name",
        )
    bar = float(present.tags.get("pc_success", "nan"))
    if pc_success < bar:
        reason = f"pc_success {pc_success:g} is below {bar:g} of version {present.version}"
        return Promotion(version.name, version.version, False, str(present.version), reason)
    return _crown(client, version, str(present.version), f"pc_success {pc_success:g} is at least {bar:g}")


def champion_version(config: TrackingConfig, name: str) -> Registered | None:
    """The champion of `name`, without its files; None when there is none, or tracking is off."""
    from lerobot_ops.tracking.store import open_client

    present = _champion(open_client(config), name) if config.enable else None
    if present is None:
        return None
    return Registered(name, str(present.version), present.tags.get("digest", ""), present.run_id or "")


def champion(config: TrackingConfig, name: str, folder: Path = Path("outputs/champions")) -> Champion:
    """Download the champion of `name` to `folder/name/v<version>`, once, and check its digest.

    Raises ConfigError when there is no such name or no champion (with close matches), ArtifactError when what the store
    holds is not what was registered.
    """
    from lerobot_ops.tracking.store import open_client

    if not config.enable:
        raise ConfigError("the champion is kept in MLflow, and tracking is off", field="tracking.enable", found=False)
    client = open_client(config)
    present = _champion(client, name)
    if present is None:
        known = [model.name for model in client.search_registered_models()]
        hint = did_you_mean(name, known) if known else "train and evaluate a policy first"
        raise ConfigError(f"there is no champion of {name!r}; {hint}", field="policy.path", found=name)
    expected = present.tags.get("digest")
    target = Path(folder) / name / f"v{present.version}"
    if not target.exists() or (expected and content_digest(target) != expected):
        _download(client, name, str(present.version), target, expected)
    pc_success = present.tags.get("pc_success")
    return Champion(
        name,
        str(present.version),
        target,
        expected or "",
        present.run_id or "",
        float(pc_success) if pc_success else None,
    )


def _download(client: "MlflowClient", name: str, version: str, target: Path, expected: str | None) -> None:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    if target.exists():
        raise ArtifactError(
            "this champion was changed after its download", file=target, expected=expected, fix="remove the folder"
        )
    source = client.get_model_version_download_uri(name, version)
    with staged(target) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as scratch:
        try:
            downloaded = mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=scratch, tracking_uri=client.tracking_uri
            )
        except (MlflowException, OSError) as error:
            raise ArtifactError(
                f"the champion of {name!r}, version {version}, cannot be downloaded: {error}",
                file=source,
                fix="register its checkpoint again, or give the alias `champion` to another version in MLflow",
            ) from error
        for item in sorted(Path(downloaded).iterdir()):
            os.rename(item, partial / item.name)
        if expected and content_digest(partial) != expected:
            raise ArtifactError(
                "the champion's files in MLflow are not the ones that were registered",
                file=source,
                found=content_digest(partial),
                expected=expected,
                fix="register the checkpoint again, or roll back to the version in the tag `previous_champion`",
            )


def _champion(client: "MlflowClient", name: str) -> Any:
    """The champion's model version, or None when there is no such model or no champion yet."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def _crown(client: "MlflowClient", version: Registered, previous: str | None, reason: str) -> Promotion:
    client.set_model_version_tag(version.name, version.version, "previous_champion", previous or "")
    client.set_registered_model_alias(version.name, ALIAS, version.version)
    return Promotion(version.name, version.version, True, previous, reason)


def _previous(version: Any) -> str | None:
    return version.tags.get("previous_champion") or None


def _create(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    if not name or any(character in name for character in "/:'\""):
        raise ConfigError("a policy's name in the registry has no / : or quotes", field="name", found=name)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _refuse_pickles(checkpoint: Path) -> None:
    if not checkpoint.is_dir():
        raise ArtifactError("there is no checkpoint to register", file=checkpoint, expected="a folder")
    for path in sorted(checkpoint.rglob("*")):
        if path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"}:
            raise ArtifactError(
                "a checkpoint in the registry must not hold pickles",
                file=path,
                expected="safetensors and JSON",
                fix="save the policy as safetensors",
            )
