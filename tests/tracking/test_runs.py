"""Runs in a real SQLite store, and in a real server on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lerobot_ops.config import Config
from lerobot_ops.errors import ArtifactError, ConfigError, PrerequisiteError
from lerobot_ops.tracking import (
    MlflowRun,
    Run,
    TrackingConfig,
    champion,
    open_run,
    promote,
    register_checkpoint,
    server_command,
    tracking_uri,
)
from lerobot_ops.versioning.digest import digest


class Inner(Config):
    lr: float = 1e-4
    names: tuple[str, ...] = ("a", "b")


class Outer(Config):
    steps: int = 10
    inner: Inner = Inner()
    note: str | None = None


@pytest.fixture
def config(store: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{store}", experiment="tests")


def _open(config: TrackingConfig, **given: object) -> MlflowRun:
    run = open_run(config, **{"name": "train", **given})
    assert isinstance(run, MlflowRun)
    return run


def test_a_run_holds_params_metrics_tags_dataset_and_files(config: TrackingConfig, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/success.mp4").write_bytes(b"mp4")
    parent = _open(config, name="pipeline")
    digest = "0" * 32 + ".dir"
    with _open(config, parent_id=parent.id, params=Outer(), tags={"git.commit": "abc"}) as run:
        run.log_metrics({"loss": 0.5, "eval/a task/pc_success": 100.0}, step=3)
        run.log_dataset("demo", digest, "outputs/datasets/demo")
        run.log_artifacts(tmp_path / "clips", "videos")
    stored = run.client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"steps": "10", "inner.lr": "0.0001", "inner.names": '["a", "b"]', "note": "null"}
    assert stored.data.metrics == {"loss": 0.5, "eval/a task/pc_success": 100.0}
    assert stored.data.tags["mlflow.parentRunId"] == parent.id
    assert stored.data.tags["git.commit"] == "abc"
    (given,) = stored.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("demo", digest)
    folder = Path(stored.info.artifact_uri.removeprefix("file://"))
    assert (folder / "videos/success.mp4").read_bytes() == b"mp4"
    assert folder.is_relative_to(Path(config.uri.removeprefix("sqlite:///")).parent)


def test_a_failure_marks_the_run_as_failed(config: TrackingConfig) -> None:
    with pytest.raises(ZeroDivisionError), _open(config) as run:
        raise ZeroDivisionError
    assert run.client.get_run(run.id).info.status == "FAILED"


def test_a_resumed_run_keeps_its_params_and_never_repeats_a_step(config: TrackingConfig) -> None:
    first = _open(config, params=Outer())
    for step in (10, 20, 30):
        first.log_metrics({"loss": 1 / step}, step)
    again = _open(config, run_id=first.id, params=Outer(steps=99))
    for step in (20, 30, 40):  # it resumed from the checkpoint at step 10
        again.log_metrics({"loss": 1 / step, "lr": 0.1}, step)
    again.finish()
    assert again.id == first.id
    assert [point.step for point in again.client.get_metric_history(first.id, "loss")] == [10, 20, 30, 40]
    assert [point.step for point in again.client.get_metric_history(first.id, "lr")] == [20, 30, 40]
    stored = again.client.get_run(first.id).data
    assert (stored.params["steps"], stored.tags["resumed.steps"]) == ("10", "99")


def test_a_run_that_the_store_has_lost_is_opened_anew(config: TrackingConfig) -> None:
    run = _open(config, run_id="0" * 32)
    assert run.id != "0" * 32
    run.client.delete_run(run.id)
    assert _open(config, run_id=run.id).id != run.id


def test_a_long_value_is_cut_and_kept_whole_as_a_file(config: TrackingConfig) -> None:
    run = _open(config, params={"text": "x" * 7000, "names": {"näme": 1}})
    stored = run.client.get_run(run.id)
    assert stored.data.params == {"text": "x" * 5999 + "…", "names.n_me": "1"}
    folder = Path(stored.info.artifact_uri.removeprefix("file://"))
    assert json.loads((folder / "config.json").read_text())["text"] == "x" * 7000


def test_more_values_than_one_request_takes(config: TrackingConfig) -> None:
    run = _open(config, params={f"key{i}": i for i in range(230)}, tags={f"tag{i}": str(i) for i in range(150)})
    run.log_metrics({f"metric{i}": float(i) for i in range(1500)})
    data = run.client.get_run(run.id).data
    assert (len(data.params), len(data.metrics)) == (230, 1500)


def test_a_metric_that_is_not_finite_becomes_a_tag(config: TrackingConfig) -> None:
    run = _open(config)
    run.log_metrics({"loss": float("nan"), "lr": 0.1}, step=7)
    data = run.client.get_run(run.id).data
    assert data.metrics == {"lr": 0.1}
    assert data.tags["not_finite.loss"] == "nan at step 7"


def test_nothing_is_imported_or_written_when_tracking_is_off(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from lerobot_ops.tracking import TrackingConfig, open_run\n"
        "with open_run(TrackingConfig(enable=False), name='x') as run:\n"
        "    run.log_metrics({'loss': 1.0}, 1); run.log_artifacts(Path('nowhere')); assert run.id is None\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
    assert Run().id is None


def test_the_default_store_is_beside_its_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingConfig()) == f"sqlite:///{tmp_path}/outputs/mlflow/mlflow.db"
    assert "sqlite:///outputs/mlflow/mlflow.db" in (server_command(TrackingConfig()) or "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(TrackingConfig()) == "http://127.0.0.1:5000"
    assert server_command(TrackingConfig()) is None


def test_a_password_in_a_config_is_refused() -> None:
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        TrackingConfig(uri="https://me:secret@host")
    assert "host" in str(caught.value)


def test_an_unwritable_store_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        open_run(TrackingConfig(uri=f"sqlite:///{tmp_path}/file/mlflow.db"), name="x")
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(ArtifactError, match="cannot be opened"):
        open_run(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"), name="x")


def test_a_deleted_experiment_is_named(config: TrackingConfig) -> None:
    run = _open(config, name="x")
    run.client.delete_experiment(run.experiment_id)
    with pytest.raises(ConfigError, match="was deleted"):
        open_run(config, name="x")


def test_a_missing_server_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PrerequisiteError, match="does not answer"):
        open_run(TrackingConfig(uri="http://127.0.0.1:9"), name="x")


def test_first_uses_at_once_make_one_store(tmp_path: Path) -> None:
    script = (
        "from lerobot_ops.tracking import TrackingConfig, open_run\n"
        "open_run(TrackingConfig(experiment='race'), name='x').finish()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    running = [subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/outputs/mlflow/mlflow.db", experiment="race")
    run = _open(config)
    assert len(run.client.search_runs([run.experiment_id])) == 4


@pytest.fixture
def server(config: TrackingConfig, tmp_path: Path) -> Iterator[str]:
    """`mlflow server` over the SQLite store, the way the documentation starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", str(config.uri)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/health", process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"mlflow server did not start (exit {process.poll()})")


def test_a_server_shows_what_sqlite_tracked_and_takes_new_runs(
    config: TrackingConfig, server: str, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text("<h1>report</h1>")
    local = _open(config)
    local.log_artifact(page, "report")
    with urllib.request.urlopen(f"{server}/get-artifact?path=report/report.html&run_uuid={local.id}") as answer:
        assert answer.read() == page.read_bytes()
    with _open(TrackingConfig(uri=server, experiment="over http"), params=Outer()) as remote:
        remote.log_metrics({"loss": 0.25}, step=1)
        remote.log_artifact(page, "report")
        (tmp_path / "act").mkdir()
        (tmp_path / "act/model.safetensors").write_bytes(b"weights")
        version = register_checkpoint(remote, tmp_path / "act", name="act")
    assert version is not None
    over_http = TrackingConfig(uri=server)
    assert promote(over_http, version, pc_success=90.0, n_episodes=50, benchmark="metaworld/reach-v3").promoted
    assert digest(champion(over_http, "act", tmp_path / "champions").path) == digest(tmp_path / "act")
    assert remote.url == f"{server}/#/experiments/{remote.experiment_id}/runs/{remote.id}"
    assert local.client.get_run(remote.id).data.metrics == {"loss": 0.25}
