"""Video files: frames come back exactly, packets move without loss, the same frames give the same bytes."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import LEROBOT

from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import Piece, cut_and_join, decode_frames, decode_times, probe
from lerobot_ops.datasets.videos.video_writer import encode
from lerobot_ops.errors import DatasetError

FPS = 30
FRAMES = 97
BY_LEROBOT = {
    "av1": (LEROBOT / "button_av1_cut/videos/observation.image/chunk-000/file-000.mp4", 80),
    "h264": (LEROBOT / "two_task_h264/videos/observation.images.front/chunk-000/file-000.mp4", 30),
}
FOREIGN = {
    "b-frames": ("libx264", {"g": "40", "bf": "4"}),
    "open-gop": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "hevc": ("libx265", {"g": "25", "x265-params": "log-level=error"}),
}
"""How other tools encode: frames stored in another order than shown, and keyframes that are no clean start."""


def pictures() -> list[np.ndarray]:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3))
    return [(np.roll(noise, 2 * k, axis=1) // 2 + k % 60).astype(np.uint8) for k in range(FRAMES)]


def all_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    """A video of `FRAMES` frames by each encoder, ours and foreign ones."""
    root = tmp_path_factory.mktemp("videos")
    made = {}
    for name, encoding in (
        ("ours-av1", VideoEncoding()),
        ("ours-av1-long", VideoEncoding(g=30)),
        ("ours-h264", VideoEncoding(vcodec="h264", g=7)),
    ):
        made[name] = root / f"{name}.mp4"
        encode(made[name], pictures(), FPS, encoding)
    for name, (codec, options) in FOREIGN.items():
        made[name] = root / f"{name}.mp4"
        with av.open(str(made[name]), "w") as container:
            stream = container.add_stream(codec, FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for number, picture in enumerate(pictures()):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return made


SPANS = st.integers(0, FRAMES - 1).flatmap(lambda first: st.tuples(st.just(first), st.integers(1, FRAMES - first)))
ENCODERS = ["ours-av1", "ours-av1-long", "ours-h264", *FOREIGN]


@pytest.mark.parametrize("name", ENCODERS)
def test_frames_are_found_in_any_order(videos: dict[str, Path], name: str) -> None:
    reference = all_frames(videos[name])
    assert len(reference) == FRAMES
    wanted = np.random.default_rng(0).integers(0, FRAMES, 80)
    assert np.array_equal(decode_frames(videos[name], 0.0, wanted, FPS), reference[wanted])
    for number in [0, 96, 95, 96, 1, 40, 41, 39, 12, 11]:
        assert np.array_equal(decode_frames(videos[name], 0.0, [number], FPS)[0], reference[number]), number


@pytest.mark.parametrize("name", BY_LEROBOT)
def test_lerobots_episodes_are_cut_and_joined_without_loss(tmp_path: Path, name: str) -> None:
    path, fps = BY_LEROBOT[name]
    reference = all_frames(path)
    pieces = [Piece(path, 40 / fps, 20), Piece(path, 0.0, 10), Piece(path, 7 / fps, 5)]
    starts = cut_and_join(pieces, tmp_path / "joined.mp4", fps)
    for start, piece in zip(starts, pieces, strict=True):
        first = round(piece.from_timestamp * fps)
        found = decode_frames(tmp_path / "joined.mp4", start, range(piece.frames), fps)
        assert np.array_equal(found, reference[first : first + piece.frames])
    assert probe(tmp_path / "joined.mp4").codec == name


@pytest.mark.parametrize("name", ENCODERS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_pieces_join_without_loss(videos: dict[str, Path], tmp_path_factory, name: str, data) -> None:
    spans = data.draw(st.lists(SPANS, min_size=1, max_size=5))
    reference = all_frames(videos[name])
    target = tmp_path_factory.mktemp("joined") / "joined.mp4"
    starts = cut_and_join([Piece(videos[name], first / FPS, length) for first, length in spans], target, FPS)
    for start, (first, length) in zip(starts, spans, strict=True):
        found = decode_frames(target, start, range(length), FPS)
        assert np.array_equal(found, reference[first : first + length])
    times = probe(target).times  # a constant rate without gaps, which LeRobot's reader counts on
    assert np.allclose(
        times, np.arange(len(times)) / FPS, atol=1e-6
    )  # a constant rate without gaps: LeRobot counts on it


def test_what_was_joined_can_be_cut_again(videos: dict[str, Path], tmp_path: Path) -> None:
    spans = [(13, 20), (50, 1), (7, 11)]
    path = videos["b-frames"]
    starts = cut_and_join([Piece(path, first / FPS, length) for first, length in spans], tmp_path / "one.mp4", FPS)
    again = [Piece(tmp_path / "one.mp4", start, length) for start, (_, length) in zip(starts, spans, strict=True)]
    starts = cut_and_join(again[::-1], tmp_path / "two.mp4", FPS)[::-1]
    for start, (first, length) in zip(starts, spans, strict=True):
        found = decode_frames(tmp_path / "two.mp4", start, range(length), FPS)
        assert np.array_equal(found, all_frames(path)[first : first + length])


@pytest.mark.parametrize("vcodec", ["libsvtav1", "h264"])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, vcodec: str) -> None:
    for name in "abc":
        encode(tmp_path / name, pictures()[:40], FPS, VideoEncoding(vcodec=vcodec, g=20))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_probe_tells_what_a_file_holds(videos: dict[str, Path]) -> None:
    found = probe(videos["ours-av1"])
    assert (found.frames, found.fps, found.codec, found.pix_fmt) == (FRAMES, FPS, "av1", "yuv420p")
    assert (found.width, found.height, found.channels) == (64, 64, 3)
    assert np.array_equal(found.keyframes, np.arange(0, FRAMES, 2))
    assert found.seconds == pytest.approx(FRAMES / FPS)
    assert probe(videos["ours-av1"]).signature == found.signature != probe(videos["ours-h264"]).signature


def test_a_feature_is_described_as_lerobot_describes_it() -> None:
    """The `info` block of a dataset that LeRobot wrote with its default encoder."""
    import json

    path, _ = BY_LEROBOT["av1"]
    info = json.loads((LEROBOT / "button_av1_cut/meta/info.json").read_text())
    described = info["features"]["observation.image"]["info"]
    ours = probe(path).info() | VideoEncoding().info()
    assert ours == described
    assert list(ours) == list(described)


def test_differently_encoded_files_are_not_joined(videos: dict[str, Path], tmp_path: Path) -> None:
    pieces = [Piece(videos["ours-h264"], 0.0, 5), Piece(videos["b-frames"], 0.0, 5)]
    with pytest.raises(DatasetError, match=r"encoded differently(.|\n)*b-frames.mp4(.|\n)*separate files"):
        cut_and_join(pieces, tmp_path / "joined.mp4", FPS)


def test_missing_frames_are_named(videos: dict[str, Path], tmp_path: Path) -> None:
    path = videos["ours-av1"]
    with pytest.raises(DatasetError, match=r"fewer frames than its episode(.|\n)*7 frames from second 3(.|\n)*10"):
        cut_and_join([Piece(path, 3.0, 10)], tmp_path / "joined.mp4", FPS)
    with pytest.raises(DatasetError, match=r"no frame at the time(.|\n)*end of the file"):
        decode_frames(path, 0.0, [FRAMES], FPS)
    with pytest.raises(DatasetError, match=r"no frame(.|\n)*0\.100000 s(.|\n)*0\.104000 s, within 0\.0001 s"):
        decode_times(path, np.array([0.104]))
    assert decode_times(path, np.array([0.104]), tolerance_s=0.005).shape == (1, 64, 64, 3)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(DatasetError, match=r"cannot be read(.|\n)*broken.mp4"):
        probe(tmp_path / "broken.mp4")
    with pytest.raises(DatasetError, match=r"missing(.|\n)*absent.mp4"):
        probe(tmp_path / "absent.mp4")


def test_a_replaced_file_is_read_anew(videos: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(videos["ours-h264"].read_bytes())
    before = decode_frames(path, 0.0, [3], FPS)
    encode(path, pictures()[::-1], FPS, VideoEncoding(vcodec="h264"))
    assert not np.array_equal(decode_frames(path, 0.0, [3], FPS), before)
