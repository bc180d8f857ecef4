import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from recordings import LEROBOT, STATE, camera, change_table, frames_of, lay_around, picture, record, set_cells

from lerobot_ops.datasets.images import decode_image
from lerobot_ops.datasets.info import DatasetInfo, Feature, load_info, with_defaults, write_info
from lerobot_ops.datasets.language import language_array
from lerobot_ops.datasets.tables import load_data
from lerobot_ops.datasets.videos.depth import DepthRange
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import decode_frames
from lerobot_ops.datasets.videos.video_writer import encode
from lerobot_ops.datasets.viewing.content import plot_groups
from lerobot_ops.datasets.viewing.episode import dimension_names, load_episode
from lerobot_ops.datasets.viewing.viz import VizConfig, VizResult, viz
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import ArtifactError, DatasetError, PrerequisiteError

BUTTON, TWO_TASKS, IMAGES = (LEROBOT / name for name in ("button_av1_cut", "two_task_h264", "images_cut"))
FRONT = "observation.images.front"
HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" {{7*7}} <!--'


class Page(HTMLParser):
    """What a page holds: its elements, the text that is shown, and its scripts by id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: dict[str, str] = {}
        self.text, self._open = "", ["html"]
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open[-1] == "script":
            name = self.elements[-1][1].get("id", "code")
            self.scripts[name] = self.scripts.get(name, "") + data
        elif self._open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def plots(self) -> list[dict]:
        return [plot for group in json.loads(self.scripts["content"])["groups"] for plot in group]

    def clip(self, number: int, folder: Path) -> tuple[Path, float]:
        """The file of an embedded video, and the second at which its episode begins."""
        video = self.all("video")[number]
        path = folder / f"embedded{number}.mp4"
        path.write_bytes(base64.b64decode(self.scripts[video["data-clip"]]))
        return path, float(video["data-start"])


def show(root: Path, folder: Path, **fields) -> tuple[Page, VizResult]:
    result = viz(VizConfig(root=root, output=folder / "page.html", **({"findings": False} | fields)))
    return Page(result.path), result


def numbers(line: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(line["values"]), np.dtype(line["dtype"]).newbyteorder("<"))


@pytest.mark.parametrize(
    ("root", "episode", "key"), [(BUTTON, 0, "observation.image"), (TWO_TASKS, 5, FRONT)], ids=["av1", "h264"]
)
def test_the_page_plays_the_very_frames_of_the_episode(tmp_path: Path, root: Path, episode: int, key: str) -> None:
    page, result = show(root, tmp_path, episode=episode)
    clip, start = page.clip(0, tmp_path)
    wanted = frames_of(root, episode, key)
    assert (decode_frames(clip, start, range(len(wanted)), load_info(root).fps) == wanted).all()
    assert (result.frames, result.cameras, result.bytes) == (len(wanted), [key], result.path.stat().st_size)


def test_an_episode_that_does_not_begin_with_a_keyframe_plays_from_its_own_first_frame(tmp_path: Path) -> None:
    info = DatasetInfo(fps=10, features=with_defaults({"observation.state": STATE, FRONT: camera()}))
    root = tmp_path / "dataset"
    video = root / info.video_file(FRONT, 0, 0)
    video.parent.mkdir(parents=True)
    encode(video, [picture(0, frame) for frame in range(30)], 10, VideoEncoding(vcodec="h264", g=30))
    lay_around(root, info, FRONT, [12, 11, 7])
    page, _ = show(root, tmp_path, episode=1)
    clip, start = page.clip(0, tmp_path)
    assert start == pytest.approx(1.2)
    assert (decode_frames(clip, start, range(11), 10) == decode_frames(video, 1.2, range(11), 10)).all()


def test_images_in_the_parquet_become_a_video(tmp_path: Path) -> None:
    page, _ = show(IMAGES, tmp_path)
    clip, start = page.clip(0, tmp_path)
    shown = decode_frames(clip, start, range(20), 30).astype(int)
    images = [decode_image(value["bytes"]) for value in load_data(IMAGES, [FRONT]).column(FRONT).to_pylist()]
    assert np.abs(shown - np.stack(images).transpose(0, 2, 3, 1)).mean() < 8
    assert "an H.264 preview" in page.text


def reencoded(root: Path, key: str, frames: list[np.ndarray], pixels: str, **info: object) -> None:
    """Put an HEVC video in the place of a camera's only video file."""
    about = load_info(root)
    height, width = frames[0].shape[:2]
    with av.open(str(root / about.video_file(key, 0, 0)), "w") as container:
        stream = container.add_stream("libx265", about.fps, options={"x265-params": "log-level=none:lossless=1"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for frame in frames:
            layout = "rgb24" if frame.ndim == 3 else "gray12le"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, layout).reformat(format=pixels)))
        container.mux(stream.encode(None))
    old = about.features[key]
    feature = old.model_copy(update={"info": {**(old.info or {}), "video.codec": "hevc", **info}})
    write_info(root, about.model_copy(update={"features": about.features | {key: feature}}))


