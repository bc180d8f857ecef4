"""Validation: sound recordings pass, every check has a recording that fails it, and no damage ends in a traceback."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from recordings import (
    LEROBOT,
    SIZE,
    around_lerobot_av1,
    change_info,
    change_table,
    lay_around,
    picture,
    record,
    set_cells,
)

from lerobot_ops.datasets.checks_pictures import is_frozen
from lerobot_ops.datasets.encoding import VideoEncoding, encode
from lerobot_ops.datasets.info import DatasetInfo, load_info, with_defaults
from lerobot_ops.datasets.schemas import Failure, failures, tasks_schema
from lerobot_ops.datasets.validate import ValidateConfig, validate
from lerobot_ops.errors import DatasetError

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"
TASKS, STATS = "meta/tasks.parquet", "meta/stats.json"
NAN = float("nan")


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """Four episodes (12 to 15 frames) with a video and an image camera."""
    cameras = {FRONT: "video", WRIST: "image"}
    return record(tmp_path_factory.mktemp("sound") / "sound", ["push", "pull", "push", "pull"], cameras=cameras)


@pytest.fixture
def broken(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "broken")


def test_what_we_record_has_no_findings(sound):
    report = validate(sound)
    assert (report.ok, report.episodes, report.frames, report.findings) == (True, 4, 54, [])


def test_what_lerobot_recorded_has_no_findings(tmp_path):
    assert validate(LEROBOT / "two_task_h264").findings == []
    assert validate(around_lerobot_av1(tmp_path / "av1")).findings == []


def test_a_crashed_lerobot_recording_is_told_as_such():
    report = validate(LEROBOT / "crashed")
    assert [(found.severity, found.check, found.place) for found in report.findings] == [
        ("error", "missing-file", "meta/episodes/*/*.parquet"),
        ("error", "unreadable-file", DATA),
        ("warning", "leftover-files", "images/"),
    ]
    assert "no parquet footer" in report.findings[1].message
    assert not report.ok


def change_stats(feature: str, **statistics: object):
    def change(root: Path) -> None:
        stats = json.loads((root / STATS).read_text())
        for name, value in statistics.items():
            if value is None:
                del stats[feature][name]
            else:
                stats[feature][name] = value
        (root / STATS).write_text(json.dumps(stats))

    return change


def cells(file: str, name: str, values: dict[int, object]):
    return lambda root: change_table(root / file, set_cells(name, values))


def rows(file: str, order: list[int]):
    return lambda root: change_table(root / file, lambda table: table.take(order))


def drop(file: str, *names: str):
    return lambda root: change_table(root / file, lambda table: table.drop(list(names)))


def cast(file: str, name: str, kind: pa.DataType):
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, table.column(name).cast(kind))

    return lambda root: change_table(root / file, change)


def null_vector(root: Path) -> None:
    cast(DATA, "action", pa.list_(pa.float32()))(root)
    cells(DATA, "action", {13: None})(root)


def add_column(root: Path) -> None:
    change_table(root / DATA, lambda table: table.append_column("surprise", pa.array(range(table.num_rows))))


def info(**fields: object):
    return lambda root: change_info(root, **fields)


def change_feature(name: str, **fields: object):
    def change(root: Path) -> None:
        features = json.loads((root / "meta/info.json").read_text())["features"]
        features[name] |= fields
        change_info(root, features=features)

    return change


def write(file: str, content: bytes):
    return lambda root: (root / file).write_bytes(content)


def remove(file: str):
    return lambda root: (root / file).unlink()


def truncate(file: str, share: float):
    return lambda root: os.truncate(root / file, int((root / file).stat().st_size * share))


def new_video(count: int, size: int = 1, fps: int = 10):
    def change(root: Path) -> None:
        frames = np.stack([picture(0, number)[::size, ::size] for number in range(count)])
        encode(root / VIDEO, frames, fps, VideoEncoding(vcodec="h264"))

    return change


def frozen_video(root: Path) -> None:
    """Episode 2 shows one picture, with the noise of its encoding."""
    frames = [picture(episode, 0 if episode == 2 else frame) for episode in range(4) for frame in range(12 + episode)]
    encode(root / VIDEO, np.stack(frames), 10, VideoEncoding(vcodec="h264", crf=30))


def break_pictures(root: Path) -> None:
    """Overwrite the packets of the video's second half; the list of packets stays whole."""
    content = bytearray((root / VIDEO).read_bytes())
    begin = content.index(b"mdat") + 4
    middle = begin + (len(content) - begin) // 2
    content[middle:] = np.random.default_rng(0).bytes(len(content) - middle)
    (root / VIDEO).write_bytes(content)


