"""Cameras: frames in the background with their time, devices that are refused, that break, and that come back."""

import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from lerobot_ops.cameras.camera import Camera
from lerobot_ops.cameras.finding import FindCamerasConfig, look, text
from lerobot_ops.cameras.pattern import PatternCamera, PatternCameraConfig, pattern_number
from lerobot_ops.cameras.registry import AnyCameraConfig, make_camera
from lerobot_ops.errors import ConfigError, DeviceError

SOON_S = 20.0


def camera(**settings: object) -> Camera:
    return make_camera(TypeAdapter(AnyCameraConfig).validate_python(settings), "front")


def pattern(**settings: object) -> PatternCamera:
    made = camera(type="pattern", width=64, height=48, **settings)
    assert isinstance(made, PatternCamera)
    return made


def until(condition: object) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def failing(device: Camera) -> bool:
    try:
        device.latest()
    except DeviceError:
        return True
    return False


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of the pattern, 64x48 at 30 Hz."""
    path = tmp_path_factory.mktemp("video") / "pattern.mp4"
    source = PatternCamera(PatternCameraConfig(width=64, height=48)).open()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for number in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(source.picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_come_in_order_each_once_with_the_time_at_which_they_were_taken() -> None:
    with pattern() as device:
        assert device.is_connected
        frames = [device.next(timeout_ms=5000) for _ in range(10)]
    assert not device.is_connected
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    drawn = [pattern_number(frame.image) for frame in frames]
    assert drawn == sorted(set(drawn))
    for frame, number in zip(frames, drawn, strict=True):
        assert frame.captured_at - frames[0].captured_at == pytest.approx((number - drawn[0]) / 30, abs=1e-6)


def test_the_newest_frame_is_given_at_once_and_again() -> None:
    with pattern() as device:
        first = device.latest(max_age_ms=5000)
        assert device.read_latest(max_age_ms=5000).shape == (48, 64, 3)
        newer = device.next(timeout_ms=5000)
        assert newer.number > first.number
        assert not newer.image.flags.writeable


def test_a_camera_that_was_not_connected_says_so() -> None:
    device = pattern()
    for ask in (device.latest, device.next):
        with pytest.raises(DeviceError, match="not connected"):
            ask()
    device.disconnect()
    device.connect()
    with pytest.raises(DeviceError, match="connected already"):
        device.connect()
    device.disconnect()
    device.disconnect()
    device.connect()
    assert device.next(timeout_ms=5000).number >= 0
    device.disconnect()


def test_a_camera_that_stalls_is_refused_and_comes_back() -> None:
    with pattern() as device:
        device.fault = "stall"
        until(lambda: failing(device))
        with pytest.raises(DeviceError, match="'front' gives no frames"):
            device.latest()
        with pytest.raises(DeviceError, match="no frame in"):
            device.next(timeout_ms=50)
        device.fault = None
        until(lambda: not failing(device))


def test_an_unplugged_camera_is_opened_again_by_itself() -> None:
    with pattern() as device:
        before = device.latest(max_age_ms=5000).number
        device.fault = "unplug"
        until(lambda: failing(device))
        with pytest.raises(DeviceError, match="unplugged"):
            device.latest()
        device.fault = None
        until(lambda: not failing(device))
        assert device.reconnections == 1
        assert device.latest(max_age_ms=5000).number > before


def test_a_camera_that_repeats_one_picture_is_frozen() -> None:
    with pattern(frozen_after_s=0.2) as device:
        device.fault = "freeze"
        until(lambda: failing(device))
        with pytest.raises(DeviceError, match="frozen"):
            device.latest(max_age_ms=5000)
    with pattern(frozen_after_s=None) as device:
        device.fault = "freeze"
        frozen = [device.next(timeout_ms=5000) for _ in range(5)]
        assert np.array_equal(frozen[3].image, frozen[4].image)
        assert frozen[4].captured_at > frozen[3].captured_at


def test_another_process_breaks_a_pattern_by_a_word_in_a_file(tmp_path: Path) -> None:
    with pattern(control=tmp_path / "front") as device:
        (tmp_path / "front").write_text("unplug\n")
        until(lambda: failing(device))
        (tmp_path / "front").unlink()
        until(lambda: not failing(device))


def test_a_pattern_looks_the_same_everywhere_and_its_number_survives_a_codec(video: Path) -> None:
    one, same, other = (PatternCamera(PatternCameraConfig(width=64, height=48, seed=seed)).open() for seed in (0, 0, 1))
    assert np.array_equal(one.picture(7), same.picture(7))
    assert not np.array_equal(one.picture(7), other.picture(7))
    assert pattern_number(one.picture(2**31 + 5)) == 2**31 + 5
    with av.open(str(video)) as container:
        assert [pattern_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)] == [*range(60)]


@pytest.mark.parametrize("kind", ["file", "opencv"])
def test_a_video_is_played_at_its_rate(video: Path, kind: str) -> None:
    where = {"path": video} if kind == "file" else {"index_or_path": video, "warmup_s": 0.0}
    with camera(type=kind, width=64, height=48, fps=30, **where) as device:
        frames = [device.next(timeout_ms=5000) for _ in range(6)]
    drawn = [pattern_number(frame.image) for frame in frames]
    assert drawn == sorted(drawn)
    assert frames[-1].captured_at - frames[0].captured_at >= (drawn[-1] - drawn[0] - 1) / 30


def test_a_folder_of_pictures_is_played_again_and_again(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((48, 64, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    with camera(type="file", path=tmp_path, width=64, height=48, fps=200) as device:
        shades = {int(device.next(timeout_ms=5000).image[0, 0, 0]) for _ in range(20)}
        assert shades == {0, 40, 80}
    with camera(type="file", path=tmp_path, width=64, height=48, fps=200, loop=False) as device:
        until(lambda: failing(device))


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    for path, message in ((tmp_path / "none", "does not exist"), (tmp_path / "text.mp4", "no video")):
        with pytest.raises(DeviceError, match=message):
            camera(type="file", path=path, width=64, height=48, fps=30).connect()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeviceError, match="no picture"):
        camera(type="file", path=tmp_path / "empty", width=64, height=48, fps=30).connect()


def test_pictures_of_another_size_are_refused(video: Path) -> None:
    with pytest.raises(DeviceError, match=r"found: +uint8 \(48, 64, 3\)"):
        camera(type="file", path=video, width=64, height=64, fps=30).connect()


@pytest.mark.parametrize(
    ("asked", "field", "found"),
    [
        ({"width": 640}, "width and height", "64x48"),
        ({"fps": 15}, "fps", "30 frames/s"),
        ({"rotation": 90}, "width and height", "64x48"),
        ({"fourcc": "MJPG"}, "fourcc", "h264|avc1"),
    ],
)
def test_a_device_that_does_something_else_is_refused(video: Path, asked: dict, field: str, found: str) -> None:
    settings = {"type": "opencv", "index_or_path": video, "width": 64, "height": 48, "fps": 30} | asked
    with pytest.raises(DeviceError, match=rf"(?s)field: +{field}.*found: +({found})"):
        camera(**settings).connect()


@pytest.mark.parametrize(("rotation", "turns"), [(90, -1), (180, 2), (-90, 1)])
def test_pictures_are_turned_and_their_channels_ordered(video: Path, rotation: int, turns: int) -> None:
    width, height = (64, 48) if rotation == 180 else (48, 64)
    plain = {"type": "opencv", "index_or_path": video, "width": 64, "height": 48, "fps": 30}
    with camera(**plain | {"warmup_s": 0}) as device:
        straight = device.next(timeout_ms=5000)
    turned = {"rotation": rotation, "width": width, "height": height, "warmup_s": 0, "color_mode": "bgr"}
    with camera(**plain | turned) as device:
        rotated = device.next(timeout_ms=5000)
    assert (straight.number, rotated.number) == (0, 0)
    assert np.array_equal(np.rot90(straight.image, turns)[..., ::-1], rotated.image)


def test_a_device_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match="find-cameras"):
        camera(type="opencv", index_or_path=97, width=64, height=48, fps=30).connect()


def test_a_camera_that_is_too_slow_is_refused(tmp_path: Path) -> None:
    class Slow(PatternCamera):
        def open(self):  # a device that says 30 frames/s and gives 5, as in the dark
            return PatternCamera(self.config.model_copy(update={"fps": 5}), self.name).open()

    with pytest.raises(DeviceError, match=r"(?s)slower.*found: +\d\.\d frames/s.*light"):
        Slow(PatternCameraConfig(width=64, height=48, warmup_s=0.5), "front").connect()


def test_settings_say_what_the_device_does(video: Path) -> None:
    with camera(type="opencv", index_or_path=video, width=64, height=48, fps=30, warmup_s=0) as device:
        said = device.settings()
    assert said["device"] == str(video)
    assert said["width"] == 64
    assert said["backend_api"]


def test_unknown_cameras_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="did you mean 'opencv'"):
        camera(type="opencvv", width=64, height=48, fps=30)


def test_cameras_are_found_and_photographed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, video: Path) -> None:
    import lerobot_ops.cameras.opencv as opencv

    monkeypatch.setattr(opencv, "_devices", lambda: [str(video), str(tmp_path / "metadata")])
    (seen,) = look(FindCamerasConfig(kind="opencv", output_dir=tmp_path / "pictures"))
    assert seen.settings == {"type": "opencv", "index_or_path": str(video), "width": 64, "height": 48, "fps": 30}
    assert np.array(Image.open(seen.picture)).shape == (48, 64, 3)
    assert "--robot.cameras='{NAME: {type: opencv," in text([seen], as_json=False)
    assert '"picture"' in text([seen], as_json=True)
    with pytest.raises(ConfigError, match="opencv"):
        look(FindCamerasConfig(kind="opencw"))
