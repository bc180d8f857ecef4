"""Batches, against the items of the reader; and datasets that training refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.transforms.transforms import ImageTransforms
from lerobot_ops.errors import ConfigError, DatasetError
from lerobot_ops.training.config import TrainConfig
from lerobot_ops.training.data import BatchReader, batches, open_dataset, scaled
from lerobot_ops.training.sampler import EpisodeAwareSampler
from lerobot_ops.training.train import train
from tests.training.lessons import CAMERA, record

Configured = Callable[..., TrainConfig]
WINDOW = {"action": [i / 20 for i in range(5)]}


@pytest.mark.parametrize("camera", ["", "video", "image"])
@pytest.mark.parametrize("episodes", [None, [1, 3]])
def test_a_batch_is_the_readers_items(
    configured: Configured, tmp_path: Path, camera: str, episodes: list[int] | None
) -> None:
    root = record(tmp_path / "data", camera=camera)
    config = configured(dataset={"root": root, "episodes": episodes})
    dataset, policy = open_dataset(config)
    rows = np.array([0, 8, 12, dataset.num_frames - 1, dataset.num_frames - 3])
    batch = BatchReader(dataset, policy)(rows)
    items = LeRobotDataset(root, episodes=episodes, delta_timestamps=WINDOW)
    assert set(batch) == {*policy.input_features, "action", "action_is_pad"}
    for name, values in batch.items():
        expected = torch.stack([items[int(row)][name] for row in rows])
        torch.testing.assert_close(values, expected, msg=name)


def test_inputs_can_be_chosen(configured: Configured, filmed: Path) -> None:
    _, policy = open_dataset(configured(dataset={"root": filmed}))
    assert set(policy.input_features) == {"observation.state", "observation.environment_state", CAMERA}
    chosen = {"observation.environment_state": {"type": "ENV", "shape": [6]}}
    _, policy = open_dataset(configured(dataset={"root": filmed}, policy={"input_features": chosen}))
    assert set(policy.input_features) == {"observation.environment_state"}
    mistyped = {"observation.environment_stat": {"type": "ENV", "shape": [6]}}
    with pytest.raises(ConfigError, match=r"did you mean 'observation\.environment_state'"):
        open_dataset(configured(dataset={"root": filmed}, policy={"input_features": mistyped}))


def test_batches_read_ahead_are_the_same_and_errors_arrive(configured: Configured) -> None:
    dataset, policy = open_dataset(configured())
    sampler = EpisodeAwareSampler(*dataset.episode_bounds, batch_size=4, seed=0)
    read = BatchReader(dataset, policy)
    plain, ahead = (list(batches(sampler, read, 3, 20, ahead=count)) for count in (0, 3))
    for one, other in zip(plain, ahead, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    read.columns["action"] = read.columns["action"][:5]
    with pytest.raises(IndexError):
        list(batches(sampler, read, 0, 20, ahead=3))


def edit_column(root: Path, name: str, change: Callable[[np.ndarray], None]) -> None:
    file = next(root.glob("data/*/*.parquet"))
    table = pq.read_table(file)
    values = np.array(table[name].to_pylist(), dtype=np.float32 if name == "action" else np.int64)
    change(values)
    column = pa.array(values.tolist(), type=table.schema.field(name).type)
    pq.write_table(table.set_column(table.schema.get_field_index(name), table.schema.field(name), column), file)


def not_a_number(root: Path) -> None:
    edit_column(root, "action", lambda values: values[15].fill(np.nan))


def frames_of_another_episode(root: Path) -> None:
    edit_column(root, "episode_index", lambda values: values[:2].fill(3))


def truncated_parquet(root: Path) -> None:
    file = next(root.glob("data/*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-200])


def lost_video(root: Path) -> None:
    next(root.glob("videos/**/*.mp4")).unlink()


def truncated_video(root: Path) -> None:
    file = next(root.glob("videos/**/*.mp4"))
    file.write_bytes(file.read_bytes()[:300])


def lost_info(root: Path) -> None:
    (root / "meta/info.json").unlink()


def lost_statistics(root: Path) -> None:
    (root / "meta/stats.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_a_number, r"no numbers[\s\S]*action[\s\S]*episode 1"),
        (frames_of_another_episode, "disagree"),
        (truncated_parquet, "file-000.parquet"),
        (lost_video, "file-000.mp4"),
        (truncated_video, "file-000.mp4"),
        (lost_info, "no dataset here"),
        (lost_statistics, "stat"),
    ],
)
def test_a_damaged_dataset_is_refused_and_nothing_is_written(
    configured: Configured, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    root = record(tmp_path / "data", camera="video")
    damage(root)
    with pytest.raises(DatasetError, match=message):
        train(configured(dataset={"root": root}))
    assert not (tmp_path / "run").exists()


DARKER = {"enable": True, "tfs": {"dark": {"type": "ColorJitter", "kwargs": {"brightness": (0.2, 0.8)}}}}


def test_frames_are_changed_by_the_seed_the_epoch_and_the_row(configured: Configured, filmed: Path) -> None:
    config = configured(dataset={"root": filmed, "image_transforms": DARKER})
    dataset, policy = open_dataset(config)
    transforms, rows = ImageTransforms(config.dataset.image_transforms), np.array([3, 12, 5])
    plain = BatchReader(dataset, policy)(rows)
    read = BatchReader(dataset, policy, transforms, seed=1)
    changed, again = read(rows, 2), read(rows, 2)
    assert torch.equal(changed[CAMERA], again[CAMERA])
    assert torch.equal(changed[CAMERA][1:2], read(rows[1:2], 2)[CAMERA])
    assert not torch.equal(changed[CAMERA], read(rows, 3)[CAMERA])
    assert not torch.equal(changed[CAMERA], BatchReader(dataset, policy, transforms, seed=2)(rows, 2)[CAMERA])
    assert (changed[CAMERA] < plain[CAMERA]).any()
    assert torch.equal(changed["action"], plain["action"])


def test_bytes_become_the_frames_that_are_decoded_to_floats(configured: Configured, filmed: Path) -> None:
    dataset, policy = open_dataset(configured(dataset={"root": filmed}))
    rows = np.array([3, 12])
    as_bytes = BatchReader(dataset, policy, as_bytes=True)(rows)
    assert as_bytes[CAMERA].dtype == torch.uint8
    assert torch.equal(scaled(as_bytes, "cpu")[CAMERA], BatchReader(dataset, policy)(rows)[CAMERA])


def test_a_cache_of_frames_changes_neither_the_batches_nor_the_name(
    configured: Configured, filmed: Path, tmp_path: Path
) -> None:
    config = configured(dataset={"root": filmed})
    cached = configured(dataset={"root": filmed, "frame_cache": tmp_path / "frames"}, num_workers=2)
    assert cached.identity("a") == config.identity("a")
    assert configured(dataset={"root": filmed, "image_transforms": DARKER}).identity("a") != config.identity("a")
    rows = np.array([3, 12])
    one, other = (BatchReader(*open_dataset(chosen))(rows) for chosen in (config, cached))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert list((tmp_path / "frames").rglob("*.npy"))


def test_training_on_changed_frames_can_be_repeated(configured: Configured, filmed: Path, tmp_path: Path) -> None:
    dataset = {"root": filmed, "image_transforms": DARKER}
    losses = [
        train(configured(dataset=dataset, steps=3, save_freq=3, output_dir=tmp_path / name)).metrics
        for name in ("one", "two")
    ]
    plain = train(configured(dataset={"root": filmed}, steps=3, save_freq=3, output_dir=tmp_path / "plain")).metrics
    assert losses[0]["loss"] == losses[1]["loss"] != plain["loss"]
    misspelt = {"enable": True, "tfs": {"dark": {"type": "ColorJiter"}}}
    with pytest.raises(ConfigError, match="did you mean 'ColorJitter'"):
        train(configured(dataset={"root": filmed, "image_transforms": misspelt}, output_dir=tmp_path / "misspelt"))
    assert not (tmp_path / "misspelt").exists()