def break_image(root: Path) -> None:
    cell = {"bytes": b"\x89PNG\r\n\x1a\nnonsense", "path": "frame-000000.png"}
    change_table(root / DATA, set_cells(WRIST, {0: cell}))


def unknown_task(root: Path) -> None:
    cells(DATA, "task_index", {30: 5})(root)


def twin(root: Path) -> None:
    """Episode 1 is a copy of episode 0 in all but its last frame."""
    for name in ("observation.state", "action", "next.reward", "next.success"):
        values = pq.read_table(root / DATA).column(name).to_pylist()
        change_table(root / DATA, set_cells(name, {12 + frame: values[frame] for frame in range(12)}))
    rows(DATA, [n for n in range(54) if n != 24])(root)


def scratch(root: Path) -> None:
    (root / "tmpab12").mkdir()


def no_text(root: Path) -> None:
    cells(TASKS, "task", {1: "  "})(root)
    cells(EPISODES, "tasks", {1: ["  "], 3: ["  "]})(root)


def one_frame(root: Path) -> None:
    shutil.rmtree(root)
    record(root, ["push"] * 3, frames=1, cameras={})  # episodes of 1, 2 and 3 frames


BREAKAGES = {
    # what happened: (how, check, severity, a part of the message, episodes)
    "info of an older version": (info(codebase_version="v2.1"), "info", "error", "v2.1", []),
    "info without fps": (info(fps=0), "info", "error", "fps", []),
    "info is no JSON": (write("meta/info.json", b"{"), "info", "error", "cannot be read", []),
    "info is gone": (remove("meta/info.json"), "info", "error", "no such file", []),
    "unknown key in info": (info(total_videos=3), "info", "info", "total_videos", []),
    "default feature of another type": (change_feature("index", dtype="int32"), "info", "error", "int32[1]", []),
    "data file is gone": (remove(DATA), "missing-file", "error", "no data files", []),
    "video is gone": (remove(VIDEO), "missing-file", "error", VIDEO, [0, 1, 2, 3]),
    "tasks are gone": (remove(TASKS), "missing-file", "error", "task table", []),
    "pointer to no data file": (
        cells(EPISODES, "data/file_index", {2: 7}),
        "missing-file",
        "error",
        "data/chunk-000/file-007.parquet does not exist",
        [2],
    ),
    "data file cut short": (truncate(DATA, 0.6), "unreadable-file", "error", "no parquet footer", []),
    "episodes file cut short": (truncate(EPISODES, 0.6), "unreadable-file", "error", EPISODES, []),
    "empty tasks file": (truncate(TASKS, 0), "unreadable-file", "error", TASKS, []),
    "statistics cut short": (truncate(STATS, 0.5), "unreadable-file", "error", STATS, []),
    "statistics are a list": (write(STATS, b"[1]"), "unreadable-file", "error", STATS, []),
    "scratch folder": (scratch, "leftover-files", "warning", "tmpab12/", []),
    "video that nothing points at": (
        lambda root: shutil.copy(root / VIDEO, root / VIDEO.replace("file-000", "file-001")),
        "leftover-files",
        "warning",
        "file-001.mp4",
        [],
    ),
    "missing column": (drop(DATA, "action"), "data-schema", "error", "lacks 1 declared column: action", []),
    "missing image column": (drop(DATA, WRIST), "data-schema", "error", WRIST, []),
    "undeclared column": (add_column, "data-schema", "error", "surprise", []),
    "wrong type": (cast(DATA, "next.reward", pa.float64()), "data-schema", "error", "double, but is declared", []),
    "wrong width": (change_feature("action", shape=[3]), "data-schema", "error", "float32[3]", []),
    "list of any length": (cast(DATA, "action", pa.list_(pa.float32())), "data-schema", "info", "list<", []),
    "no value": (cells(DATA, "next.success", {13: None}), "data-schema", "error", "no value in 1 frame", [1]),
    "no vector": (null_vector, "data-schema", "error", "no value in 1 row", [1]),
    "negative counter": (cells(DATA, "task_index", {53: -1}), "data-schema", "error", "task_index is -1", [3]),
    "episodes lack a column": (drop(EPISODES, "length"), "episodes-schema", "error", "no column 'length'", []),
    "episodes lack a video": (drop(EPISODES, f"videos/{FRONT}/file_index"), "episodes-schema", "error", "file", []),
    "episodes lack tasks": (drop(EPISODES, "tasks"), "episodes-schema", "error", "no column 'tasks'", []),
    "episodes out of order": (rows(EPISODES, [0, 2, 1, 3]), "episodes-schema", "error", "row 1 is episode 2", [1, 2]),
    "episode of no frames": (cells(EPISODES, "length", {1: 0}), "episodes-schema", "error", "length is 0", [1]),
    "pointer of another type": (cast(EPISODES, "data/file_index", pa.int8()), "episodes-schema", "error", "int8", []),
    "tasks out of order": (cells(TASKS, "task_index", {0: 1, 1: 0}), "tasks-schema", "error", "task_index", []),
    "task twice": (cells(TASKS, "task", {1: "push"}), "tasks-schema", "error", "one row only", []),
    "NaN": (cells(DATA, "action", {30: [0.0, NAN]}), "not-finite", "error", "action[1] is nan in 1 frame", [2]),
    "infinity": (cells(DATA, "next.reward", {30: float("inf")}), "not-finite", "error", "next.reward is inf", [2]),
    "wrong frame counter": (info(total_frames=60), "totals", "error", "says 60, but there are 54", []),
    "wrong episode counter": (info(total_episodes=5), "totals", "error", "says 5, but there are 4", []),
    "wrong task counter": (info(total_tasks=1), "totals", "error", "says 1, but there are 2", []),
    "split beyond the end": (info(splits={"train": "0:9"}), "totals", "warning", "'0:9'", []),
    "index jumps": (cells(DATA, "index", {20: 99}), "index-order", "error", "is 99 where 20", []),
    "frame lost": (rows(DATA, [n for n in range(54) if n != 20]), "frame-order", "error", "frames are missing", [1]),
    "episode number jumps": (
        cells(DATA, "episode_index", dict.fromkeys(range(39, 54), 7)),
        "frame-order",
        "error",
        "episode 7 begins where episode 3",
        [7],
    ),
    "clock of another rate": (info(fps=20), "timestamps", "error", "at 20 fps", [0, 1, 2, 3]),
    "timestamp off": (cells(DATA, "timestamp", {20: 5.0}), "timestamps", "error", "5.000000 s", [1]),
    "length disagrees": (cells(EPISODES, "length", {1: 12}), "episode-bounds", "error", "length 12, but", [1]),
    "episode not listed": (rows(EPISODES, [0, 1, 2]), "episode-bounds", "error", "does not list: 3", [3]),
    "data in another file": (
        lambda root: [
            pq.write_table(pq.read_table(root / DATA).slice(39), root / DATA.replace("000.p", "001.p")),
            rows(DATA, list(range(39)))(root),
        ],
        "data-pointers",
        "error",
        "episode 3 is in data/chunk-000/file-001.parquet",
        [3],
    ),
    "unknown task": (unknown_task, "task-index", "error", "task_index is 5", [2]),
    "other task text": (cells(EPISODES, "tasks", {2: ["pull"]}), "episode-tasks", "error", "['pull']", [2]),
    "video is no video": (write(VIDEO, b"nothing"), "video-unreadable", "error", VIDEO, [0, 1, 2, 3]),
    "video cut short": (truncate(VIDEO, 0.02), "video-unreadable", "error", VIDEO, [0, 1, 2, 3]),
    "video of another size": (new_video(54, size=2), "video-format", "error", "32x24 (declared 64x48)", [0, 1, 2, 3]),
    "video of another rate": (new_video(54, fps=20), "video-format", "error", "20 fps", [0, 1, 2, 3]),
    "video too short": (new_video(30), "video-frames", "error", "30 frames", [2, 3]),
    "frames of two episodes": (
        cells(EPISODES, f"videos/{FRONT}/from_timestamp", {1: 1.1}),
        "video-frames",
        "error",
        "claim the same frames",
        [0, 1],
    ),
    "frames of no episode": (new_video(60), "video-frames", "info", "6 frames", []),
    "begins between frames": (
        cells(EPISODES, f"videos/{FRONT}/from_timestamp", {1: 1.23}),
        "video-timestamps",
        "error",
        "0.030000 s away",
        [1],
    ),
    "ends elsewhere": (
        cells(EPISODES, f"videos/{FRONT}/to_timestamp", {1: 9.0}),
        "video-timestamps",
        "warning",
        "episode 1 spans",
        [1],
    ),
    "broken packets": (break_pictures, "video-decode", "error", "does not decode", [2, 3]),
    "frozen camera": (frozen_video, "frozen-camera", "warning", FRONT, [2]),
    "broken image": (break_image, "image-decode", "error", "does not decode", [0]),
    "image of another size": (change_feature(WRIST, shape=[24, 32, 3]), "image-decode", "error", "64x48", [0, 1, 2, 3]),
    "no statistics": (remove(STATS), "stats-missing", "error", "no statistics", []),
    "statistic missing": (change_stats("action", std=None), "stats-missing", "error", "'action' has no std", []),
    "quantile missing": (change_stats("action", q50=None), "stats-missing", "warning", "has no q50", []),
    "statistic of another shape": (change_stats("action", mean=[0.0]), "stats-missing", "error", "expected [2]", []),
    "statistic is text": (change_stats("action", mean=["a", "b"]), "stats-implausible", "error", "not made of", []),
    "statistics out of order": (change_stats("action", min=[9.0, 9.0]), "stats-implausible", "error", "outside", []),
    "camera not scaled": (
        change_stats(FRONT, max=[[[255.0]]] * 3),
        "stats-implausible",
        "error",
        "in [0, 1]",
        [],
    ),
    "statistics of other data": (change_stats("action", mean=[0.5, 0.5]), "stats-stale", "warning", "of 'action'", []),
    "statistics of old indices": (change_stats("index", mean=[40.0]), "stats-stale", "info", "of 'index'", []),
    "episode without statistics": (drop(EPISODES, "stats/action/mean"), "episode-stats", "warning", "action", []),
    "episode with others' statistics": (
        cells(EPISODES, "stats/action/mean", {2: [3.0, 3.0]}),
        "episode-stats",
        "warning",
        "mean of 'action'",
        [2],
    ),
    "dead motor": (
        lambda root: cells(DATA, "action", {n: [0.5, n / 54] for n in range(54)})(root),
        "constant-dimension",
        "warning",
        "1 dimension of 'action' (of 2) never changes: dx",
        [],
    ),
    "never successful": (cells(DATA, "next.success", {24: False}), "episode-without-success", "warning", "never", [1]),
    "no task text": (no_text, "missing-task-text", "warning", "1 task without text", [1, 3]),
    "one frame": (one_frame, "episode-length", "warning", "episode 0 has 1 frame", [0]),
    "copied episode": (twin, "duplicate-episodes", "warning", "0 = 1", [1]),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKAGES)
