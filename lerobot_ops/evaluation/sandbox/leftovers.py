"""What sandboxes of older recipes leave in the cache: virtual environments, and folders of the guest's sources."""

import re
import shutil
import time
from pathlib import Path

from lerobot_ops import envs
from lerobot_ops.errors import OpsError
from lerobot_ops.evaluation.sandbox import venv
from lerobot_ops.evaluation.sandbox.recipe import building, cache_folder, recipe

UNUSED_S = 24 * 3600.0
"""An evaluation that began with an older recipe may still start workers: what was opened later than this stays."""


def prune_cache(unused_s: float = UNUSED_S) -> list[Path]:
    """Remove what no present recipe names and nobody has opened for `unused_s` seconds; returns what was removed."""
    kept = set[str]()
    for benchmark in envs.benchmarks():
        try:
            made_of = recipe(benchmark)
        except OpsError:  # it can only run in this interpreter
            continue
        # Of every Python: other installations share this cache.
        name = venv.environment_name(made_of)
        kept |= {_any_python(name), venv.guest_name(made_of)}
    removed = []
    cache = cache_folder()
    for folder in sorted([*cache.glob("guest-*"), *cache.glob("venvs/*")]):
        stamp = folder / ".complete" if (folder / ".complete").exists() else folder
        if not folder.is_dir() or {folder.name, _any_python(folder.name)} & kept:
            continue
        if time.time() - stamp.stat().st_mtime < unused_s:
            continue
        with building("guest" if folder.parent == cache else f"venv-{_VERSION.split(folder.name)[0]}"):
            shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder)
    return removed


def _any_python(name: str) -> str:
    return _VERSION.sub("-", name)


_VERSION = re.compile(r"-\d+\.\d+\.\d+[^-]*-")
