"""Images become videos and videos are encoded anew: every frame is there, in its place, and looks as before."""

import json
import shutil

import numpy as np
import pytest
from edited import same_statistics_as_recomputed, sound
from recordings import (
    ACTION,
    LEROBOT,
    STATE,
    around_lerobot_av1,
    camera,
    change_info,
    columns_of,
    frames_of,
    picture,
    record,
)

from lerobot_ops.datasets.editing.edit import EditPlan, merge
from lerobot_ops.datasets.editing.encode import encode_clip
from lerobot_ops.datasets.editing.source import Kept, open_source
from lerobot_ops.datasets.editing.video import convert_images_to_video, encodings_to_merge, reencode_videos
from lerobot_ops.datasets.histograms import load_histograms
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.statistics import camera_stats
from lerobot_ops.datasets.tables import episode_stats, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.videos.encoding import DepthEncoding, VideoEncoding
from lerobot_ops.datasets.videos.video import decode_frames
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError, PrerequisiteError
from lerobot_ops.versioning.digest import digest

FRONT, WRIST, DEPTH = "observation.images.front", "observation.images.wrist", "observation.images.depth"
FAST = VideoEncoding(vcodec="h264", crf=18)
IMAGES, H264 = LEROBOT / "images_cut", LEROBOT / "two_task_h264"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four episodes of two tasks with one camera as images and one as video."""
    cameras = {FRONT: "image", WRIST: "video"}
    return record(tmp_path_factory.mktemp("images") / "images", ["push", "pull"] * 2, frames=5, cameras=cameras)


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    return record(tmp_path_factory.mktemp("arm") / "arm", ["push", "pull"], frames=6)


@pytest.fixture(scope="module", params=["uint16", "float32"])
def depth(request, tmp_path_factory):
    """Two episodes with a depth camera as images: whole millimetres, or metres."""
    root = tmp_path_factory.mktemp("depth") / request.param
    entry = {**camera("image"), "shape": [48, 64, 1], "info": {"is_depth_map": True}}
    features = {"observation.state": STATE, "action": ACTION, DEPTH: entry}
    with DatasetWriter.create(root, fps=10, features=features) as writer:
        for episode in range(2):
            for number in range(4):
                values = {"observation.state": np.ones(3, "f4"), "action": np.ones(2, "f4"), "task": "push"}
                writer.add_frame(values | {DEPTH: distances(episode, number, request.param)})
            writer.save_episode()
    return root


def distances(episode: int, number: int, dtype: str) -> np.ndarray:
    millimetres = np.linspace(300, 4000, 48 * 64).reshape(48, 64).round() + 100 * episode + 10 * number
    return millimetres.astype(np.uint16) if dtype == "uint16" else (millimetres / 1000).astype(np.float32)


def close(found: np.ndarray, expected: np.ndarray, decibels: float = 30) -> None:
    """Two pictures look alike, by their peak signal-to-noise ratio."""
    error = np.mean((found.astype(float) - expected.astype(float)) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > decibels


class TestConvert:
    def test_images_become_a_video_of_the_same_pictures(self, images, tmp_path):
        result = convert_images_to_video(images, tmp_path / "new", rgb_encoder=FAST)
        info = load_info(result.path)
        assert info.video_keys == [FRONT, WRIST]
        assert info.features[FRONT].shape == load_info(images).features[FRONT].shape
        assert info.features[FRONT].info["video.codec"] == "h264"
        assert info.features[FRONT].info["video.crf"] == 18
        for episode in range(4):
            found = frames_of(result.path, episode, FRONT)
            assert len(found) == 5 + episode
            for number, frame in enumerate(found):
                close(frame, picture(episode, number), 25)
            np.testing.assert_array_equal(frames_of(result.path, episode, WRIST), frames_of(images, episode, WRIST))
        names = list(info.columns)
        assert columns_of(result.path, names) == columns_of(images, names)
        assert load_tasks(result.path) == ["push", "pull"]
        same_statistics_as_recomputed(result.path)
        sound(result.path)

    def test_statistics_are_those_of_the_images(self, images, tmp_path):
        result = convert_images_to_video(images, tmp_path / "new", rgb_encoder=VideoEncoding(vcodec="h264", crf=40))
        expected = camera_stats([picture(e, number) for e in range(4) for number in range(5 + e)])
        for name, value in load_stats(result.path)[FRONT].items():
            np.testing.assert_allclose(value, expected[name], atol=1e-12, err_msg=name)
        assert load_histograms(result.path)[2][FRONT].frames == 7

    def test_of_some_episodes_numbers_them_anew(self, images, tmp_path):
        result = convert_images_to_video(images, tmp_path / "new", names=[FRONT], rgb_encoder=FAST, episodes=[3, 1])
        assert (result.episodes, result.frames, result.tasks) == (2, 14, ["pull"])
        numbers = columns_of(result.path, ["episode_index", "index", "task_index"])
        assert numbers == {"episode_index": [0] * 6 + [1] * 8, "index": list(range(14)), "task_index": [0] * 14}
        close(frames_of(result.path, 1, FRONT)[7], picture(3, 7), 25)
        sound(result.path)

    def test_of_lerobots_images_in_its_default_codec(self, tmp_path):
        result = convert_images_to_video(IMAGES, tmp_path / "new")
        info = load_info(result.path).features[FRONT].info
        wanted = {"video.codec": "av1", "video.pix_fmt": "yuv420p", "video.g": 2, "video.crf": 30, "video.preset": 12}
        assert wanted.items() <= info.items()
        before, after = LeRobotDataset(IMAGES), LeRobotDataset(result.path)
        for row in (0, 7, len(after) - 1):
            close(after[row][FRONT].numpy() * 255, before[row][FRONT].numpy() * 255, 28)
        sound(result.path)

    def test_depth_becomes_levels_of_its_range(self, depth, tmp_path):
        narrow = DepthEncoding(depth_min=0.2, depth_max=5.0)
        result = convert_images_to_video(depth, tmp_path / "new", depth_encoder=narrow)
        info = load_info(result.path).features[DEPTH].info
        unit = "mm" if depth.name == "uint16" else "m"
        wanted = {"is_depth_map": True, "depth_unit": unit, "video.depth_max": 5.0, "video.pix_fmt": "gray12le"}
        assert wanted.items() <= info.items()
        item = LeRobotDataset(result.path)[6]
        np.testing.assert_allclose(item[DEPTH][0], distances(1, 2, "uint16"), atol=1.6)  # in millimetres, as LeRobot
        scale = 1 if unit == "mm" else 1000
        row = episode_stats(load_episodes(result.path).to_pylist()[0])[DEPTH]
        assert row["min"] * scale == pytest.approx(300, abs=2)
        assert load_stats(result.path)[DEPTH]["max"] * scale == pytest.approx(4130, abs=2)
        sound(result.path)

    def test_gives_the_same_bytes_with_any_number_of_workers(self, images, tmp_path):
        for name, workers in (("one", 1), ("three", 3)):
            convert_images_to_video(images, tmp_path / name, rgb_encoder=FAST, num_workers=workers)
        assert digest(tmp_path / "one") == digest(tmp_path / "three")

    def test_a_dry_run_says_what_would_be_encoded(self, images, tmp_path):
        plan = convert_images_to_video(images, tmp_path / "new", rgb_encoder=FAST, dry_run=True)
        assert isinstance(plan, EditPlan)
        assert {file.path: file.how for file in plan.files}[f"videos/{FRONT}/chunk-000/file-000.mp4"] == "encoded"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("fields", "error", "says"),
        [
            ({"names": ["observation.images.frnt"]}, DatasetError, f"did you mean '{FRONT}'"),
            ({"names": [WRIST]}, DatasetError, "no such camera of images"),
            ({"episodes": [4]}, DatasetError, "0 to 3"),
            ({"episodes": []}, DatasetError, "no episode is named"),
            ({"rgb_encoder": VideoEncoding(pix_fmt="nonsense")}, PrerequisiteError, "does not start"),
        ],
    )
    def test_refuses_before_it_writes(self, images, tmp_path, fields, error, says):
        with pytest.raises(error, match=says):
            convert_images_to_video(images, tmp_path / "new", **fields)
        with pytest.raises(error, match=says):
            convert_images_to_video(images, tmp_path / "new", **fields, dry_run=True)
        assert not list(tmp_path.iterdir())


class TestReencode:
    def test_gives_every_video_the_new_settings(self, arm, tmp_path):
        result = reencode_videos(arm, tmp_path / "new", rgb_encoder=VideoEncoding(crf=20))
        info = load_info(result.path).features[FRONT].info
        assert {"video.codec": "av1", "video.crf": 20, "video.preset": 12}.items() <= info.items()
        for episode in range(2):
            for found, expected in zip(
                frames_of(result.path, episode, FRONT), frames_of(arm, episode, FRONT), strict=True
            ):
                close(found, expected)
        names = list(load_info(arm).columns)
        assert columns_of(result.path, names) == columns_of(arm, names)
        same_statistics_as_recomputed(result.path)
        sound(result.path)

    def test_of_a_lerobot_video_keeps_each_frame_in_its_place(self, tmp_path):
        root = around_lerobot_av1(tmp_path / "old")
        result = reencode_videos(root, tmp_path / "new", rgb_encoder=FAST)
        for episode in (0, 3):
            found, expected = frames_of(result.path, episode, FRONT), frames_of(root, episode, FRONT)
            for number in range(0, 40, 13):
                close(found[number], expected[number])
        sound(result.path)

    def test_leaves_what_has_these_settings_already(self, arm, tmp_path):
        first = reencode_videos(arm, tmp_path / "first", rgb_encoder=FAST).path
        plan = reencode_videos(first, tmp_path / "second", rgb_encoder=FAST, dry_run=True)
        assert {file.how for file in plan.files} == {"whole"}
        again = reencode_videos(first, tmp_path / "second", rgb_encoder=FAST).path
        assert digest(again) == digest(first)
        left = reencode_videos(first, tmp_path / "third", rgb_encoder=None).path
        assert digest(left) == digest(first)

    def test_keeps_the_levels_of_depth_and_what_they_mean(self, depth, tmp_path):
        narrow = DepthEncoding(depth_min=0.2, depth_max=5.0)
        video = convert_images_to_video(depth, tmp_path / "video", depth_encoder=narrow).path
        other = DepthEncoding(g=1, depth_max=9.0)
        result = reencode_videos(video, tmp_path / "new", depth_encoder=other).path
        info, before = (load_info(root).features[DEPTH].info for root in (result, video))
        assert info == before | {"video.g": 1}
        for row in range(8):
            np.testing.assert_array_equal(LeRobotDataset(result)[row][DEPTH], LeRobotDataset(video)[row][DEPTH])
        for name, value in load_stats(video)[DEPTH].items():
            np.testing.assert_array_equal(load_stats(result)[DEPTH][name], value)
        sound(result)

    def test_needs_a_video(self, tmp_path):
        root = record(tmp_path / "old", ["push"], frames=2, cameras={})
        with pytest.raises(DatasetError, match="no videos"):
            reencode_videos(root, tmp_path / "new")


class TestMergeOfCodecs:
    def test_encodes_the_camera_whose_videos_differ_and_no_other(self, tmp_path):
        cameras = {FRONT: "video", WRIST: "video"}
        roots = [record(tmp_path / name, ["push"], frames=5, cameras=cameras) for name in ("a", "b")]
        b = reencode_videos(roots[1], tmp_path / "av1").path
        same = record(tmp_path / "c", ["pull"], frames=5, cameras={FRONT: "video"}, vcodec="hevc")
        assert encodings_to_merge(roots, "same") == {}
        with pytest.raises(DatasetError, match="reencode=true"):
            merge([roots[0], b], tmp_path / "all")
        encodings = encodings_to_merge([roots[0], same], "common", FAST)
        assert list(encodings) == [FRONT]
        result = merge([roots[0], same], tmp_path / "all", features="common", encodings=encodings, num_workers=2)
        assert load_info(result.path).features[FRONT].info["video.codec"] == "h264"
        close(frames_of(result.path, 0, FRONT)[4], frames_of(roots[0], 0, FRONT)[4])
        close(frames_of(result.path, 1, FRONT)[4], frames_of(same, 0, FRONT)[4])
        sound(result.path)

    def test_scales_no_picture(self, arm, tmp_path):
        shape = {"observation.state": STATE, "action": ACTION, FRONT: {**camera(), "shape": [32, 32, 3]}}
        with DatasetWriter.create(tmp_path / "small", fps=10, features=shape, robot_type="arm") as writer:
            values = {"observation.state": np.ones(3, "f4"), "action": np.ones(2, "f4"), "task": "push"}
            writer.add_frame(values | {FRONT: np.zeros((32, 32, 3), np.uint8)})
            writer.save_episode()
        with pytest.raises(DatasetError, match=FRONT):
            encodings_to_merge([arm, tmp_path / "small"], "common")


class TestClip:
    def test_of_a_range_of_frames(self, arm, tmp_path):
        kept = Kept(open_source(arm), 1, first=2, frames=3)
        counted = encode_clip(kept, FRONT, tmp_path / "clip.mp4", FAST)
        expected = frames_of(arm, 1, FRONT)[2:5]
        for found, frame in zip(decode_frames(tmp_path / "clip.mp4", 0.0, range(3), 10), expected, strict=True):
            close(found, frame)
        assert counted.frames == 3
        for name, value in camera_stats(list(expected)).items():
            np.testing.assert_allclose(counted.stats()[name], value)

    def test_of_images_in_a_part_of_a_row_group(self, images, tmp_path):
        for first, frames in ((0, 2), (3, 4), (7, 1)):
            counted = encode_clip(Kept(open_source(images), 3, first, frames), FRONT, tmp_path / "clip.mp4", FAST)
            expected = camera_stats([picture(3, number) for number in range(first, first + frames)])
            np.testing.assert_allclose(counted.stats()["mean"], expected["mean"])

    def test_of_a_picture_of_another_size_is_refused(self, images, tmp_path):
        root = shutil.copytree(images, tmp_path / "old")
        features = json.loads((root / "meta/info.json").read_text())["features"]
        change_info(root, features=features | {FRONT: features[FRONT] | {"shape": [48, 32, 3]}})
        with pytest.raises(DatasetError, match="frame 0 of episode 0"):
            convert_images_to_video(root, tmp_path / "new", names=[FRONT], rgb_encoder=FAST)
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
