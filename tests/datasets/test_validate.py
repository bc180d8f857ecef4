"""Validation: what its reports say, and sound recordings pass; `test_corpus` has what it finds."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from corpus import BREAKAGES
from mutations import DATA, FRONT, NAN, WRIST, break_packets, cells, folder, image, info, pictures
from pydantic import ValidationError
from recordings import LEROBOT, SIZE, around_lerobot_av1, lay_around, picture, record

from lerobot_ops.cli import main
from lerobot_ops.datasets.info import DatasetInfo, load_info, with_defaults
from lerobot_ops.datasets.schemas import Failure, failures, tasks_schema
from lerobot_ops.datasets.validation.command import CheckConfig, check
from lerobot_ops.datasets.validation.pictures import is_frozen
from lerobot_ops.datasets.validation.validate import ValidateConfig, validate
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video_writer import encode
from lerobot_ops.errors import DatasetError

scratch = folder("tmpab12")


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
        BREAKAGES[what].mutate(broken)
    checks = [found.check for found in validate(broken).findings]
    assert {"not-finite", "totals", "video-frames", "leftover-files", "stats-missing"} <= set(checks)
    severities = [found.severity for found in validate(broken).findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)


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
        break_packets(broken)
        image(0, b"nothing")(broken)
        found = {each.check for each in validate(broken, config=ValidateConfig(decode="none")).findings}
        assert not found & {"video-decode", "image-decode", "frozen-camera"}

    def test_of_every_frame_finds_one_black_picture(self, broken):
        pictures(lambda episode, frame: picture(episode, frame) * ((episode, frame) != (1, 5)))(broken)
        assert validate(broken).findings == []
        (found,) = validate(broken, config=ValidateConfig(decode="all")).findings
        assert (found.check, found.episodes) == ("blank-frames", [1])
        assert "frame 5 of episode 1" in found.message

    def test_of_every_frame_finds_a_camera_that_froze_for_a_second(self, tmp_path):
        cameras = {FRONT: "video", WRIST: "image"}
        root = record(tmp_path / "long", ["push"], frames=40, cameras=cameras)
        frames = [picture(0, frame if frame < 12 else max(12, frame - 14)) for frame in range(40)]
        encode(root / f"videos/{FRONT}/chunk-000/file-000.mp4", np.stack(frames), 10, VideoEncoding(vcodec="h264"))
        found = validate(root, config=ValidateConfig(decode="all")).findings
        assert [(each.check, each.episodes) for each in found] == [("frozen-camera", [0])]
        assert "episode 0 frames 12 to 26" in found[0].message

    def test_of_every_frame_finds_what_does_not_decode(self, broken):
        break_packets(broken)
        report = validate(broken, config=ValidateConfig(decode="all"))
        assert [found.episodes for found in report.findings if found.check == "video-decode"] == [[2, 3]]

    def test_where_it_was_asked_for(self, broken, tmp_path):
        scratch(broken)
        config = CheckConfig(root=broken, json_path=tmp_path / "found.json", markdown_path=tmp_path / "found.md")
        report = check(config)
        assert json.loads((tmp_path / "found.json").read_text()) == report.model_dump(mode="json")
        assert (tmp_path / "found.md").read_text() == report.markdown()

    def test_on_the_command_line(self, broken, capsys):
        scratch(broken)
        main(["validate", str(broken)])
        assert "| warning | `leftover-files` |" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="1"):
            main(["validate", str(broken), "--fail-on=warning", "--json"])
        assert json.loads(capsys.readouterr().out)["findings"][0]["check"] == "leftover-files"

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
