"""The version of a dataset or a checkpoint: the digest that DVC gives the same bytes.

DVC names a file by the MD5 of its content and a directory by the MD5 of a JSON list of its files' digests and relative
paths, with the suffix `.dir`. We compute the same name without starting DVC, so every door agrees on it.
"""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

from lerobot_ops.errors import ArtifactError


def digest(path: Path, without: Collection[str] = ()) -> str:
    """DVC's digest of a file (32 hexadecimal digits) or of a directory (the same with `.dir`).

    Of a directory what is named in `without`, files and folders directly in it, counts as not there.
    """
    if path.is_file():
        return _file_md5(path)
    if not path.is_dir():
        raise ArtifactError("there is nothing to version", file=path, expected="a file or a directory")
    files = sorted(
        (file.relative_to(path).as_posix(), file) for file in _files(path, without)
    )  # by text, as DVC sorts them
    listing = [{"md5": _file_md5(file), "relpath": relative} for relative, file in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _files(root: Path, without: Collection[str]) -> list[Path]:
    every = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    return [file for file in every if file.relative_to(root).parts[0] not in without] if without else every


def _file_md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
