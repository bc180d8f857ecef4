"""Directories that exist whole or not at all.

A step writes into a partial directory beside its target, flushes it to disk and renames it into place. What a crash
leaves behind carries `.partial` in its name and is never mistaken for a result.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lerobot_ops.errors import ArtifactError


@contextlib.contextmanager
def staged(target: Path, key: str | None = None) -> Iterator[Path]:
    """Yield a partial directory that becomes `target` when the block ends, and never before.

    With a `key` (see `config.content_key`) the partial directory is named after it and survives an error or a crash,
    so that the same operation finds what it had finished; without one it is removed on an error. Raises ArtifactError
    when `target` exists, cannot be written, or is being written by another process.
    """
    target = Path(os.path.abspath(target))
    if target.exists():
        raise ArtifactError("the output exists already", file=target, fix="choose another output, or remove this one")
    partial = target.with_name(f".{target.name}.partial-{key[:12] if key else uuid.uuid4().hex[:12]}")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise ArtifactError(
            f"the output cannot be written: {error.strerror}", file=target, fix="choose an output that you may write to"
        ) from error
    try:
        _take(lock, target)
        yield partial
        fsync_tree(partial)
        os.rename(partial, target)
        fsync_directory(target.parent)
    except BaseException:
        if key is None:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _take(lock: int, target: Path) -> None:
    """Hold the partial directory for this process; the kernel lets go of it when the process dies."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArtifactError(
            "another process is writing this output", file=target, fix="wait for it, or stop it and run again"
        ) from None


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a partial directory beside the directory `target` that takes its place when the block ends.

    On Linux and macOS the two change places in one step, so there is a whole `target` at every instant; where the file
    system cannot do that there is none between two renames, and `settle` finishes what a crash in between leaves. On
    an error nothing has changed. Only one process may do this at a time: hold a lock on `target`.
    """
    draft, before = _beside(target)
    settle(target)
    draft.mkdir()
    try:
        with held(draft):
            yield draft
            fsync_tree(draft)
            if not _exchange(draft, target):
                os.rename(target, before)
                os.rename(draft, target)
            fsync_directory(target.parent)
    finally:
        settle(target)


def settle(target: Path) -> None:
    """Finish what an interrupted `replacing` of `target` left beside it; hold a lock on `target` if it exists."""
    draft, before = _beside(target)
    if not target.exists() and before.exists():
        with held(draft if draft.exists() else before):
            os.rename(draft if draft.exists() else before, target)
        fsync_directory(target.parent)
    for left in (draft, before):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a directory for this process; raises ArtifactError when another one does."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        _take(lock, folder)
        if not os.path.samestat(os.fstat(lock), os.stat(folder)):  # it was replaced before it could be held
            raise ArtifactError("another process has written this output", file=folder, fix="try again")
        yield
    finally:
        os.close(lock)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source` where the file system allows it, else a copy; symbolic links stay so."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def make_directory(path: Path) -> None:
    """Make a directory and its parents durably."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        fsync_directory(path.parent)


def _beside(target: Path) -> tuple[Path, Path]:
    """Where the new content of `target` is made, and where the old one waits if the two cannot change places."""
    return target.with_name(f".{target.name}.partial-next"), target.with_name(f".{target.name}.partial-before")


def _exchange(first: Path, second: Path) -> bool:
    """Let two directories change places in one step; False where the system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        result = library.renameat2(here, names[0], here, names[1], exchange)
    elif hasattr(library, "renamex_np"):
        result = library.renamex_np(*names, 2)  # RENAME_SWAP
    else:
        return False
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def fsync_tree(root: Path) -> None:
    """Flush every file and directory below `root` to disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            fsync_file(Path(folder, name))
        fsync_directory(Path(folder))


def fsync_file(path: Path) -> None:
    """Flush what is in one file to disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Flush the names in one directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` at once and durably: a reader sees the old file or the new one, never a part."""
    write_parts(path, [content])


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """As `write_bytes`, of a content that is never whole in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        with open(partial, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Replace `path` by `value` as JSON, at once and durably; NaN is refused because it is not JSON."""
    write_bytes(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False).encode())
