"""Where a checkpoint is: a folder, a training's run directory, or a model repository on the Hugging Face Hub.

A repository holds a checkpoint at its root, and those of a training's steps in `checkpoints/<step>/pretrained_model`,
which is LeRobot's layout.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from lerobot_ops.errors import CheckpointError
from lerobot_ops.hub.fetch import fetch
from lerobot_ops.versioning.digest import digest

CONFIG = "config.json"
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
PRODUCT = "pretrained_model"
MANIFEST = "manifest.json"
"""In a checkpoint: what it was made of; the same wherever and whenever it was made."""
RUN = "run.json"
"""In a training's run directory: who ran it, which is no part of the checkpoint's content."""
_REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@(?P<revision>[^@\s]+))?")
_STEP = re.compile(r"\d{6,}")


def checkpoint_folder(place: str | Path, revision: str | None = None) -> Path:
    """The folder with config.json at `place`: a directory, or `OWNER/NAME[@REVISION]` on the Hub, which is fetched.

    A directory is the folder itself, or a training's run directory, whose product or last checkpoint is meant. Of a
    repository it is the root; a revision of six digits or more is a step of its training; where nothing lies at the
    root the last step is meant. What is fetched lies in huggingface_hub's cache, by commit. Raises CheckpointError when
    there is no checkpoint, and PrerequisiteError when the Hub does not give it.
    """
    path = Path(place)
    if path.is_dir() and not str(place).startswith("hf:/"):
        found = pretrained_model(path)
        if found is not None:
            return found
    text = re.sub(r"^hf:/+", "", str(place))  # pathlib makes one slash of two
    match = _REPOSITORY.fullmatch(text)
    if path.is_dir() or not match or ".." in match["name"]:
        raise CheckpointError(
            "there is no checkpoint here" if path.is_dir() else "there is no such checkpoint",
            file=path / CONFIG if path.is_dir() else place,
            found="no such file" if path.is_dir() else "no such directory, and no name on the Hub",
            expected="a folder with config.json and model.safetensors, or OWNER/NAME on the Hugging Face Hub",
            fix="give the folder named pretrained_model, or OWNER/NAME[@REVISION]",
        )
    if match["revision"] and revision and match["revision"] != revision:
        raise CheckpointError(
            "two revisions of the checkpoint are named",
            field="pretrained_revision",
            found=f"{place} and {revision}",
            fix="name one",
        )
    return _fetched(match["name"], match["revision"] or revision)


def pretrained_model(root: Path) -> Path | None:
    """The checkpoint folder at `root`: itself, or the last one of a training's directory; None when there is none."""
    places = [root, root / PRODUCT, root / "checkpoints" / "last" / PRODUCT]
    return next((place for place in places if (place / CONFIG).is_file()), None)


def checkpoint_digest(folder: Path) -> str:
    """The version of a checkpoint, on this machine or fetched: the digest without what only a repository has."""
    return digest(folder, without=("README.md", ".gitattributes", "checkpoints"))


def weights_digest(folder: Path) -> str | None:
    """The version of a checkpoint's weights, or of an adapter's, by which what is made of them knows them."""
    adapter = folder / ADAPTER
    file = adapter if adapter.is_file() else folder / WEIGHTS
    if not file.is_file():
        return None
    now = file.stat()
    return _digest_as_of(file, now.st_mtime_ns, now.st_size, now.st_ino)


def repository_of(folder: Path) -> tuple[str, str] | None:
    """(OWNER/NAME, commit) of a folder in huggingface_hub's cache; None for any other."""
    match = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/|$)", folder.absolute().as_posix())
    return (f"{match[1]}/{match[2]}", match[3]) if match else None


def provenance(folder: Path) -> dict[str, Any]:
    """What the checkpoint in `folder` was made of and who made it: its manifest, and the ids of its training's runs.

    `schema_version`, `dataset_digest`, `code_version`, `config_hash` and perhaps `base_digest` of the manifest;
    `mlflow_run` and `flow_run` of the run directory that it lies in. What is not known is left out.
    """
    found = dict(_json(folder / MANIFEST))
    for above in list(folder.absolute().parents)[:3]:  # the run directory, or checkpoints/<step> of it
        run = _json(above / RUN)
        if run and (above / "training.json").is_file():
            found |= {"mlflow_run": run.get("run_id"), "flow_run": run.get("flow_run_id")}
            break
    return {name: value for name, value in found.items() if value is not None}


@functools.lru_cache
def _digest_as_of(file: Path, *_: int) -> str:
    """The digest of a file, read once as long as nothing about it changes: a training asks several times."""
    return digest(file)


def _fetched(name: str, revision: str | None) -> Path:
    """The folder of a repository's checkpoint, with all of its files."""
    step = revision if revision is not None and _STEP.fullmatch(revision) else None
    if step is None:
        root = fetch(name, revision, repo_type="model", allow_patterns=[CONFIG])
        if (root / CONFIG).is_file():
            patterns = ["*.json", "*.safetensors", "README.md"]
            return fetch(name, root.name, repo_type="model", allow_patterns=patterns, ignore_patterns=["checkpoints/*"])
    at, wanted = (None, step) if step else (revision, "*")
    root = fetch(name, at, repo_type="model", allow_patterns=[f"checkpoints/{wanted}/{PRODUCT}/{CONFIG}"])
    found = [path.parts[-3] for path in root.glob(f"checkpoints/{wanted}/{PRODUCT}/{CONFIG}")]
    steps = [name for name in found if _STEP.fullmatch(name)]
    if not steps:
        raise CheckpointError(
            "this repository on the Hub holds no checkpoint",
            file=name,
            found=f"no {CONFIG} at revision {revision or root.name}",
            expected=f"{CONFIG}, or checkpoints/<step>/{PRODUCT}/{CONFIG}",
            fix="check the name and the revision; `lerobot-ops publish --kind=checkpoint` puts a checkpoint there",
        )
    last = max(steps, key=int)
    fetch(name, root.name, repo_type="model", allow_patterns=[f"checkpoints/{last}/{PRODUCT}/*"])
    return root / "checkpoints" / last / PRODUCT


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
