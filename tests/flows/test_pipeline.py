"""The whole job in small: real simulator, real training, real MLflow and DVC; what is finished is never done again."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flows.pipeline import PipelineConfig
from lerobot_ops.flags import parse

ROOT = Path(__file__).parents[2]

SMALL = {
    "collect": {
        "state": {"num_episodes": 20, "workers": 1, "dataset": {"repo_id": "demo/state"}},
        "camera": {
            "num_episodes": 2,
            "camera_size": 64,
            "cameras": True,
            "env": {"episode_length": 12},
            "dataset": {"repo_id": "demo/camera"},
        },
    },
    # Nothing succeeds within 12 steps: keep those episodes, this is about plumbing.
    "curate": {"clean": None, "repo_id": "demo/small", "merge": {"features": "common"}},
    "train": {
        "steps": 600,
        "save_freq": 100,
        "log_freq": 50,
        "policy": {"dim_model": 32, "dim_feedforward": 64, "n_heads": 2},
    },
    "evaluate": {"eval": {"n_episodes": 2}, "env": {"episode_length": 40}, "clips": {"size": 64, "fps": 5}},
}


def run(workspace: Path, *arguments: str, kill_when: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the pipeline's command in `workspace`; with `kill_when`, kill -9 as soon as something lies there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(workspace / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.pipeline", "--config_path=small.yaml", *arguments]
    log = workspace / "output.log"
    with open(log, "w") as output:  # no pipe: the temporary server of a killed run would keep it open
        process = subprocess.Popen(
            command, cwd=workspace, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + 280
    while process.poll() is None and time.monotonic() < deadline:
        if kill_when is not None and list(workspace.glob(str(kill_when))):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, log.read_text())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with DVC and the small configuration."""
    path = tmp_path_factory.mktemp("clone")
    (path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    shutil.copytree(ROOT / ".dvc", path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    shutil.copy(ROOT / ".gitignore", path)
    subprocess.run(["git", "init", "-q", path], check=True)
    return path


def steps(output: str) -> dict[str, str]:
    """Label to `done` or `up to date`, from the log."""
    found = {}
    for line in output.splitlines():
        for word in ("up to date", "done"):
            head, separator, _ = line.partition(f": {word} (")
            if separator:
                found[head.rpartition(" - ")[2]] = word
    return found


@pytest.mark.timeout(900)
def test_killed_at_three_places_the_pipeline_ends_with_what_it_had_and_then_does_nothing(workspace: Path) -> None:
    run(workspace, kill_when=Path("outputs/datasets/demo/state/.*.partial-*/meta/episodes/*/file-002.parquet"))
    assert not list(workspace.glob("outputs/datasets/demo/state/[0-9a-f]*"))
    run(workspace, kill_when=Path("outputs/train/*/*/checkpoints/000100/training_state"))
    assert not list(workspace.glob("outputs/train/*/*/pretrained_model"))
    collected = {path: path.stat().st_mtime_ns for path in workspace.glob("outputs/datasets/**/*.parquet")}
    run(workspace, kill_when=Path("outputs/eval/*/.*.partial-*/records.jsonl"))

    finished = run(workspace)
    assert finished.returncode == 0, finished.stdout
    done = steps(finished.stdout)
    assert done["train"] == "up to date"
    assert done["evaluate"] == "done"
    assert all(path.stat().st_mtime_ns == changed for path, changed in collected.items())
    assert "pc_success" in finished.stdout

    again = run(workspace)
    assert again.returncode == 0, again.stdout
    assert set(steps(again.stdout).values()) == {"up to date"}

    changed = run(workspace, "--train.steps=620")
    assert changed.returncode == 0, changed.stdout
    done = steps(changed.stdout)
    before = {
        label: word for label, word in done.items() if label.startswith(("collect", "validate", "clean", "merge"))
    }
    assert set(before.values()) == {"up to date"}
    assert done["train"] == done["evaluate"] == "done"
    assert len(list(workspace.glob("outputs/train/*/*/pretrained_model"))) == 2


def test_the_result_is_versioned_tracked_and_reported(workspace: Path) -> None:
    pointers = list(workspace.glob("outputs/**/*.dvc"))
    assert pointers
    for pointer in pointers:
        version = yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
        assert (workspace / ".dvc/cache/files/md5" / version[:2] / version[2:]).exists()
    (report,) = list(workspace.glob("outputs/report/*/*/report.html"))[:1]
    assert "pc_success" in report.read_text()
    metrics = json.loads(next(workspace.glob("outputs/eval/*/*/metrics.json")).read_text())
    assert metrics["n_episodes"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--evaluate.env.task=button-pres-topdown-v3"], 2, "button-press-topdown-v3"),
        (["--train.policy.type=akt"], 2, "act"),
        (["--train.stepz=3"], 2, "did you mean 'steps'"),
    ],
)
def test_a_wrong_parameter_ends_at_once_with_its_close_matches(
    workspace: Path, arguments: list[str], code: int, words: str
) -> None:
    ended = run(workspace, *arguments)
    assert ended.returncode == code
    assert words in ended.stdout
    assert "Traceback" not in ended.stdout


def test_the_file_that_the_demo_runs_on_says_what_the_form_shows() -> None:
    assert parse(PipelineConfig, [f"--config_path={ROOT / 'params.yaml'}"]) == PipelineConfig()
