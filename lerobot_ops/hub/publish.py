"""Publishing a dataset, a checkpoint or a report: to a folder laid out like the Hub, or to the Hugging Face Hub.

What arrives is compared with what was sent, file by file; a receipt says what is where. Credentials come from the
environment (`HF_TOKEN`) or from `hf auth login`, never from a configuration.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lerobot_ops.artifacts import fsync_tree, write_json
from lerobot_ops.config import Config
from lerobot_ops.errors import ArtifactError
from lerobot_ops.hub.cards import card
from lerobot_ops.hub.checkpoints import pretrained_model
from lerobot_ops.hub.connection import DATASET_TAG, hub_errors, patiently
from lerobot_ops.versioning.digest import digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["dataset", "checkpoint", "report"]
ROOMS: dict[Kind, str] = {"dataset": "datasets", "checkpoint": "models", "report": "reports"}
LEFT_BEHIND = ("images/*",)
"""Scratch files of a recording."""
REPLACED: dict[Kind, tuple[str, ...]] = {
    "dataset": ("meta/*", "data/*", "videos/*"),
    "checkpoint": ("*",),  # but for the steps of its training
    "report": ("*",),
}
"""What is removed from the Hugging Face Hub when it is not in the new version: readers take every file they find."""


class HubConfig(Config):
    """Where things are published."""

    target: Literal["folder", "huggingface"] = "folder"
    """A local folder, or the Hugging Face Hub."""
    root: Path = Path("hub")
    """The folder of the local hub."""
    private: bool | None = None
    """Whether a new repository on the Hugging Face Hub is private; none leaves it to the account."""


class PublishConfig(Config):
    """One thing to publish."""

    kind: Kind
    """What it is."""
    path: Path
    """Where it lies; of a checkpoint its folder, or its training's directory."""
    repo_id: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
    """Its name on the hub, owner/name."""
    hub: HubConfig = HubConfig()
    """Where it goes."""
    steps: Literal["none", "all"] | list[int] = "none"
    """Checkpoints of a training's directory that go along, with what resuming needs, as `checkpoints/<step>`."""


class PublishReceipt(Config):
    """What was published, and where it is."""

    kind: Kind
    repo_id: str
    where: str
    """A folder, or an address."""
    digest: str
    """The version that was published: DVC's digest of the content, without the card."""
    files: int
    size: int
    """Bytes."""


def publish(config: PublishConfig) -> PublishReceipt:
    """Publish one thing; what was published under this name before is replaced, once the new content is complete.

    Raises ArtifactError when there is nothing at `path` or what arrived differs, PrerequisiteError without credentials.
    """
    if not config.path.is_dir():
        raise ArtifactError("there is nothing to publish", file=config.path, expected="a directory")
    steps = _steps(config)
    if config.kind == "checkpoint":
        config = config.model_copy(update={"path": pretrained_model(config.path) or config.path})
    files = _files(config.path)
    send = _to_folder if config.hub.target == "folder" else _to_huggingface
    where = send(config, files, steps)
    return PublishReceipt(
        kind=config.kind,
        repo_id=config.repo_id,
        where=where,
        digest=digest(config.path),
        files=len(files),
        size=sum(files.values()),
    )


def _steps(config: PublishConfig) -> list[Path]:
    """The folders of the training's checkpoints that go along; their names are six digits or more."""
    run = {int(path.name): path for path in sorted(config.path.glob("checkpoints/*")) if path.name.isdigit()}
    wanted = list(run) if config.steps == "all" else [] if config.steps == "none" else config.steps
    missing = [step for step in wanted if step not in run]
    if missing or (config.steps == "all" and not run):
        raise ArtifactError(
            "the training has no such checkpoint",
            file=config.path,
            field="steps",
            found=missing or config.steps,
            expected=", ".join(map(str, run)) or "a training's directory, with checkpoints/",
        )
    return [run[step] for step in wanted]


