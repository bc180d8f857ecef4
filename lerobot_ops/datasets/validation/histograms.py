"""Checks of `meta/histograms`: the pixel counts that keep statistics exact are those behind the statistics."""

from collections.abc import Iterator

import numpy as np

from lerobot_ops.datasets.editing.cameras import level_values
from lerobot_ops.datasets.histograms import Histogram, fits, load_histogram_file
from lerobot_ops.datasets.validation.checks import Finding, counted, finding, listed
from lerobot_ops.datasets.validation.evidence import Evidence
from lerobot_ops.errors import DatasetError

_REMAKE = "nothing is lost: edits merge the statistics instead; `lerobot-ops repair` counts the pixels anew"


def check_histograms(evidence: Evidence) -> Iterator[Finding]:
    """All checks of this module; a dataset without pixel counts passes."""
    stats = _camera_stats(evidence)
    wrong: dict[str, list[int]] = {}
    beyond: list[int] = []
    for path in sorted(evidence.root.glob("meta/histograms/*/*.parquet")):
        name = path.relative_to(evidence.root).as_posix()
        try:
            found = load_histogram_file(path)
        except (DatasetError, ValueError, AttributeError) as error:
            message = f"{name} cannot be read: {str(error).splitlines()[0]}"
            yield finding("histograms", message, place=name, fix=_REMAKE)
            continue
        for episode, histograms in found.items():
            if evidence.episodes is not None and episode >= evidence.episodes.num_rows:
                beyond.append(episode)
                continue
            for key, histogram in histograms.items():
                if not _agrees(evidence, key, episode, histogram, stats):
                    wrong.setdefault(key, []).append(episode)
    for key, episodes in wrong.items():
        message = f"the pixel counts of {key!r} are not those of the statistics of {counted(len(episodes), 'episode')}"
        yield finding("histograms", message, place=f"meta/histograms {key}", fix=_REMAKE, episodes=episodes)
    if beyond:
        message = f"there are pixel counts of episodes that do not exist: {listed(beyond)}"
        yield finding("histograms", message, place="meta/histograms", fix=_REMAKE)


def _camera_stats(evidence: Evidence) -> dict[str, list[dict[str, np.ndarray]]]:
    """Camera -> the statistics of each episode that `fits` compares."""
    table, found = evidence.episodes, {}
    for key in evidence.info.camera_keys if table is not None else ():
        assert table is not None
        names = [name for name in ("count", "min", "max", "mean") if f"stats/{key}/{name}" in table.column_names]
        columns = [table.column(f"stats/{key}/{name}").to_pylist() for name in names]
        found[key] = [
            {name: np.atleast_1d(np.array(cell)) for name, cell in zip(names, cells, strict=True) if cell is not None}
            for cells in zip(*columns, strict=True)
        ]
    return found


def _agrees(
    evidence: Evidence,
    key: str,
    episode: int,
    histogram: Histogram,
    stats: dict[str, list[dict[str, np.ndarray]]],
) -> bool:
    feature = evidence.info.features.get(key)
    if feature is None or not feature.is_camera:
        return False
    if episode >= len(stats.get(key, [])):
        return True  # there is nothing to compare with; other checks say so
    if histogram.frames < 1 or not histogram.counts.sum(1).all():
        return False
    return fits(histogram, level_values(feature), stats[key][episode])
