"""What the page of an episode shows: its plots, its tables of statistics, and its facts."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lerobot_ops.config import Config
from lerobot_ops.datasets.info import Feature
from lerobot_ops.datasets.tables import Stats
from lerobot_ops.datasets.validation.checks import counted
from lerobot_ops.datasets.viewing.episode import EpisodeView, dimension_names

STATE, ACTION = "observation.state", "action"
MOST_DIMENSIONS = 512
"""An array with more numbers in a frame is shown as their mean, least and greatest."""
MOST_PLOTS = 48
"""A longer group is folded at first."""
LINES_PER_PLOT = 8
"""Lines in one plot of a feature that has more than `SINGLE_PLOTS` dimensions."""
SINGLE_PLOTS = 24


class Line(Config):
    """One line of a plot."""

    feature: str
    name: str
    """The dimension's name."""
    values: str
    """Base64 of one little-endian number per frame: the table's own, exact and with its NaNs."""
    dtype: str
    """float32 or float64."""
    steps: bool
    """Whether a value holds until the next frame: flags and counters."""


class Plot(Config):
    """Lines over the same time and values."""

    title: str
    lines: list[Line]


class Group(Config):
    """Plots that belong together."""

    title: str
    plots: list[Plot]
    note: str = ""
    folded: bool = False
    paired: bool = False
    """Whether each plot has a line of the state, of the action, or both."""


def plot_groups(view: EpisodeView) -> list[Group]:
    """State and action first, those dimensions that have the same name in one plot; then scalars, then the others."""
    features = dict(view.vectors)
    scalars = {name: feature for name, feature in features.items() if feature.shape == (1,)}
    groups = []
    if STATE in features and ACTION in features:
        paired = _paired(view, features[STATE], features[ACTION])
        if paired:
            groups.append(_group("State and action", paired, paired=True))
            del features[STATE], features[ACTION]
    first = [name for name in (STATE, ACTION) if name in features]
    others = [name for name in features if name not in first and name not in scalars]
    for name in first:
        scalars.pop(name, None)
        groups.append(_feature_group(view, name))
    if alone := [name for name in scalars if name in features]:
        groups.append(_group("Signals", [_plot(name, [_line(name, name, view.column(name))]) for name in alone]))
    return groups + [_feature_group(view, name) for name in others]


def _paired(view: EpisodeView, state: Feature, action: Feature) -> list[Plot]:
    """A plot per dimension of state and action; empty when no name is in both."""
    if max(int(np.prod(state.shape)), int(np.prod(action.shape))) > MOST_DIMENSIONS:
        return []
    lines = {STATE: dict(_lines(view, STATE)), ACTION: dict(_lines(view, ACTION))}
    names = list(dict.fromkeys([*lines[STATE], *lines[ACTION]]))
    if not lines[STATE].keys() & lines[ACTION].keys():
        return []
    return [_plot(name, [of[name] for of in lines.values() if name in of]) for name in names]


def _feature_group(view: EpisodeView, name: str) -> Group:
    lines = [line for _, line in _lines(view, name)]
    count = int(np.prod(view.info.features[name].shape))
    if count > MOST_DIMENSIONS:
        note = f"{count:,} numbers a frame: their mean, least and greatest"
        return Group(title=name, plots=[_plot(name, lines)], note=note)
    if len(lines) <= SINGLE_PLOTS:
        return _group(name, [_plot(line.name, [line]) for line in lines])
    parts = [lines[start : start + LINES_PER_PLOT] for start in range(0, len(lines), LINES_PER_PLOT)]
    return _group(name, [_plot(f"{part[0].name} to {part[-1].name}", part) for part in parts])


def _group(title: str, plots: list[Plot], paired: bool = False) -> Group:
    return Group(title=title, plots=plots, folded=len(plots) > MOST_PLOTS, paired=paired)


def _plot(title: str, lines: list[Line]) -> Plot:
    return Plot(title=title, lines=lines)


