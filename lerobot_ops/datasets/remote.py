"""Where a dataset is: a directory, LeRobot's own folder of local datasets, or a repository on the Hugging Face Hub."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np

from lerobot_ops.datasets.info import INFO_PATH, DatasetInfo, load_info
from lerobot_ops.datasets.tables import load_episodes
from lerobot_ops.errors import DatasetError, did_you_mean

_REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True)
class Repository:
    """A dataset on the Hub."""

    name: str
    """OWNER/NAME."""
    revision: str | None = None
    """A tag, a branch or a commit; none is the version that LeRobot reads."""


def local_root(
    place: str | Path,
    *,
    revision: str | None = None,
    episodes: Iterable[int] | None = None,
    cameras: Sequence[str] | None = None,
) -> Path:
    """The directory of the dataset at `place`: a directory, `OWNER/NAME[@REVISION]` or `hf://datasets/OWNER/NAME`.

    A directory is returned as it is, without asking the network. A name is looked for below `$HF_LEROBOT_HOME` first,
    where LeRobot keeps what it records, unless a revision is named; then it is fetched from the Hub: `meta/`, and of
    the data and videos only what `episodes` and `cameras` need. Raises DatasetError when `place` is neither, and
    PrerequisiteError when the Hub does not give it.
    """
    repository = repository_at(place, revision)
    if repository is None:
        return Path(place)
    if repository.revision is None:
        recorded = lerobot_home() / repository.name
        if (recorded / INFO_PATH).is_file():
            return recorded
    root = fetch_meta(repository)
    return _fetch_files(repository.name, root, None if episodes is None else list(episodes), cameras)


def repository_at(place: str | Path, revision: str | None = None) -> Repository | None:
    """The repository that `place` names, or none when it is a directory; raises DatasetError when it is neither."""
    if not str(place).startswith("hf:/") and Path(place).is_dir():
        return None
    text = re.sub(r"^hf:/+datasets/", "", str(place))  # pathlib makes one slash of two
    match = _REPOSITORY.fullmatch(text)
    if not match or ".." in match["name"]:
        raise DatasetError(
            "there is no dataset here",
            file=place,
            found="a file" if Path(place).is_file() else "no such directory, and no name on the Hub",
            expected="a directory, or OWNER/NAME on the Hugging Face Hub",
            fix="give the folder that holds meta/, data/ and videos/, or OWNER/NAME[@REVISION]",
        )
    if match["revision"] and revision and match["revision"] != revision:
        raise DatasetError(
            "two revisions of the dataset are named", field="revision", found=f"{place} and {revision}", fix="name one"
        )
    return Repository(match["name"], match["revision"] or revision)


def lerobot_home() -> Path:
    """LeRobot's folder of local datasets: `$HF_LEROBOT_HOME`, else `lerobot` in Hugging Face's own."""
    named = os.environ.get("HF_LEROBOT_HOME")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser() / "lerobot"


def fetch_meta(repository: Repository) -> Path:
    """Fetch a dataset's `meta/`; its directory is named after the commit."""
    from lerobot_ops.hub.fetch import fetch

    root = fetch(repository.name, repository.revision, allow_patterns=["meta/*"])
    if not (root / INFO_PATH).is_file():
        raise DatasetError(
            "this repository on the Hub holds no LeRobotDataset",
            file=repository.name,
            found=f"no {INFO_PATH}",
            expected=f"{INFO_PATH} at revision {repository.revision or root.name}",
        )
    return root


def _fetch_files(name: str, root: Path, episodes: list[int] | None, cameras: Sequence[str] | None) -> Path:
    """Fetch what lies beside `meta/` at the same commit, in case the revision moves meanwhile."""
    from lerobot_ops.hub.fetch import fetch

    if str(_version(root)).startswith(("v1", "v2")):
        return fetch(name, root.name)
    info = load_info(root)
    patterns = ["meta/*", *_patterns(root, info, episodes, cameras)]
    return fetch(name, root.name, allow_patterns=patterns)


def _patterns(root: Path, info: DatasetInfo, episodes: list[int] | None, cameras: Sequence[str] | None) -> list[str]:
    wanted = info.video_keys if cameras is None else [_camera(name, info) for name in cameras]
    videos = [name for name in wanted if name in info.video_keys]
    if episodes is None:
        everything = [_any_file(info.data_path)]
        return everything + [_any_file(info.video_path or "", escape(key)) for key in videos]
    needed = needed_files(root, info, episodes, videos)
    return [escape(file) for file in needed]


def needed_files(root: Path, info: DatasetInfo, episodes: Sequence[int], videos: Sequence[str]) -> list[str]:
    """The data and video files, relative to the root, that `episodes` lie in; raises DatasetError for one too many."""
    names = ["data/chunk_index", "data/file_index"]
    names += [f"videos/{key}/{field}" for key in videos for field in ("chunk_index", "file_index")]
    table = load_episodes(root, names)
    chosen = np.unique(np.asarray(episodes, np.int64))
    if len(chosen) and not (chosen[0] >= 0 and chosen[-1] < table.num_rows):
        raise DatasetError(
            "the dataset has no such episode",
            file=root,
            field="episodes",
            found=[int(number) for number in chosen if not 0 <= number < table.num_rows],
            expected=f"0 to {table.num_rows - 1}",
        )

    def files(prefix: str) -> list[tuple[int, int]]:
        columns = [table.column(f"{prefix}/{field}").to_numpy()[chosen] for field in ("chunk_index", "file_index")]
        return sorted({(int(chunk), int(file)) for chunk, file in zip(*columns, strict=True)})

    found = [info.data_file(*place) for place in files("data")]
    return found + [info.video_file(key, *place) for key in videos for place in files(f"videos/{key}")]


def _any_file(template: str, key: str = "") -> str:
    """A path template as a pattern of all its files."""
    return re.sub(r"\{(chunk|file)_index[^}]*\}", "*", template).replace("{video_key}", key)


def _camera(name: str, info: DatasetInfo) -> str:
    if name not in info.camera_keys:
        raise DatasetError("the dataset has no such camera", field=name, fix=did_you_mean(name, info.camera_keys))
    return name


def _version(root: Path) -> object:
    try:
        content = json.loads((root / INFO_PATH).read_text(encoding="utf-8"))
    except ValueError:
        return None  # `load_info` says what is wrong
    return content.get("codebase_version") if isinstance(content, dict) else None