def test_finds(what, broken):
    do, check, severity, text, episodes = BREAKAGES[what]
    do(broken)
    report = validate(broken)
    matching = [found for found in report.findings if (found.check, found.severity) == (check, severity)]
    assert any(text in found.message and found.episodes == episodes for found in matching), report.markdown()
    assert report.ok == (not any(found.severity == "error" for found in report.findings))
    for found in report.findings:
        assert found.place, found
        assert found.fix, found
        assert str(broken) not in found.model_dump_json(), "a report does not depend on where the dataset is"


def test_an_episode_between_keyframes_is_a_warning(tmp_path):
    state = {"dtype": "float32", "shape": [3]}
    features = with_defaults({"observation.state": state, FRONT: {"dtype": "video", "shape": list(SIZE)}})
    about = DatasetInfo(fps=10, features=features)
    path = tmp_path / "long" / about.video_file(FRONT, 0, 0)
    path.parent.mkdir(parents=True)
    encode(path, np.stack([picture(0, n) for n in range(30)]), 10, VideoEncoding(vcodec="h264", g=30))
    report = validate(lay_around(tmp_path / "long", about, FRONT, [13, 8, 9]))
    assert [(found.check, found.severity, found.episodes) for found in report.findings] == [
        ("video-keyframes", "warning", [1, 2])
    ]


