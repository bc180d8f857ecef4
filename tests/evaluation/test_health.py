"""The health page, made from what evaluations left in MLflow."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lerobot_ops.cli import main
from lerobot_ops.errors import OpsError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.health import HealthConfig, Point, chart, health
from lerobot_ops.evaluation.tracked import evaluate_tracked, track_failure
from lerobot_ops.flags import build
from lerobot_ops.tracking import TrackingConfig


def evaluated(folder: Path, tracking: TrackingConfig, path: str, seed: int, **tags: str) -> None:
    values = {"env": {"task": "reach-v3", "episode_length": 60}, "policy": {"path": path}, "seed": seed}
    values |= {"eval": {"n_episodes": 3}, "sandbox": {"type": "venv"}, "output_dir": folder / f"{path}-{seed}"}
    values |= {"clips": {"enable": path == "expert", "size": 64, "fps": 5}}
    evaluate_tracked(build(EvalConfig, values, source="the test"), tracking, tags=tags)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """Two measurements of a weekly champion, for which the expert stands in, and two policies without training."""
    folder = tmp_path_factory.mktemp("health")
    tracking = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db")
    weekly = {"schedule": "weekly", "weekly.benchmark": "reach", "weekly.policy": "champion"}
    evaluated(folder, tracking, "zero", 1)
    evaluated(folder, tracking, "random", 1)
    evaluated(folder, tracking, "expert", 1, **weekly)
    evaluated(
        folder, tracking, "expert", 2, **weekly, **{"comparison.verdict": "inconclusive", "comparison.with": "<b>"}
    )
    return tracking


def test_the_page_shows_what_was_measured(tracking: TrackingConfig, tmp_path: Path) -> None:
    page = health(HealthConfig(output=tmp_path / "deep/health.html", tracking=tracking)).read_text()
    assert page.count('<section class="benchmark"') == 1
    assert page.count("<circle") == 2
    assert "inconclusive" in page
    assert "&lt;b&gt;" in page  # a tag is text, whatever it holds
    assert len(re.findall(r'src="data:video/mp4;base64,[A-Za-z0-9+/=]{500,}"', page)) >= 1
    assert "Reach a goal position" in page
    assert re.search(r"<td>zero</td><td>\d+\.\d %</td>", page)
    assert re.search(r"<td>random</td>", page)
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched
    assert "<script" not in page


def test_what_is_missing_is_said(tracking: TrackingConfig, tmp_path: Path) -> None:
    page = health(HealthConfig(output=tmp_path / "stale.html", tracking=tracking, stale_days=1e-9)).read_text()
    assert "the last measurement is 0 days old" in page
    assert "Never measured: libero, pusht." in page
    empty = TrackingConfig(uri=f"sqlite:///{tmp_path}/empty.db")
    assert (
        "There is no evaluation yet" in health(HealthConfig(output=tmp_path / "empty.html", tracking=empty)).read_text()
    )


def test_what_fails_is_said_until_it_is_measured_again(tmp_path: Path) -> None:
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    broken = {"env": {"task": "reach-v3"}, "policy": {"path": str(tmp_path)}, "clips": {"enable": False}}
    with pytest.raises(OpsError):
        evaluate_tracked(build(EvalConfig, broken, source="the test"), tracking)
    track_failure("metaworld-push-v3", "no engine\nat all", tracking, tags={"weekly.benchmark": "push"})
    page = health(HealthConfig(output=tmp_path / "page.html", tracking=tracking)).read_text()
    assert page.count('<section class="benchmark"') == 2
    assert re.search(r"<li>the last measurement, on [^<]*, failed: [^<]*checkpoint", page)
    assert re.search(r"<li>the last measurement, on [^<]*, failed: no engine</li>", page)
    assert "<li>no trained policy was measured</li>" in page

    evaluated(tmp_path, tracking, "zero", 1)
    page = health(HealthConfig(output=tmp_path / "page.html", tracking=tracking)).read_text()
    assert page.count("failed: ") == 1


def test_a_benchmark_that_is_solved_by_doing_nothing_is_broken(tmp_path: Path) -> None:
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    evaluated(tmp_path, tracking, "expert", 1, policy="zero")  # as if doing nothing solved it
    evaluated(tmp_path, tracking, "zero", 1, policy="expert")
    page = health(HealthConfig(output=tmp_path / "page.html", tracking=tracking)).read_text()
    assert re.search(r"<li>the policy zero reaches (67|100) %, so the benchmark is broken</li>", page)
    assert "<li>the policy expert reaches only 0 %, so the benchmark is broken</li>" in page


def test_on_the_command_line(
    tracking: TrackingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["health", "page.html", f"--tracking.uri={tracking.uri}", "--clips=0"])
    assert capsys.readouterr().out == "page.html\n"
    assert "<video" not in (tmp_path / "page.html").read_text()


def test_a_chart_has_its_marks_in_order() -> None:
    rates = (0.0, 50.0, 100.0)
    points = [
        Point(
            when=datetime(2026, 1, day, tzinfo=UTC),
            pc_success=rate,
            ci_low=0,
            ci_high=100,
            n_episodes=9,
            policy="",
            run_id="",
        )
        for day, rate in enumerate(rates, start=1)
    ]
    found = chart(points)
    assert [mark["x"] for mark in found["marks"]] == pytest.approx([100 / 6, 50, 500 / 6], abs=0.01)
    assert [mark["y"] for mark in found["marks"]] == [100, 50, 0]
    assert [day for _, day in found["days"]] == ["01 Jan 2026", "02 Jan 2026", "03 Jan 2026"]
