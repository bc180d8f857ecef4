"""Statistics equal numpy's on the values themselves, whichever way they are gathered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import LEROBOT

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.reader import LeRobotDataset
from lerobot_ops.datasets.statistics import (
    QUANTILE_NAMES,
    QUANTILES,
    camera_stats,
    merge_stats,
    numeric_stats,
    overall_stats,
    sample_indices,
)
from lerobot_ops.datasets.tables import episode_stats, load_episodes, load_stats
from lerobot_ops.errors import DatasetError

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def test_numeric_statistics_are_numpys() -> None:
    values = np.random.default_rng(0).normal(3, 2, (500, 4)).astype(np.float32)
    stats = numeric_stats(values)
    exact = values.astype(np.float64)
    assert np.allclose(stats["mean"], exact.mean(0), rtol=0, atol=1e-12)
    assert np.allclose(stats["std"], exact.std(0), rtol=0, atol=1e-12)
    assert np.array_equal(stats["min"], exact.min(0))
    for name, quantile in zip(QUANTILE_NAMES, QUANTILES, strict=True):
        assert np.array_equal(stats[name], np.quantile(exact, quantile, axis=0))
    assert stats["count"].tolist() == [500]


def test_scalars_and_matrices_keep_their_shape() -> None:
    flags = np.array([False, False, True])
    assert numeric_stats(flags)["mean"].tolist() == [1 / 3]
    assert numeric_stats(flags)["max"].tolist() == [1.0]
    assert numeric_stats(np.zeros((5, 2, 3)))["q50"].shape == (2, 3)


def test_one_frame_has_statistics() -> None:
    stats = numeric_stats(np.array([[2.5, -1.0]]))
    assert stats["std"].tolist() == [0.0, 0.0]
    assert stats["q99"].tolist() == [2.5, -1.0]


@pytest.mark.parametrize("size", [(40, 50), (310, 120)])
def test_camera_statistics_are_numpys_on_the_subsampled_pixels(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 200, (7, *size, 3), dtype=np.uint8)
    step = 2 if size[0] > 300 else 1  # 310 // 150, as LeRobot does
    pixels = frames[:, ::step, ::step].reshape(-1, 3) / 255
    stats = camera_stats(frames)
    assert stats["mean"].shape == (3, 1, 1)
    assert np.allclose(stats["mean"].ravel(), pixels.mean(0), rtol=0, atol=1e-12)
    assert np.allclose(stats["std"].ravel(), pixels.std(0), rtol=0, atol=1e-12)
    assert np.array_equal(stats["max"].ravel(), pixels.max(0))
    for name, quantile in zip(QUANTILE_NAMES, QUANTILES, strict=True):
        assert np.allclose(stats[name].ravel(), np.quantile(pixels, quantile, axis=0), rtol=0, atol=1e-12)
    assert stats["count"].tolist() == [7]


@settings(deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 100))
def test_merged_statistics_are_those_of_the_union(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(rng.normal(), 1, (size, 2)) for size in sizes]
    merged, whole = merge_stats([numeric_stats(part) for part in parts]), numeric_stats(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        assert np.allclose(merged[name], whole[name], rtol=0, atol=1e-9), name
    ordered = np.stack([merged[name] for name in ("min", *QUANTILE_NAMES, "max")])
    assert (np.diff(ordered, axis=0) >= -1e-12).all()


@given(value=st.floats(-1e6, 1e6), sizes=SIZES)
def test_merging_equal_parts_changes_nothing(value: float, sizes: list[int]) -> None:
    constant = merge_stats([numeric_stats(np.full((size, 1), value)) for size in sizes])
    assert all(constant[name] == pytest.approx(value) for name in ("min", "max", "mean", *QUANTILE_NAMES))
    part = numeric_stats(np.random.default_rng(len(sizes)).integers(0, 4, (50, 2)).astype(np.float64) + value)
    merged = merge_stats([part] * len(sizes))
    for name in set(part) - {"count"}:
        assert np.allclose(merged[name], part[name], atol=1e-6), name


def test_merged_quantiles_are_near_those_of_the_union() -> None:
    frames = [np.random.default_rng(k).integers(20 * k, 100 + 30 * k, (4, 20, 20, 3), dtype=np.uint8) for k in range(5)]
    merged, whole = merge_stats([camera_stats(part) for part in frames]), camera_stats(np.concatenate(frames))
    for name in QUANTILE_NAMES:
        assert np.abs(merged[name] - whole[name]).max() < 0.03, name


def test_statistics_of_a_dataset_that_lerobot_wrote() -> None:
    """Ours are exact where LeRobot's come from histograms: the same but for the width of a bin, quantiles excepted."""
    root = LEROBOT / "two_task_h264"
    dataset, theirs, info = LeRobotDataset(root), load_stats(root), load_info(root)
    episodes = [episode_stats(row) for row in load_episodes(root).to_pylist()]
    columns = {name: dataset.column(name) for name in info.numeric}
    ours = overall_stats(episodes, columns, info.features)
    assert ours.keys() == theirs.keys()
    for feature, stats in ours.items():
        for name in ("min", "max", "mean", "std", "count"):
            assert stats[name].shape == theirs[feature][name].shape
            assert np.allclose(stats[name], theirs[feature][name], rtol=1e-4, atol=1e-5), (feature, name)
    for number, stats in enumerate(episodes):
        begin, end = (bounds[number] for bounds in dataset.episode_bounds)
        exact = numeric_stats(dataset.column("action")[begin:end])
        width = (exact["max"] - exact["min"]).max()
        for name in QUANTILE_NAMES:
            assert np.abs(stats["action"][name] - exact[name]).max() < 0.05 * width, name


@pytest.mark.parametrize(("length", "samples"), [(1, 1), (100, 100), (101, 100), (10_000, 1000)])
def test_lerobots_sample_of_an_episode(length: int, samples: int) -> None:
    indices = sample_indices(length)
    assert (len(indices), indices[0], indices[-1]) == (samples, 0, length - 1)


def test_nothing_has_no_statistics() -> None:
    for empty in (lambda: numeric_stats(np.empty((0, 3))), lambda: camera_stats([]), lambda: merge_stats([])):
        with pytest.raises(DatasetError, match="at least one"):
            empty()