def _lines(view: EpisodeView, name: str) -> Iterator[tuple[str, Line]]:
    """(Dimension's name, its line) in order."""
    values = view.column(name).reshape(view.frames, -1)
    if values.shape[1] > MOST_DIMENSIONS:
        with np.errstate(invalid="ignore"):
            wide = values.astype(np.float64)
            summary = {"mean": wide.mean(1), "least": wide.min(1), "greatest": wide.max(1)}
        yield from ((key, _line(name, key, column.astype(np.float32))) for key, column in summary.items())
        return
    for place, dimension in enumerate(dimension_names(view.info.features[name])):
        yield dimension, _line(name, dimension, values[:, place])


def _line(feature: str, name: str, values: np.ndarray) -> Line:
    """float32 and smaller floats as float32; everything else as float64, which holds what a plot can tell apart."""
    dtype = "float32" if values.dtype in (np.float32, np.float16) else "float64"
    steps = values.dtype.kind in "biu"
    content = np.ascontiguousarray(values.reshape(len(values)), dtype=np.dtype(dtype).newbyteorder("<")).tobytes()
    return Line(feature=feature, name=name, values=base64.b64encode(content).decode(), dtype=dtype, steps=steps)


class StatisticsRow(NamedTuple):
    """One dimension: (min, q01, mean, std, q99, max) of the dataset, (min, mean, std, max) of the episode."""

    name: str
    dataset: list[str]
    episode: list[str]


class StatisticsTable(NamedTuple):
    """One feature's statistics."""

    feature: str
    kind: str
    rows: list[StatisticsRow]


DATASET_COLUMNS = ("min", "q01", "mean", "std", "q99", "max")
EPISODE_COLUMNS = ("min", "mean", "std", "max")


def statistics_tables(view: EpisodeView, cameras: Sequence[str]) -> list[StatisticsTable]:
    """The stored statistics of what the page shows; those of an episode that has none are computed."""
    whole, own = view.statistics()
    tables = []
    for name in [*view.vectors, *cameras]:
        feature = view.info.features[name]
        kind = f"{feature.dtype} {list(feature.shape)}"
        if feature.is_camera:
            channels = feature.size[2]
            names = ["red", "green", "blue"] if channels == 3 else [str(place) for place in range(channels)]
        else:
            names = dimension_names(feature) if feature.shape != (1,) else ["value"]
        if len(names) > MOST_DIMENSIONS:
            continue
        dataset = [_cells(whole, name, column, len(names)) for column in DATASET_COLUMNS]
        episode = [_cells(own, name, column, len(names)) for column in EPISODE_COLUMNS]
        rows = [
            StatisticsRow(dimension, [cells[place] for cells in dataset], [cells[place] for cells in episode])
            for place, dimension in enumerate(names)
        ]
        tables.append(StatisticsTable(name, kind, rows))
    return tables


def _cells(stats: Stats, feature: str, column: str, count: int) -> list[str]:
    """One statistic as `count` texts; a dash where it is not stored in this size."""
    values = stats.get(feature, {}).get(column)
    if values is None or values.size != count or values.dtype == object:
        return ["–"] * count
    return [f"{float(value):.4g}" for value in values.reshape(-1)]


def facts(view: EpisodeView) -> dict[str, str]:
    """What there is to say about an episode, name to text."""
    seconds = view.frames / view.fps
    row = view.row
    found = {
        "length": f"{counted(view.frames, 'frame')}, {seconds:.2f} s at {view.fps} fps",
        "robot": view.info.robot_type or "not stated",
        "rows": f"{row['dataset_from_index']:,} to {row['dataset_to_index'] - 1:,} of {view.info.total_frames:,}",
        "data": view.data_file,
    }
    for camera in view.info.video_keys:
        part = view.video(camera)
        found[camera] = f"{part.path.relative_to(view.root)} from {part.from_timestamp:.3f} s"
    return found | {name: _short(value) for name, value in row.items() if _is_extra(name) and value is not None}


def _is_extra(name: str) -> bool:
    """Whether a column of the episodes table is none of the format's own."""
    known = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
    return name not in known and not name.startswith(("stats/", "videos/", "data/", "meta/"))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]} …"
