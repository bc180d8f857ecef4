"""Versions in a real git repository with DVC and a local remote."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lerobot_ops.errors import ArtifactError, PrerequisiteError
from lerobot_ops.versioning.digest import digest
from lerobot_ops.versioning.dvc import repository, restore, version


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=root, check=True)


def _dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "repository"
    root.mkdir()
    _git(root, "init", "--quiet")
    _dvc(root, "init", "--quiet")
    _dvc(root, "remote", "add", "--quiet", "--default", "store", "../store")
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.chdir(shutil.copytree(template, tmp_path / "repository"))
    return Path.cwd()


def _dataset(path: Path) -> Path:
    for name, content in {
        "meta/info.json": b"{}",
        "data/chunk-000/file-000.parquet": b"PAR1" * 1000,
        "data-later/file": b"sorts before or after data/",
        "data.txt": b"x",
        "videos/observation.images.côté/épisode 0.mp4": b"video",
        "meta/empty": b"",
        "\u4efb\u52a1/\U0001f916.json": b"{}",
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    (path / "no files").mkdir()
    return path


def test_a_dataset_comes_back_from_the_remote_as_it_was(root: Path, tmp_path: Path) -> None:
    dataset = _dataset(root / "outputs/datasets/demo")
    before = digest(dataset)
    relative = Path("outputs/datasets/demo")
    versions = version([relative])
    assert versions[relative].digest == before
    assert versions[relative].pointer == root / "outputs/datasets/demo.dvc"
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", "version 1")

    (dataset / "meta/info.json").write_bytes(b'{"fps": 80}')
    (dataset / "data.txt").unlink()
    changed = version([dataset])[dataset].digest
    assert changed == digest(dataset) != before

    _git(root, "checkout", "--quiet", "HEAD", "--", "outputs/datasets/demo.dvc")
    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree(dataset)
    assert restore(dataset).digest == before == digest(dataset)
    assert (dataset / "meta/empty").read_bytes() == b""


def test_several_paths_in_one_call(root: Path) -> None:
    (root / "checkpoint").mkdir()
    (root / "checkpoint/model.safetensors").write_bytes(b"weights")
    (root / "report.html").write_text("<p>report")
    versions = version([root / "checkpoint", root / "report.html"], push=False)
    assert {path.name: found.digest for path, found in versions.items()} == {
        "checkpoint": digest(root / "checkpoint"),
        "report.html": digest(root / "report.html"),
    }
    assert version([]) == {}


def test_an_output_of_a_stage_is_recorded_in_the_lock_file(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages:\n  collect:\n    cmd: exit 1\n    outs: [outputs/demo]\n")
    dataset = _dataset(root / "outputs/demo")
    found = version([dataset])[dataset]
    assert (found.digest, found.pointer) == (digest(dataset), root / "dvc.lock")
    assert "up to date" in _dvc(root, "repro")
    shutil.rmtree(dataset)
    assert restore(dataset).digest == found.digest


def test_what_is_missing_is_named_with_the_command(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(PrerequisiteError, match="git init && dvc init"):
        repository(tmp_path / "bare/dataset")
    shutil.rmtree(root / ".dvc")
    with pytest.raises(PrerequisiteError, match=f"cd {root} && dvc init"):
        repository(root / "dataset")


def test_no_remote_nothing_there_and_no_version(root: Path) -> None:
    (root / "file").write_text("x")
    with pytest.raises(ArtifactError, match="no version yet"):
        restore(root / "file")
    with pytest.raises(ArtifactError, match="nothing to version"):
        version([root / "nowhere"])
    _dvc(root, "remote", "remove", "store")
    with pytest.raises(PrerequisiteError, match="dvc remote add --default"):
        version([root / "file"])


def test_content_that_is_nowhere_is_an_error(root: Path) -> None:
    (root / "file").write_text("x")
    version([root / "file"], push=False)
    (root / "file").unlink()
    shutil.rmtree(root / ".dvc/cache")
    with pytest.raises(ArtifactError, match="dvc pull"):
        restore(root / "file")


def test_a_file_that_dvc_leaves_out_is_noticed(root: Path) -> None:
    (root / ".dvcignore").write_text("*.json\n")
    dataset = _dataset(root / "demo")
    with pytest.raises(ArtifactError, match="another digest"):
        version([dataset])


def test_a_path_that_git_tracks_is_refused_with_the_reason(root: Path) -> None:
    (root / "file").write_text("x")
    _git(root, "add", "file")
    with pytest.raises(ArtifactError, match="tracked by SCM"):
        version([root / "file"])
