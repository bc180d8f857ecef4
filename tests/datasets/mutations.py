"""Ways to break a dataset, each a function of its root, or one that makes such a function."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from recordings import change_info, change_table, picture, record, set_cells

from lerobot_ops.datasets.histograms import HISTOGRAMS_PATH, load_histogram_file, write_histograms
from lerobot_ops.datasets.language import language_array, language_type
from lerobot_ops.datasets.statistics import Histogram
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video_writer import encode
from lerobot_ops.datasets.writing.writer import DatasetWriter

Mutation = Callable[[Path], object]

FRONT, WRIST, DEPTH = (f"observation.images.{name}" for name in ("front", "wrist", "depth"))
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"
HISTOGRAMS = HISTOGRAMS_PATH.format(chunk_index=0, file_index=0)
TASKS, STATS, INFO = "meta/tasks.parquet", "meta/stats.json", "meta/info.json"
NAN = float("nan")


def second(file: str) -> str:
    """The name of the file that follows the first one."""
    return file.replace("file-000", "file-001")


def all_of(*mutations: Mutation) -> Mutation:
    def change(root: Path) -> None:
        for mutation in mutations:
            mutation(root)

    return change


def info(**fields: object) -> Mutation:
    return lambda root: change_info(root, **fields)


def without_info(name: str) -> Mutation:
    def change(root: Path) -> None:
        content = json.loads((root / INFO).read_text())
        del content[name]
        (root / INFO).write_text(json.dumps(content))

    return change


def feature(name: str, **fields: object) -> Mutation:
    def change(root: Path) -> None:
        features = json.loads((root / INFO).read_text())["features"]
        features[name] = features.get(name, {}) | fields
        change_info(root, features=features)

    return change


def without_feature(name: str) -> Mutation:
    def change(root: Path) -> None:
        features = json.loads((root / INFO).read_text())["features"]
        change_info(root, features={key: value for key, value in features.items() if key != name})

    return change


def feature_info(name: str, **fields: object) -> Mutation:
    """Change the `info` block of a feature; None removes an entry. Dots in names are written `__`."""

    def change(root: Path) -> None:
        features = json.loads((root / INFO).read_text())["features"]
        block = features[name]["info"] | {field.replace("__", "."): value for field, value in fields.items()}
        features[name]["info"] = {field: value for field, value in block.items() if value is not None}
        change_info(root, features=features)

    return change


def stats(name: str, **statistics: object) -> Mutation:
    """Change statistics of a feature in stats.json; None removes one."""

    def change(root: Path) -> None:
        content = json.loads((root / STATS).read_text())
        kept = {key: value for key, value in (content[name] | statistics).items() if value is not None}
        (root / STATS).write_text(json.dumps(content | {name: kept}))

    return change


def without_stats(name: str) -> Mutation:
    def change(root: Path) -> None:
        content = json.loads((root / STATS).read_text())
        del content[name]
        (root / STATS).write_text(json.dumps(content))

    return change


def cells(file: str, name: str, values: dict[int, object]) -> Mutation:
    return lambda root: change_table(root / file, set_cells(name, values))


def column(file: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    """Change a column of vectors or numbers as an array [rows, ...]."""

    def mutate(root: Path) -> None:
        values = change(np.array(pq.read_table(root / file).column(name).to_pylist()))
        change_table(root / file, set_cells(name, dict(enumerate(values.tolist()))))

    return mutate


def rows(file: str, order: list[int]) -> Mutation:
    return lambda root: change_table(root / file, lambda table: table.take(order))


def drop(file: str, *names: str) -> Mutation:
    return lambda root: change_table(root / file, lambda table: table.drop(list(names)))


def cast(file: str, name: str, kind: pa.DataType) -> Mutation:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, table.column(name).cast(kind))

    return lambda root: change_table(root / file, change)


def add_column(file: str, name: str) -> Mutation:
    return lambda root: change_table(
        root / file, lambda table: table.append_column(name, pa.array(range(table.num_rows)))
    )


def write(file: str, content: bytes) -> Mutation:
    return lambda root: (root / file).write_bytes(content)


def remove(file: str) -> Mutation:
    return lambda root: (root / file).unlink()


def truncate(file: str, share: float) -> Mutation:
    return lambda root: os.truncate(root / file, int((root / file).stat().st_size * share))


def copy(file: str, target: str) -> Mutation:
    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, root / target)

    return change


def move(file: str, target: str) -> Mutation:
    return lambda root: (root / file).rename(root / target)


def folder(name: str) -> Mutation:
    return lambda root: (root / name).mkdir()


def without_footer(file: str) -> Mutation:
    """What a writer leaves that was killed: all pages, and no footer."""

    def change(root: Path) -> None:
        content = (root / file).read_bytes()
        os.truncate(root / file, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))

    return change


def second_half_in_another_file(root: Path) -> None:
    """Episode 3 is in a second data file, but the episodes table does not say so."""
    pq.write_table(pq.read_table(root / DATA).slice(39), root / second(DATA))
    rows(DATA, list(range(39)))(root)


def null_vector(root: Path) -> None:
    cast(DATA, "action", pa.list_(pa.float32()))(root)
    cells(DATA, "action", {13: None})(root)


def two_widths(root: Path) -> None:
    cast(DATA, "action", pa.list_(pa.float32()))(root)
    cells(DATA, "action", {13: [0.0, 0.5, 1.0]})(root)


def garble(file: str, at: float, count: int = 200) -> Mutation:
    """Overwrite bytes of a file with noise."""

    def change(root: Path) -> None:
        content = bytearray((root / file).read_bytes())
        begin = int(len(content) * at)
        content[begin : begin + count] = np.random.default_rng(0).bytes(count)
        (root / file).write_bytes(content)

    return change


def pictures(shown: Callable[[int, int], np.ndarray], crf: int = 30, fps: int = 10) -> Mutation:
    """Encode the video of the first camera anew: `shown(episode, frame)` for episodes of 12 to 15 frames."""

    def change(root: Path) -> None:
        frames = np.stack([shown(episode, frame) for episode in range(4) for frame in range(12 + episode)])
        encode(root / VIDEO, frames, fps, VideoEncoding(vcodec="h264", crf=crf))

    return change


def new_video(count: int, size: int = 1, fps: int = 10, vcodec: str = "h264") -> Mutation:
    def change(root: Path) -> None:
        frames = np.stack([picture(0, number)[::size, ::size] for number in range(count)])
        encode(root / VIDEO, frames, fps, VideoEncoding(vcodec=vcodec))

    return change


def dropped_frame(root: Path) -> None:
    """The video of episode 1 has 12 of 13 frames, and the episodes behind it follow at once."""
    shown = [(episode, frame) for episode in range(4) for frame in range(12 + episode)]
    shown.remove((1, 6))
    encode(root / VIDEO, np.stack([picture(*each) for each in shown]), 10, VideoEncoding(vcodec="h264"))
    cells(EPISODES, f"videos/{FRONT}/from_timestamp", {2: 2.4, 3: 3.8})(root)
    cells(EPISODES, f"videos/{FRONT}/to_timestamp", {1: 2.4, 2: 3.8, 3: 5.3})(root)


def break_packets(root: Path) -> None:
    """Overwrite the packets of the video's second half; the list of packets stays whole."""
    content = bytearray((root / VIDEO).read_bytes())
    begin = content.index(b"mdat") + 4
    middle = begin + (len(content) - begin) // 2
    content[middle:] = np.random.default_rng(0).bytes(len(content) - middle)
    (root / VIDEO).write_bytes(content)


