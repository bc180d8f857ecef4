"""Outputs exist whole or not at all, whatever happens to the process that writes them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lerobot_ops.artifacts import staged, write_json
from lerobot_ops.errors import ArtifactError


def test_the_target_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged(target) as partial:
        (partial / "a.txt").write_text("a")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "a.txt").read_text() == "a"


def test_an_error_leaves_nothing_without_a_key_and_the_unfinished_with_one(tmp_path: Path) -> None:
    def fail(key: str | None) -> None:
        with staged(tmp_path / "out", key) as partial:
            (partial / "a.txt").write_text("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError):
        fail("k" * 64)
    with staged(tmp_path / "out", "k" * 64) as partial:
        assert (partial / "a.txt").read_text() == "a"


def test_an_existing_target_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="exists already"), staged(tmp_path / "out"):
        pass


def test_an_output_below_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"), staged(tmp_path / "file" / "out"):
        pass


def test_two_processes_never_write_the_same_output_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    target, key = tmp_path / "out", "k" * 64
    code = (
        "import sys, time; from pathlib import Path; from lerobot_ops.artifacts import staged\n"
        f"with staged(Path({str(target)!r}), {key!r}) as partial:\n"
        "    (partial / 'begun').write_text('1'); print('ready', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    with pytest.raises(ArtifactError, match="another process"), staged(target, key):
        pass
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    time.sleep(0.01)
    assert not target.exists()
    with staged(target, key) as partial:
        assert (partial / "begun").exists()
    assert target.exists()


def test_a_json_file_is_replaced_at_once_and_refuses_what_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "meta" / "info.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}'
    assert [file.name for file in path.parent.iterdir()] == ["info.json"]