def _files(root: Path) -> dict[str, int]:
    """Relative path to size of what is published."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix(): path.stat().st_size for path in found}
    return {name: size for name, size in names.items() if not name.startswith("images/")}


def _to_folder(config: PublishConfig, files: dict[str, int], steps: list[Path]) -> str:
    target = config.hub.root / ROOMS[config.kind] / config.repo_id
    mark = uuid.uuid4().hex[:12]
    partial, old = (target.with_name(f".{target.name}.{word}-{mark}") for word in ("partial", "old"))
    try:
        for name in files:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(config.path / name, partial / name)
        _compare(files, _files(partial), partial)
        for step in steps:
            shutil.copytree(step, partial / "checkpoints" / step.name)
        (partial / "README.md").write_text(card(config.kind, config.path, config.repo_id), encoding="utf-8")
        fsync_tree(partial)
        if target.exists():
            os.rename(target, old)
        os.rename(partial, target)
    except OSError as error:
        raise ArtifactError(
            f"the hub's folder cannot be written: {error.strerror}",
            file=target,
            fix="choose a hub.root that you may write to",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    write_json(
        config.hub.root / "receipts" / ROOMS[config.kind] / f"{config.repo_id}.json",
        {"digest": digest(config.path), "files": files},
    )
    return str(target)


def _to_huggingface(config: PublishConfig, files: dict[str, int], steps: list[Path]) -> str:
    """Upload, compare, then move the tag: whoever reads by the tag has what was before until all has arrived."""
    from huggingface_hub import HfApi

    api, repo_type = HfApi(), "model" if config.kind == "checkpoint" else "dataset"
    name: dict[str, Any] = {"repo_id": config.repo_id, "repo_type": repo_type}
    text = card(config.kind, config.path, config.repo_id).encode()
    with hub_errors(config.repo_id, f"publish the {config.kind}"):
        private = config.hub.private
        repo = patiently(lambda: api.create_repo(**name, private=private, exist_ok=True))
        for step in steps:
            _send_step(api, config.repo_id, step)
        patiently(
            lambda: api.upload_folder(
                **name,
                folder_path=config.path,
                ignore_patterns=[*LEFT_BEHIND],
                delete_patterns=_replaced(api, config),
            )
        )
        done = patiently(lambda: api.upload_file(**name, path_or_fileobj=text, path_in_repo="README.md"))
        listed = patiently(lambda: [*api.list_repo_tree(**name, revision=done.oid, recursive=True)])
        _compare_contents(config.path, files, listed)
        if config.kind == "dataset":
            _move_tag(api, config.repo_id, DATASET_TAG, done.oid, "dataset")
    return str(repo)


def _move_tag(api: "HfApi", repo_id: str, tag: str, commit: str, repo_type: str) -> None:
    """Move a tag to what was uploaded; deleted first, because a tag cannot be moved."""
    refs = patiently(lambda: api.list_repo_refs(repo_id, repo_type=repo_type))
    if tag in {ref.name for ref in refs.tags}:
        patiently(lambda: api.delete_tag(repo_id, tag=tag, repo_type=repo_type))
    patiently(lambda: api.create_tag(repo_id, tag=tag, revision=commit, repo_type=repo_type, exist_ok=True))


def _replaced(api: "HfApi", config: PublishConfig) -> list[str]:
    """Patterns of what is removed from the repository; a training's earlier checkpoints in it stay."""
    patterns = REPLACED[config.kind]
    if config.kind != "checkpoint":
        return [*patterns]
    found = patiently(lambda: api.list_repo_files(config.repo_id))
    return [escape(name) for name in found if not name.startswith("checkpoints/")]


def _send_step(api: "HfApi", repo_id: str, step: Path) -> None:
    """Upload a checkpoint of a training as `checkpoints/<step>`, and tag it with the step; LeRobot's layout."""
    inside, files = f"checkpoints/{step.name}", _files(step)
    done = patiently(
        lambda: api.upload_folder(
            repo_id=repo_id, folder_path=step, path_in_repo=inside, delete_patterns=["*"], commit_message=inside
        )
    )
    listed = patiently(lambda: [*api.list_repo_tree(repo_id, inside, revision=done.oid, recursive=True)])
    _compare_contents(step, files, listed, f"{inside}/")
    _move_tag(api, repo_id, step.name, done.oid, "model")


def _compare_contents(root: Path, files: dict[str, int], listed: list[Any], inside: str = "") -> None:
    """Compare sizes, then contents: the Hub names large files by their SHA-256, the others as git does."""
    arrived = {entry.path.removeprefix(inside): entry for entry in listed if hasattr(entry, "blob_id")}
    _compare(files, {name: entry.size for name, entry in arrived.items() if name in files}, root)
    for name, size in files.items():
        entry = arrived[name]
        start = hashlib.sha256() if entry.lfs else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with open(root / name, "rb") as file:
            sent = hashlib.file_digest(file, start.copy).hexdigest()
        _compare({name: sent}, {name: entry.lfs.sha256 if entry.lfs else entry.blob_id}, root)


def _compare(sent: Mapping[str, object], arrived: Mapping[str, object], where: Path | str) -> None:
    differing = sorted(name for name in {*sent, *arrived} if sent.get(name) != arrived.get(name))
    if differing:
        raise ArtifactError(
            "what arrived on the hub is not what was sent",
            file=where,
            field=differing[0],
            found=arrived.get(differing[0], "missing"),
            expected=sent.get(differing[0], "no such file"),
            fix="publish again",
        )
