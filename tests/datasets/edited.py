"""What every edited dataset is held to."""

from pathlib import Path

import numpy as np

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.statistics import numeric_stats
from lerobot_ops.datasets.tables import column_array, episode_stats, load_data, load_episodes, load_stats
from lerobot_ops.datasets.validation.validate import ValidateConfig, validate


def sound(root: Path) -> None:
    report = validate(root, config=ValidateConfig(skip=["duplicate-episodes", "constant-dimension"]))
    assert not report.findings, report.markdown()


def same_statistics_as_recomputed(root: Path) -> None:
    info, data = load_info(root), load_data(root)
    rows, overall = load_episodes(root).to_pylist(), load_stats(root)
    assert set(overall) == {name for name, feature in info.features.items() if feature.is_numeric or feature.is_camera}
    for name, feature in info.numeric.items():
        values = column_array(data.column(name), feature)
        parts = [(overall[name], values)]
        parts += [
            (episode_stats(row)[name], values[row["dataset_from_index"] : row["dataset_to_index"]]) for row in rows
        ]
        for found, part in parts:
            expected = numeric_stats(part)
            assert found.keys() == expected.keys()
            for statistic in expected:
                np.testing.assert_allclose(
                    found[statistic], expected[statistic], rtol=1e-12, err_msg=f"{name} {statistic}"
                )