def test_reports_all_problems_at_once(broken):
    for what in ("NaN", "wrong task counter", "video too short", "scratch folder", "no statistics"):
        BREAKAGES[what][0](broken)
    checks = [found.check for found in validate(broken).findings]
    assert {"not-finite", "totals", "video-frames", "leftover-files", "stats-missing"} <= set(checks)
    severities = [found.severity for found in validate(broken).findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)


@pytest.mark.parametrize("file", [DATA, EPISODES, TASKS, STATS, VIDEO, "meta/info.json"])
def test_no_damage_ends_in_a_traceback(sound, file, tmp_path):
    rng = np.random.default_rng(0)
    original = (sound / file).read_bytes()
    root = shutil.copytree(sound, tmp_path / "damaged")
    for _ in range(12):
        content = bytearray(original)
        if rng.random() < 0.4:
            content = content[: rng.integers(len(content))]
        else:
            for place in rng.integers(len(content), size=rng.integers(1, 20)):
                content[place] = rng.integers(256)
        (root / file).write_bytes(content)
        validate(root)


class TestReport:
    def test_as_markdown(self, broken):
        cells(DATA, "action", {30: [0.0, NAN]})(broken)
        info(splits={"tr|ain": "x"})(broken)
        text = validate(broken).markdown()
        assert text.startswith("**The dataset fails**: 4 episodes, 54 frames; 1 error, 1 warning.")
        assert "| error | `not-finite` | action[1] is nan in 1 frame of data/chunk-000/file-000.parquet |" in text
        assert "tr\\|ain" in text
        assert (
            "**The dataset passes**: 4 episodes" in validate(broken, config=ValidateConfig(fail_on="never")).markdown()
        )

    def test_as_json_and_back(self, broken):
        cells(DATA, "action", {30: [0.0, NAN]})(broken)
        report = validate(broken)
        assert type(report).model_validate_json(report.model_dump_json()) == report

    def test_raises_what_the_configuration_says(self, broken):
        scratch(broken)
        validate(broken).raise_if()
        strict = validate(broken, config=ValidateConfig(fail_on="warning"))
        assert not strict.ok
        with pytest.raises(DatasetError, match=r"1 finding(.|\n)*leftover-files(.|\n)*tmpab12"):
            strict.raise_if()
        strict.raise_if("error")

    def test_skips_checks_and_knows_their_names(self, broken):
        scratch(broken)
        assert validate(broken, config=ValidateConfig(skip=["leftover-files"])).findings == []
        with pytest.raises(ValidationError, match="did you mean 'leftover-files'"):
            ValidateConfig(skip=["leftover-file"])

    def test_caps_the_findings_of_one_check(self, tmp_path):
        root = record(tmp_path / "wide", ["push"] * 3, cameras={})
        values = pq.read_table(root / DATA).column("observation.state").to_pylist()
        cells(DATA, "observation.state", {n: [NAN] * 3 for n in range(len(values))})(root)
        report = validate(root, config=ValidateConfig(max_per_check=2, skip=["constant-dimension"]))
        found = [each.message for each in report.findings if each.check == "not-finite"]
        assert len(found) == 3
        assert "1 more finding" in found[2]

    def test_without_decoding_does_not_look_at_pictures(self, broken):
        break_pictures(broken)
        break_image(broken)
        found = {each.check for each in validate(broken, config=ValidateConfig(decode="none")).findings}
        assert not found & {"video-decode", "image-decode", "frozen-camera"}

    def test_of_no_directory(self, tmp_path):
        with pytest.raises(DatasetError, match="no dataset here"):
            validate(tmp_path / "nowhere")

    def test_of_an_empty_directory(self, tmp_path):
        assert {found.check for found in validate(tmp_path).findings} == {"info", "missing-file"}


def test_schemas_look_at_values_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("PANDERA_VALIDATION_ENABLED", "False")
    monkeypatch.setenv("PANDERA_VALIDATION_DEPTH", "SCHEMA_ONLY")
    frame = pd.DataFrame({"task_index": [0, 7], "task": ["push", "pull"]})
    assert list(failures(tasks_schema(), frame)) == [Failure("task_index", "counts_from_0", [1], [7])]


def test_a_moving_square_is_not_a_frozen_camera():
    still = np.stack([picture(0, 0)] * 3)
    noise = np.random.default_rng(0).integers(-3, 4, still.shape)
    assert is_frozen((still.astype(int) + noise).clip(0, 255).astype(np.uint8))
    assert not is_frozen(np.stack([picture(0, frame) for frame in (0, 2, 4)]))


def test_a_report_counts_what_is_there(sound):
    about = load_info(sound)
    assert (about.total_episodes, about.total_frames) == (validate(sound).episodes, validate(sound).frames)
