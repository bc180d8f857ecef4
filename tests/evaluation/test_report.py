"""The report is one file that plays, escapes what it shows and refers to nothing outside."""

import base64
import io
import re
from pathlib import Path

import av
import pytest

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.evaluation.report import ReportClip, ReportData, Step, TaskScore, episode_clip, write_report

DATASET = Path(__file__).parents[1] / "data" / "two_task_h264"


def report(clips: list[ReportClip], sheet: Path | None, title: str = "A run") -> ReportData:
    score = TaskScore(task="press", pc_success=50, ci_low=9.5, ci_high=90.5, n_successes=1, n_episodes=2, n_errors=1)
    return ReportData(
        title=title,
        lineage=[Step(title="recording", name="team/two-task", version="0" * 32 + ".dir", facts={"episodes": "12"})],
        links={"git.commit": "abc"},
        datasets=[{"dataset": "team/two-task", "episodes": "12"}],
        contact_sheet=sheet,
        loss=[(1, 1.0), (50, 0.5), (100, 0.1)],
        overall=score,
        scores=[score],
        clips=clips,
        no_failure=False,
    )


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    target = tmp_path / "clip.mp4"
    episode_clip(DATASET, 1, target)
    return target


def test_the_page_needs_nothing_but_itself_and_its_clip_plays(tmp_path: Path, clip: Path) -> None:
    failure = ReportClip(outcome="failure", caption="press, seed 3", path=clip)
    write_report(report([failure], DATASET), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "<script" not in page
    (content,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    with av.open(io.BytesIO(base64.b64decode(content))) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        frames = sum(1 for _ in video.decode(video=0))
    dataset = LeRobotDataset(DATASET)
    length = int(dataset.episode_bounds[1][1] - dataset.episode_bounds[0][1])
    assert frames == -(-length // max(1, round(dataset.fps / 20)))
    assert re.search(r'src="data:image/jpeg;base64,/9j/', page)


def test_a_name_is_shown_as_it_is_and_never_run(tmp_path: Path) -> None:
    write_report(report([], None, title="<img src=x onerror=alert(1)>"), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_the_interval_and_the_errors_are_told(tmp_path: Path) -> None:
    write_report(report([], None), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "1 of 2 held-out episodes succeeded" in page
    assert "9.5 to 90.5" in page
    assert "1 episodes ended in an error" in page
