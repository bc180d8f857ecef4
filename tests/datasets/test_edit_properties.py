"""Any sequence of recording, deleting, splitting, merging and trimming, compared with a model in plain Python.

The model keeps every frame of an episode as values; what a dataset holds, its numbers and its statistics follow from
these alone.
"""

import functools
import io
import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
from PIL import Image
from recordings import change_info, frames_of, record

from lerobot_ops.datasets.editing.edit import delete_episodes, merge, rechunk, split, trim
from lerobot_ops.datasets.histograms import load_histograms
from lerobot_ops.datasets.info import DEFAULT_FEATURES, load_info
from lerobot_ops.datasets.statistics import CameraStats, Histogram, numeric_stats
from lerobot_ops.datasets.tables import column_array, episode_stats, load_data, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.validation.validate import ValidateConfig, validate

VIDEO, IMAGE = "observation.images.front", "observation.images.wrist"
NUMERIC = ("observation.state", "action", "next.reward", "next.success")
TASKS = ("push", "pull", "lift")
FPS = 10
QUALITY = ["duplicate-episodes", "constant-dimension", "frozen-camera"]
"""What validation may find in such small recordings, merged with themselves."""


@dataclass(frozen=True)
class Episode:
    """What the model knows of an episode."""

    task: str
    numeric: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]
    """Per camera as they decode: uint8 [frames, height, width, 3]."""
    counts: dict[str, Histogram]

    @property
    def frames(self) -> int:
        return len(self.numeric["action"])

    def part(self, begin: int, end: int) -> "Episode":
        """These frames of it; the statistics of its cameras follow from them."""
        if end - begin == self.frames:
            return self
        pictures = {key: values[begin:end] for key, values in self.pictures.items()}
        numeric = {name: values[begin:end] for name, values in self.numeric.items()}
        return Episode(self.task, numeric, pictures, {key: counted(values) for key, values in pictures.items()})


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk, and the episodes that it should have."""

    root: Path
    episodes: tuple[Episode, ...]


def counted(pictures: np.ndarray) -> Histogram:
    stats = CameraStats()
    for picture in pictures:
        stats.add(picture)
    return stats.histogram()


def images_of(root: Path, begin: int, end: int) -> np.ndarray:
    cells = load_data(root, [IMAGE]).column(IMAGE).slice(begin, end - begin).to_pylist()
    return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])


@functools.cache
def recorded(seed: int, episodes: int, folder: Path) -> Dataset:
    """A recording with a video and an image camera; the pixels of its video are counted before they are encoded."""
    root = folder / f"recorded-{seed}-{episodes}"
    tasks = [TASKS[(seed + number) % 3] for number in range(episodes)]
    record(root, tasks, frames=5 + seed, seed=seed, cameras={VIDEO: "video", IMAGE: "image"}, fps=FPS)
    change_info(root, chunks_size=2, video_files_size_in_mb=1, data_files_size_in_mb=1)
    info, data, histograms = load_info(root), load_data(root), load_histograms(root)
    made = []
    for number, row in enumerate(load_episodes(root).to_pylist()):
        begin, end = row["dataset_from_index"], row["dataset_to_index"]
        numeric = {name: column_array(data.column(name), info.features[name])[begin:end] for name in NUMERIC}
        pictures = {VIDEO: frames_of(root, number, VIDEO), IMAGE: images_of(root, begin, end)}
        made.append(Episode(tasks[number], numeric, pictures, histograms[number]))
    return Dataset(root, tuple(made))


def check(dataset: Dataset) -> Dataset:
    """Compare everything on disk with the model."""
    root, episodes = dataset.root, dataset.episodes
    report = validate(root, config=ValidateConfig(skip=QUALITY))
    assert not [finding for finding in report.findings if finding.severity == "error"], report.markdown()
    info, data, rows, tasks = load_info(root), load_data(root), load_episodes(root).to_pylist(), load_tasks(root)
    assert (info.total_episodes, info.chunks_size) == (len(episodes), 2)
    assert sorted(tasks) == sorted({episode.task for episode in episodes})
    columns = expected_columns(episodes, tasks)
    assert set(columns) == set(info.numeric)
    for name, expected in columns.items():
        np.testing.assert_array_equal(column_array(data.column(name), info.features[name]), expected, err_msg=name)
    bounds = list(itertools.pairwise(itertools.accumulate((e.frames for e in episodes), initial=0)))
    overall = load_stats(root)
    assert set(overall) == {*columns, VIDEO, IMAGE}
    for name, expected in columns.items():
        same_statistics(overall[name], numeric_stats(expected), name)
    for key in (VIDEO, IMAGE):
        whole = functools.reduce(Histogram.__add__, (episode.counts[key] for episode in episodes))
        same_statistics(overall[key], whole.stats(), key)
    for number, (episode, row, (begin, end)) in enumerate(zip(episodes, rows, bounds, strict=True)):
        assert (row["episode_index"], row["tasks"]) == (number, [episode.task])
        assert (row["dataset_from_index"], row["dataset_to_index"], row["length"]) == (begin, end, episode.frames)
        own = episode_stats(row)
        for name, expected in columns.items():
            same_statistics(own[name], numeric_stats(expected[begin:end]), f"{name} of {number}")
        for key in (VIDEO, IMAGE):
            same_statistics(own[key], episode.counts[key].stats(), f"{key} of {number}")
        np.testing.assert_array_equal(frames_of(root, number, VIDEO), episode.pictures[VIDEO])
        np.testing.assert_array_equal(images_of(root, begin, end), episode.pictures[IMAGE])
    return dataset


def expected_columns(episodes: tuple[Episode, ...], tasks: list[str]) -> dict[str, np.ndarray]:
    """The numeric columns of the data."""
    lengths = [episode.frames for episode in episodes]
    frames = np.concatenate([np.arange(length) for length in lengths])
    columns = {name: np.concatenate([episode.numeric[name] for episode in episodes]) for name in NUMERIC}
    columns |= {
        "timestamp": (frames / FPS).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.repeat(np.arange(len(episodes)), lengths),
        "index": np.arange(sum(lengths)),
        "task_index": np.repeat([tasks.index(episode.task) for episode in episodes], lengths),
    }
    assert columns.keys() - set(NUMERIC) == DEFAULT_FEATURES.keys()
    return columns


def same_statistics(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], what: str) -> None:
    assert found.keys() == expected.keys(), what
    for statistic, value in expected.items():
        assert found[statistic].shape == value.shape
        np.testing.assert_allclose(found[statistic], value, rtol=1e-12, atol=1e-12, err_msg=f"{what}: {statistic}")


class AnySequence(RuleBasedStateMachine):
    """Every dataset that a step makes is checked, and can be edited by the steps that follow."""

    datasets = Bundle("datasets")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.made = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def target(self) -> Path:
        self.made += 1
        return self.folder / f"edited-{self.made}"

    @initialize(target=datasets, seed=st.integers(0, 2), episodes=st.integers(2, 4))
    def begin(self, seed: int, episodes: int) -> Dataset:
        return recorded(seed, episodes, recordings_folder())

    @rule(target=datasets, seed=st.integers(0, 2), episodes=st.integers(1, 4))
    def record(self, seed: int, episodes: int) -> Dataset:
        return recorded(seed, episodes, recordings_folder())

    @rule(target=datasets, dataset=datasets, data=st.data())
    def delete(self, dataset: Dataset, data: st.DataObject) -> Dataset:
        total = len(dataset.episodes)
        gone = data.draw(st.sets(st.integers(0, total - 1), max_size=total - 1))
        result = delete_episodes(dataset.root, self.target(), sorted(gone))
        return check(Dataset(result.path, tuple(e for n, e in enumerate(dataset.episodes) if n not in gone)))

    @rule(target=datasets, dataset=datasets, cut=st.floats(0.2, 0.8))
    def split(self, dataset: Dataset, cut: float) -> Dataset:
        first = int(len(dataset.episodes) * cut + 1e-9)
        if not first:
            return multiple()
        parts = self.target()
        split(dataset.root, {name: parts / name for name in "ab"}, {"a": cut, "b": 1 - cut})
        halves = dataset.episodes[:first], dataset.episodes[first:]
        return multiple(*(check(Dataset(parts / name, half)) for name, half in zip("ab", halves, strict=True)))

    @rule(target=datasets, parts=st.lists(datasets, min_size=1, max_size=3))
    def merge(self, parts: list[Dataset]) -> Dataset:
        if sum(len(part.episodes) for part in parts) > 12:
            return multiple()
        result = merge([part.root for part in parts], self.target())
        return check(Dataset(result.path, tuple(itertools.chain(*(part.episodes for part in parts)))))

    @rule(target=datasets, dataset=datasets, data=st.data())
    def trim(self, dataset: Dataset, data: st.DataObject) -> Dataset:
        number = data.draw(st.integers(0, len(dataset.episodes) - 1))
        begin = data.draw(st.integers(0, dataset.episodes[number].frames - 1))
        end = data.draw(st.integers(begin + 1, dataset.episodes[number].frames))
        result = trim(dataset.root, self.target(), ranges={number: (begin, end)})
        kept = [episode.part(begin, end) if n == number else episode for n, episode in enumerate(dataset.episodes)]
        return check(Dataset(result.path, tuple(kept)))

    @rule(target=datasets, dataset=datasets)
    def rechunk(self, dataset: Dataset) -> Dataset:
        result = rechunk(dataset.root, self.target(), video_files_size_in_mb=2)
        return check(Dataset(result.path, dataset.episodes))


@functools.cache
def recordings_folder() -> Path:
    """Where the recordings are that all sequences begin with; the operating system removes it."""
    return Path(tempfile.mkdtemp(prefix="lerobot-ops-recordings-"))


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(
    max_examples=10, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