def test_what_browsers_do_not_play_is_shown_as_a_preview(tmp_path: Path) -> None:
    cameras = {FRONT: "video", "observation.images.depth": "video"}
    root = record(tmp_path / "dataset", ["push", "push"], cameras=cameras)
    pictures = [picture(number, frame) for number in range(2) for frame in range(12 + number)]
    distances = [np.tile(np.linspace(0.3, 2.0, 64), (48, 1)) for _ in pictures]
    reencoded(root, FRONT, pictures, "yuv420p")
    levels = [DepthRange().levels(distance, "m") for distance in distances]
    reencoded(root, "observation.images.depth", levels, "gray12le", is_depth_map=True, **{"video.pix_fmt": "gray12le"})
    page, _ = show(root, tmp_path, episode=1)
    front, depth = (decode_frames(page.clip(number, tmp_path)[0], 0.0, range(13), 10) for number in (0, 1))
    with av.open(str(page.clip(0, tmp_path)[0])) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    assert np.abs(front.astype(int) - np.stack(pictures[12:])).mean() < 8
    near, far = depth[:, :, :4].mean(), depth[:, :, -4:].mean()
    assert near > 240
    assert far < 15
    assert "white at 0.3" in page.text


def test_the_numbers_of_the_plots_are_those_of_the_table(tmp_path: Path) -> None:
    page, _ = show(TWO_TASKS, tmp_path, episode=2)
    rows = load_data(TWO_TASKS).slice(160, 80)
    plots = page.plots()
    names = load_info(TWO_TASKS).features["action"].names
    assert [plot["title"] for plot in plots] == names
    for place, plot in enumerate(plots):
        assert [line["feature"] for line in plot["lines"]] == ["observation.state", "action"]
        for line in plot["lines"]:
            column = np.array(rows.column(line["feature"]).to_pylist(), np.float32)[:, place]
            assert (numbers(line) == column).all()


def test_the_statistics_table_says_what_the_episode_holds(tmp_path: Path) -> None:
    page, _ = show(TWO_TASKS, tmp_path, episode=2)
    values = np.array(load_data(TWO_TASKS, ["action"]).slice(160, 80).column("action").to_pylist())
    for statistic in (values.min(0), values.mean(0), values.std(0), values.max(0)):
        for value in statistic:
            assert f"{value:.4g}" in page.text


def test_text_of_the_dataset_stays_text(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "|")
    plain = {"dtype": "float32", "shape": [2], "names": None}
    named = {"dtype": "float32", "shape": [2], "names": [HOSTILE, "b"]}
    root = record(tmp_path / "a&b", [HOSTILE], cameras={}, features={name: plain, "action": named}, robot_type=HOSTILE)
    page, _ = show(root, tmp_path)
    assert page.text.count(HOSTILE) >= 2  # the task and the robot
    assert name in page.text
    assert [plot["title"] for plot in page.plots()] == [HOSTILE, "b", "0", "1"]
    assert not page.all("img")
    assert not any(attribute.startswith("on") for _, attributes in page.elements for attribute in attributes)
    assert set(page.scripts) == {"content", "code"}


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page, result = show(BUTTON, tmp_path)
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")
    assert not [attributes for _, attributes in page.elements if {"src", "href"} & attributes.keys()]
    outside = re.sub(r"<script.*?</script>", "", result.path.read_text(), flags=re.DOTALL)
    assert "://" not in outside
    assert "url(" not in outside


