"""Datasets v2.1 and v2.0 become v3.0 with every value and frame as it was."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lerobot_ops.datasets.converting.convert import ConvertConfig, convert
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import episode_stats, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.validation.validate import validate
from lerobot_ops.errors import ArtifactError, DatasetError, OpsError
from tests.datasets.legacy_recordings import make_legacy, read_lines, write_lines
from tests.datasets.recordings import LEROBOT, change_table, columns_of, frames_of, set_cells
from tests.hub.hub_server import Repository, pointed_at, serving

NAMES = ["two_task_h264", "button_av1_cut", "images_cut"]


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    return make_legacy(LEROBOT / "two_task_h264", tmp_path / "old")


def config(root: Path, **more) -> ConvertConfig:
    return ConvertConfig(root=str(root), new_root=root.with_name("new"), **more)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
def test_every_value_and_frame_is_as_it_was(tmp_path: Path, name: str, version: str) -> None:
    source = LEROBOT / name
    root = make_legacy(source, tmp_path / "old", version)
    result = convert(config(root))
    info, before = load_info(result.root), load_info(source)
    assert load_tasks(result.root) == load_tasks(source)
    assert columns_of(result.root, [*info.columns]) == columns_of(source, [*info.columns])
    assert (info.fps, info.total_frames, info.total_episodes) == (
        before.fps,
        before.total_frames,
        before.total_episodes,
    )
    for key in info.video_keys:
        for episode in range(info.total_episodes):
            assert np.array_equal(frames_of(result.root, episode, key), frames_of(source, episode, key))
    report = validate(result.root)
    assert [finding for finding in report.findings if finding.severity == "error"] == []
    assert f"converted from {version} to v3.0" in str(result)
    content = json.loads((result.root / "meta/info.json").read_text())
    assert not {"total_chunks", "total_videos"} & set(content)
    assert type(content["fps"]) is int
    assert all(entry["fps"] == info.fps for entry in content["features"].values() if entry["dtype"] != "video")


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_exact_and_cameras_keep_theirs(tmp_path: Path, name: str) -> None:
    source = LEROBOT / name
    result = convert(config(make_legacy(source, tmp_path / "old")))
    cameras = load_info(source).camera_keys
    assert result.without_quantiles == tuple(cameras)
    assert "--camera_quantiles=true" in str(result)
    for before, after in zip(load_episodes(source).to_pylist(), load_episodes(result.root).to_pylist(), strict=True):
        for camera in cameras:
            kept = {key: value for key, value in episode_stats(before)[camera].items() if not key.startswith("q")}
            assert {key: value.tolist() for key, value in episode_stats(after)[camera].items()} == {
                key: value.tolist() for key, value in kept.items()
            }
    overall = load_stats(result.root)
    rows = [episode_stats(row) for row in load_episodes(result.root).to_pylist()]
    actions = np.array(columns_of(source, ["action"])["action"])
    assert np.allclose(overall["action"]["q90"], np.quantile(actions, 0.9, axis=0))
    for camera in cameras:
        assert set(overall[camera]) == {"min", "max", "mean", "std", "count"}
        means, counts = ([row[camera][statistic] for row in rows] for statistic in ("mean", "count"))
        assert np.allclose(overall[camera]["mean"], np.average(means, axis=0, weights=np.ravel(counts)))


@pytest.mark.parametrize("name", ["two_task_h264", "images_cut"])
def test_quantiles_of_cameras_come_from_every_frame_when_asked_for(tmp_path: Path, name: str) -> None:
    result = convert(config(make_legacy(LEROBOT / name, tmp_path / "old"), camera_quantiles=True))
    camera = load_info(result.root).camera_keys[0]
    assert (result.counted, result.without_quantiles) == ((camera,), ())
    row = load_episodes(result.root).to_pylist()[0]
    assert episode_stats(row)[camera]["count"].tolist() == [row["length"]]
    if name == "two_task_h264":
        frames = frames_of(result.root, 0, camera) / 255
        assert np.allclose(episode_stats(row)[camera]["q50"].ravel(), np.quantile(frames, 0.5, axis=(0, 1, 2)))
    assert not any(finding.check.startswith("stats") for finding in validate(result.root).findings)


def test_files_roll_over_and_chunks_of_the_old_format_are_found(tmp_path: Path) -> None:
    source = LEROBOT / "two_task_h264"
    root = make_legacy(source, tmp_path / "old", per_chunk=5)
    result = convert(config(root, video_files_size_in_mb=1, data_files_size_in_mb=1))
    assert (result.data_files, result.video_files) == (1, 2)
    assert load_info(result.root).chunks_size == 5
    assert pq.read_metadata(result.root / "data/chunk-000/file-000.parquet").num_row_groups == result.episodes
    key = load_info(source).video_keys[0]
    for episode in (0, result.episodes - 1):
        assert np.array_equal(frames_of(result.root, episode, key), frames_of(source, episode, key))


def test_the_same_input_gives_the_same_bytes(legacy: Path) -> None:
    first = convert(config(legacy)).root
    again = convert(ConvertConfig(root=str(legacy), new_root=legacy.with_name("again"))).root
    names = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_tasks_are_found_by_number_whatever_their_order_and_gaps(legacy: Path) -> None:
    tasks = read_lines(legacy / "meta/tasks.jsonl")
    write_lines(legacy / "meta/tasks.jsonl", [{"task_index": 9, "task": tasks[0]["task"]}, tasks[1]])
    for path in sorted(legacy.glob("data/*/*.parquet")):
        rows = pq.read_table(path).column("task_index").to_pylist()
        change_table(path, set_cells("task_index", {row: 9 for row, index in enumerate(rows) if index == 0}))
    root = convert(config(legacy)).root
    names = load_tasks(root)
    episodes = load_episodes(root).to_pylist()
    indices = columns_of(root, ["task_index"])["task_index"]
    assert all(names[indices[row["dataset_from_index"]]] == row["tasks"][0] for row in episodes)


def test_what_other_tools_wrote_about_episodes_survives(legacy: Path) -> None:
    entries = read_lines(legacy / "meta/episodes.jsonl")
    write_lines(legacy / "meta/episodes.jsonl", [entry | {"operator": f"o{n}"} for n, entry in enumerate(entries)])
    root = convert(config(legacy)).root
    assert load_episodes(root).column("operator").to_pylist() == [f"o{n}" for n in range(len(entries))]


def test_a_dataset_on_the_hub_is_converted_at_its_revision(
    legacy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [path for path in legacy.rglob("*") if path.is_file()]
    with serving() as hub:
        pointed_at(hub, tmp_path / "hf", monkeypatch)
        repository = hub.repositories["datasets/team/old"] = Repository()
        commit = repository.commit({path.relative_to(legacy).as_posix(): path.read_bytes() for path in files})
        repository.tags["v2.1"] = commit
        with pytest.raises(OpsError, match=r"lerobot-ops convert team/old@v2\.1 --new_root=DIR"):
            convert(ConvertConfig(root="team/old", new_root=tmp_path / "new"))
        result = convert(ConvertConfig(root="team/old@v2.1", new_root=tmp_path / "new"))
    assert columns_of(result.root, ["action"]) == columns_of(LEROBOT / "two_task_h264", ["action"])


def test_columns_that_are_no_feature_are_left_out_and_said(legacy: Path) -> None:
    for path in legacy.glob("data/*/*.parquet"):
        change_table(path, lambda table: table.append_column("scratch", table.column("index")))
    result = convert(config(legacy))
    assert result.left_out == ("scratch",)
    assert "left out, because meta/info.json does not name them: scratch" in str(result)


def lose_video(root: Path) -> None:
    next(root.rglob("episode_000003.mp4")).unlink()


def lose_rows(root: Path) -> None:
    change_table(next(root.rglob("episode_000003.parquet")), lambda table: table.slice(1))


def lose_column(root: Path) -> None:
    change_table(next(root.rglob("episode_000003.parquet")), lambda table: table.drop_columns(["action"]))


def unknown_task(root: Path) -> None:
    change_table(next(root.rglob("episode_000003.parquet")), set_cells("task_index", {4: 77}))


def not_a_number(root: Path) -> None:
    change_table(next(root.rglob("episode_000003.parquet")), set_cells("action", {4: [float("nan")] * 6}))


def short_video(root: Path) -> None:
    videos = sorted(root.rglob("episode_*.mp4"))
    cut = pq.read_metadata(next(root.rglob("episode_000003.parquet"))).num_rows // 2
    from lerobot_ops.datasets.videos.video import Piece, cut_and_join

    fps = int(json.loads((root / "meta/info.json").read_text())["fps"])
    videos[3].unlink()
    cut_and_join([Piece(videos[2], 0.0, cut)], videos[3], fps)


def torn_line(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text()[:-20])


def lose_episode(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    write_lines(path, [entry for entry in read_lines(path) if entry["episode_index"] != 3])


def change_meta(**fields: object):
    def change(root: Path) -> None:
        path = root / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_video, ["missing", "episode_000003.mp4"]),
        (lose_rows, ["disagree", "episode_000003.parquet", "length of episode 3"]),
        (lose_column, ["lacks a column", "episode_000003.parquet", "action"]),
        (unknown_task, ["episode_000003.parquet", "task_index", "77"]),
        (not_a_number, ["not finite", "episode_000003.parquet", "action", "frame 4"]),
        (short_video, ["fewer frames", "episode_000003.mp4"]),
        (torn_line, ["episodes.jsonl", "line 12"]),
        (lose_episode, ["without a gap", "episodes.jsonl", "episode 4"]),
        (change_meta(fps=29.97), ["whole number", "info.json", "fps", "29.97"]),
        (change_meta(codebase_version="v1.6"), ["codebase_version", "v1.6", "with LeRobot first"]),
        (change_meta(codebase_version="v3.0"), ["codebase_version", "needs no conversion"]),
        (change_meta(data_path="../{episode_index}.parquet"), ["data_path", "inside of the dataset"]),
        (change_meta(features={}), ["lacks a feature", "features.timestamp"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_converted_is_named_and_nothing_is_left(legacy: Path, damage, said: list[str]) -> None:
    damage(legacy)
    with pytest.raises(DatasetError) as error:
        convert(config(legacy))
    assert [part for part in said if part not in str(error.value)] == []
    assert [path.name for path in legacy.parent.iterdir()] == ["old"]


def test_it_never_writes_over_anything(legacy: Path) -> None:
    legacy.with_name("new").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        convert(config(legacy))