def image(row: int, content: bytes | None) -> Mutation:
    return cells(DATA, WRIST, {row: {"bytes": content, "path": "frame-000000.png"}})


def language(name: str, row: int, said: list[dict]) -> Mutation:
    """Put other rows of language into a cell."""

    def change(table: pa.Table) -> pa.Table:
        column = table.column(name).to_pylist()
        kept = [field.name for field in language_type(name).value_type]
        column[row] = [{field: each.get(field) for field in kept} for each in said]
        return table.set_column(table.column_names.index(name), name, language_array(name, column))

    return lambda root: change_table(root / DATA, change)


def counts_of_other_pixels(root: Path) -> None:
    found = load_histogram_file(root / HISTOGRAMS)
    found[2][FRONT] = Histogram(found[2][FRONT].counts[:, ::-1].copy(), found[2][FRONT].frames)
    write_histograms(root / HISTOGRAMS, list(found.items()))


def counts_of_another_episode(root: Path) -> None:
    found = load_histogram_file(root / HISTOGRAMS)
    write_histograms(root / HISTOGRAMS, [*found.items(), (9, found[0])])


def recorded_anew(tasks: list[str], frames: int) -> Mutation:
    """Another recording without cameras in the dataset's place."""

    def change(root: Path) -> None:
        shutil.rmtree(root)
        record(root, tasks, frames=frames, cameras={})

    return change


def another_episode(frames: int) -> Mutation:
    """A further episode behind those of `recorded_anew`."""
    rng = np.random.default_rng(9)
    states, actions = rng.normal(size=(frames, 3)), rng.normal(size=(frames, 2))
    return lambda root: _add_episode(root, states, actions, [0.0] * frames, [True] * frames)


def first_episode_again(root: Path) -> None:
    """The frames of episode 0 once more, at the end of a recording of `recorded_anew`."""
    table = pq.read_table(root / DATA, filters=[("episode_index", "=", 0)])
    names = ("observation.state", "action", "next.reward", "next.success")
    _add_episode(root, *(table.column(name).to_pylist() for name in names))


def _add_episode(root: Path, states: Sequence, actions: Sequence, rewards: Sequence, successes: Sequence) -> None:
    with DatasetWriter.resume(root) as writer:
        for state, action, reward, success in zip(states, actions, rewards, successes, strict=True):
            numbers = {"observation.state": state, "action": action, "next.reward": [reward]}
            frame = {name: np.array(value, np.float32) for name, value in numbers.items()}
            writer.add_frame(frame | {"next.success": np.array([success]), "task": "push"})
        writer.save_episode()