def test_the_same_episode_gives_the_same_bytes(tmp_path: Path) -> None:
    for root in (BUTTON, IMAGES):
        first, second = tmp_path / "first.html", tmp_path / "second.html"
        for output in (first, second):
            viz(VizConfig(root=root, output=output, overwrite=True))
        assert first.read_bytes() == second.read_bytes()


def test_pages_beside_each_other_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for episode, links in ((0, []), (2, []), (1, ["two_task_h264_episode_0.html", "two_task_h264_episode_2.html"])):
        result = viz(VizConfig(root=TWO_TASKS, episode=episode, findings=False))
        assert result.path == Path(f"two_task_h264_episode_{episode}.html")
        assert [link["href"] for link in Page(result.path).all("a")] == links


def test_findings_of_the_episode_are_shown(tmp_path: Path) -> None:
    root = shutil.copytree(TWO_TASKS, tmp_path / "dataset")
    change_table(root / "data/chunk-000/file-000.parquet", set_cells("task_index", {100: 0, 250: 0}))
    page, _ = show(root, tmp_path, episode=3, findings=True)
    assert "episode-tasks" in page.text
    clean = show(root, tmp_path, episode=0, findings=True, overwrite=True)[0]
    assert "Validation finds nothing wrong with this episode." in clean.text
    assert "about the dataset as a whole" in clean.text or "episode-tasks" not in clean.text


def test_what_is_said_about_the_episode_is_shown(tmp_path: Path) -> None:
    root = shutil.copytree(IMAGES, tmp_path / "dataset")
    info = load_info(root)
    kinds = ("language_persistent", "language_events")
    language = {name: Feature(dtype="language", shape=(1,)) for name in kinds}
    write_info(root, info.model_copy(update={"features": info.features | language}))
    subtasks = [
        {"role": "assistant", "content": text, "style": "subtask", "timestamp": second}
        for text, second in ((f"reach {HOSTILE}", 0.0), ("grasp", 0.2))
    ]
    event = {"role": "user", "content": "to the left!", "style": "interjection"}

    def annotate(table):
        events = [[event] if row == 9 else [] for row in range(table.num_rows)]
        for name, cells in zip(kinds, ([subtasks] * table.num_rows, events), strict=True):
            table = table.append_column(name, language_array(name, cells))
        return table

    change_table(root / "data/chunk-000/file-000.parquet", annotate)
    page, _ = show(root, tmp_path)
    rows = [(row["data-frame"], row["data-kind"]) for row in page.all("tr") if "data-frame" in row]
    assert rows == [("0", "subtask · assistant"), ("6", "subtask · assistant"), ("9", "interjection · user")]
    assert "grasp" in page.text
    assert f"reach {HOSTILE}" in page.text


