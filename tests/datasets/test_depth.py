"""Depth as 12-bit levels: the same levels and distances as LeRobot's."""

import hashlib

import numpy as np
import pytest

from lerobot_ops.datasets.videos.depth import LEVELS, DepthRange


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def test_levels_and_distances_are_those_of_lerobot() -> None:
    """The digests are of what LeRobot 0.6.1 computes for all 16-bit millimetres and for all levels."""
    assert digest(DepthRange().levels(np.arange(65536, dtype=np.uint16), "mm")) == "a9e0fa8887fcf6d3"
    assert digest(DepthRange().table("mm")) == "1dedbcd83894e56c"


@pytest.mark.parametrize("use_log", [True, False])
@pytest.mark.parametrize("unit", ["m", "mm"])
def test_a_distance_comes_back_within_a_level(use_log: bool, unit: str) -> None:
    depth = DepthRange(use_log=use_log)
    scale = 1000 if unit == "mm" else 1
    distances = np.linspace(0.01, 10, 50_000) * scale
    step = np.diff(depth.table(unit)).max()
    assert np.abs(depth.distances(depth.levels(distances, unit), unit) - distances).max() <= step
    table = depth.table("m")
    assert (np.diff(table) > 0).all()
    assert np.array_equal(depth.levels(table, "m"), np.arange(LEVELS))


def test_distances_outside_of_the_range_are_at_its_ends() -> None:
    depth = DepthRange()
    assert depth.levels(np.array([0, 5, 10, 10_000, 60_000]), "mm").tolist() == [0, 0, 0, LEVELS - 1, LEVELS - 1]


def test_the_range_is_kept_in_the_info_of_the_feature() -> None:
    depth = DepthRange(depth_max=4, use_log=False)
    assert DepthRange.of(depth.info()) == depth
    assert DepthRange.of({"is_depth_map": True}) == DepthRange()