def test_hundreds_of_dimensions_stay_a_few_plots(tmp_path: Path) -> None:
    features = {
        "observation.state": {"dtype": "float32", "shape": [600], "names": None},
        "action": {"dtype": "float32", "shape": [300], "names": [f"motor{place}" for place in range(300)]},
        "pose": {"dtype": "float64", "shape": [2, 3], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
    }
    made = {name: np.zeros(entry["shape"], entry["dtype"]) for name, entry in features.items()}
    root = tmp_path / "dataset"
    with DatasetWriter.create(root, fps=10, features=features) as writer, writer.episode(0) as episode:
        for frame in range(4):
            made["observation.state"][:] = frame + np.arange(600)
            episode.add_frame({name: value.copy() for name, value in made.items()} | {"task": "push"})
    groups = {group.title: group for group in plot_groups(load_episode(root, 0))}
    assert list(groups) == ["observation.state", "action", "Signals", "pose"]
    state, action = groups["observation.state"], groups["action"]
    assert [line.name for line in state.plots[0].lines] == ["mean", "least", "greatest"]
    assert numbers(state.plots[0].lines[2].model_dump()).tolist() == [599, 600, 601, 602]
    assert len(action.plots) == 38
    assert [line.name for line in action.plots[-1].lines] == ["motor296", "motor297", "motor298", "motor299"]
    assert [plot.title for plot in groups["pose"].plots] == ["0,0", "0,1", "0,2", "1,0", "1,1", "1,2"]
    assert groups["Signals"].plots[0].lines[0].steps


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y"], ["x", "y"]),
        ({"motors": ["x", "y"]}, ["x", "y"]),
        ({"x": 0, "y": 1}, ["x", "y"]),
        (["x", "x"], ["x (0)", "x (1)"]),
        (["x"], ["0", "1"]),
        (None, ["0", "1"]),
    ],
)
def test_dimensions_are_named_whichever_way_the_names_are_stored(names: object, expected: list[str]) -> None:
    assert dimension_names(Feature(dtype="float32", shape=(2,), names=names)) == expected


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"episode": 12}, DatasetError, "0 to 11"),
        ({"cameras": ["observation.images.frnt"]}, DatasetError, "did you mean 'observation.images.front'"),
        ({"max_mb": 0.05}, ArtifactError, "observation.images.front 0.1 MiB"),
        ({"max_mb": 0.02, "cameras": []}, ArtifactError, "at most 0.02 MiB"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path: Path, fields: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        show(TWO_TASKS, tmp_path, **fields)
    assert not list(tmp_path.iterdir())


def test_a_page_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(ArtifactError, match="--overwrite"):
        show(TWO_TASKS, tmp_path)
    assert (tmp_path / "page.html").read_text() == "mine"
    page, _ = show(TWO_TASKS, tmp_path, overwrite=True, cameras=[])
    assert not page.all("video")


def test_a_broken_dataset_is_reported_as_it_is(tmp_path: Path) -> None:
    root = shutil.copytree(TWO_TASKS, tmp_path / "dataset")
    (root / "videos" / FRONT / "chunk-000/file-000.mp4").unlink()
    with pytest.raises(DatasetError, match="a video of the dataset is missing"):
        show(root, tmp_path)
    (root / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"file-000\.parquet"):
        show(root, tmp_path)
    with pytest.raises(DatasetError, match="the dataset has no episodes table"):
        show(LEROBOT / "crashed", tmp_path)
    assert not (tmp_path / "page.html").exists()


def test_without_rerun_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'lerobot-ops\[viz\]'"):
        viz(VizConfig(root=TWO_TASKS, mode="rerun", output=tmp_path / "episode.rrd"))
    assert not list(tmp_path.iterdir())


def test_an_episode_is_saved_for_rerun(tmp_path: Path) -> None:
    chunk = pytest.importorskip("rerun.chunk", reason="needs Rerun: pip install 'lerobot-ops[viz]'")
    result = viz(VizConfig(root=BUTTON, mode="rerun", output=tmp_path / "episode.rrd"))
    found = {}
    for part in chunk.RrdReader(result.path).stream():
        batch = part.to_record_batch()
        found.setdefault(part.entity_path, []).append(batch)
    action = next(batch for batch in found["/action"] if batch.num_rows == 68)
    values = np.stack(action.column("Scalars:scalars").to_pylist())
    assert (values == np.stack(load_data(BUTTON, ["action"]).column("action").to_pylist())).all()
    assert sum(batch.num_rows for batch in found["/observation.image"]) == 68
    assert {"/state", "/next.reward", "/next.success"} <= found.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["episode.rrd"]


def test_a_browser_shows_the_moment_that_is_asked_for(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs a browser: apt-get install chromium")
    _, result = show(TWO_TASKS, tmp_path, episode=1)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --virtual-time-budget=8000 --user-data-dir={tmp_path}/profile"
    command = ["timeout", "60", browser, *flags.split(), "--dump-dom", f"{result.path.as_uri()}#t=1.5"]
    page = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True).stdout
    assert re.search(r'<html[^>]* data-frame="45"', page)
    video = re.search(r"<video[^>]*>", page)[0]
    assert 'data-size="256x256"' in video
    assert 'data-error=""' in video
    assert float(re.search(r'data-time="([^"]+)"', video)[1]) == pytest.approx(45.5 / 30, abs=1e-3)
    assert float(re.search(r'data-duration="([^"]+)"', video)[1]) == pytest.approx(80 / 30, abs=1e-3)
