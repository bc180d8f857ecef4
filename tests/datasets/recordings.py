"""Small real recordings for the tests of datasets: written by our writer, or by LeRobot (tests/data)."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import DatasetInfo, Feature, load_info, with_defaults, write_info
from lerobot_ops.datasets.joining import default_columns
from lerobot_ops.datasets.statistics import camera_stats, numeric_stats, overall_stats
from lerobot_ops.datasets.tables import load_data, load_episodes, write_data, write_episodes, write_stats, write_tasks
from lerobot_ops.datasets.videos.encoding import VideoEncoding
from lerobot_ops.datasets.videos.video import decode_frames
from lerobot_ops.datasets.writing.writer import DatasetWriter

LEROBOT = Path(__file__).parents[1] / "data"
STATE = {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}
ACTION = {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}
REWARD = {"dtype": "float32", "shape": [1], "names": None}
SUCCESS = {"dtype": "bool", "shape": [1], "names": None}
SIZE = (48, 64, 3)


def camera(dtype: str = "video") -> dict:
    return {"dtype": dtype, "shape": list(SIZE), "names": ["height", "width", "channels"]}


def picture(episode: int, frame: int) -> np.ndarray:
    """A bright square that moves over a gradient."""
    image = np.zeros(SIZE, np.uint8)
    image[..., 0] = np.arange(64) * 3
    image[..., 1] = 40 * (episode % 5)
    image[8:24, (3 * frame) % 48 : (3 * frame) % 48 + 16] = 255
    return image


def record(
    root: Path,
    tasks: list[str],
    *,
    frames: int = 12,
    seed: int = 0,
    cameras: dict[str, str] | None = None,
    fps: int = 10,
    robot_type: str = "arm",
    features: dict | None = None,
    vcodec: str = "h264",
) -> Path:
    """Record an episode per entry of `tasks`: episode k has frames + k frames and reaches success in the last one."""
    cameras = {"observation.images.front": "video"} if cameras is None else cameras
    made = {"observation.state": STATE, "action": ACTION, "next.reward": REWARD, "next.success": SUCCESS}
    made = (made if features is None else features) | {key: camera(dtype) for key, dtype in cameras.items()}
    rng = np.random.default_rng(seed)
    encoding = VideoEncoding(vcodec=vcodec)
    with DatasetWriter.create(root, fps=fps, features=made, robot_type=robot_type, video=encoding) as writer:
        for number, task in enumerate(tasks):
            with writer.episode(number) as episode:
                for frame in range(frames + number):
                    values = {
                        "observation.state": rng.normal(size=3).astype(np.float32),
                        "action": rng.normal(size=2).astype(np.float32),
                        "next.reward": rng.normal(size=1).astype(np.float32),
                        "next.success": np.array([frame == frames + number - 1]),
                    }
                    values = {key: values.get(key, np.ones(2, np.float32)) for key in made if key not in cameras}
                    pictures = {key: picture(number + seed, frame) for key in cameras}
                    episode.add_frame(values | pictures | {"task": task})
    return root


def around_lerobot_av1(root: Path) -> Path:
    """A whole dataset of the AV1 video with four episodes that LeRobot wrote before it was killed (`crashed`)."""
    key, count, length = "observation.images.front", 4, 40
    source = LEROBOT / "crashed"
    info = load_info(source)
    features = with_defaults({"observation.state": STATE, key: info.features[key]})
    info = info.model_copy(update={"features": features})
    shutil.copytree(source / "videos", root / "videos")
    return lay_around(root, info, key, [length] * count)


def lay_around(root: Path, info: DatasetInfo, key: str, lengths: list[int]) -> Path:
    """Write tables for a video file that exists already, its episodes one after the other."""
    rng = np.random.default_rng(0)
    state = info.features["observation.state"]
    rows, tables, columns, begin = [], [], [], 0
    for number, length in enumerate(lengths):
        defaults = default_columns(number, begin, np.zeros(length, np.int64), info.fps)
        columns.append({"observation.state": rng.normal(size=(length, 3)).astype(np.float32)} | defaults)
        values = pa.FixedSizeListArray.from_arrays(pa.array(columns[-1]["observation.state"].reshape(-1)), 3)
        tables.append(pa.table({"observation.state": values} | {k: pa.array(v) for k, v in defaults.items()}))
        path = root / info.video_file(key, 0, 0)
        stats = {name: numeric_stats(columns[-1][name]) for name in info.numeric}
        stats[key] = camera_stats(decode_frames(path, begin / info.fps, range(length), info.fps))
        rows.append(
            {"episode_index": number, "tasks": ["push"], "length": length}
            | {"data/chunk_index": 0, "data/file_index": 0}
            | {"dataset_from_index": begin, "dataset_to_index": begin + length, "stats": stats}
            | {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            | {
                f"videos/{key}/from_timestamp": begin / info.fps,
                f"videos/{key}/to_timestamp": (begin + length) / info.fps,
            }
        )
        begin += length
    assert isinstance(state, Feature)
    write_data(root / info.data_file(0, 0), tables, info.columns)
    write_episodes(root, rows, info)
    write_tasks(root, ["push"])
    whole = {name: np.concatenate([part[name] for part in columns]) for name in info.numeric}
    write_stats(root, overall_stats([row["stats"] for row in rows], whole, info.features))
    totals = {
        "total_episodes": len(rows),
        "total_frames": begin,
        "total_tasks": 1,
        "splits": {"train": f"0:{len(rows)}"},
    }
    write_info(root, info.model_copy(update=totals))
    return root


def write_grey(path: Path, levels: list[np.ndarray], fps: int) -> None:
    """A video of 12-bit levels uint16 [height, width], lossless, as a depth camera's is."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", fps, options={"x265-params": "lossless=1:log-level=error:bframes=0"})
        stream.width, stream.height, stream.pix_fmt = levels[0].shape[1], levels[0].shape[0], "gray12le"
        for number, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(level, format="gray12le")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def lay_rows(root: Path, features: dict, *, episodes: int, frames: int) -> Path:
    """Write a dataset of vectors only, of any size, without statistics, as several data files."""
    info = DatasetInfo(fps=50, video_path=None, features=with_defaults(features))
    rng = np.random.default_rng(0)

    def table(number: int) -> pa.Table:
        columns = {}
        for name in features:
            size = info.features[name].shape[0]
            values = rng.normal(size=frames * size).astype(np.float32)
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values), size)
        defaults = default_columns(number, number * frames, np.zeros(frames, np.int64), info.fps)
        return pa.table(columns | {name: pa.array(values) for name, values in defaults.items()})

    rows = []
    for number in range(episodes):
        begin = number * frames
        write_data(root / info.data_file(0, number), [table(number)], info.columns)
        rows.append({"episode_index": number, "tasks": ["push"], "length": frames})
        rows[-1] |= {"data/chunk_index": 0, "data/file_index": number}
        rows[-1] |= {"dataset_from_index": begin, "dataset_to_index": begin + frames}
    write_episodes(root, rows, info)
    write_tasks(root, ["push"])
    totals = {"total_episodes": episodes, "total_frames": episodes * frames, "total_tasks": 1}
    write_info(root, info.model_copy(update=totals))
    return root


def frames_of(root: Path, episode: int, key: str) -> np.ndarray:
    """All decoded frames of an episode: uint8 [length, height, width, 3]."""
    info, row = load_info(root), load_episodes(root).slice(episode, 1).to_pylist()[0]
    path = root / info.video_file(key, row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"])
    return decode_frames(path, row[f"videos/{key}/from_timestamp"], range(row["length"]), info.fps)


def columns_of(root: Path, names: list[str]) -> dict[str, list]:
    """Columns of the data as Python lists."""
    table = load_data(root, names)
    return {name: table.column(name).to_pylist() for name in names}


def change_table(path: Path, change) -> None:
    """Rewrite a parquet file as `change(table)`."""
    pq.write_table(change(pq.read_table(path)), path)


def set_cells(name: str, values: dict[int, object]):
    """A change for `change_table`: put values into rows of a column."""

    def change(table: pa.Table) -> pa.Table:
        column = table.column(name).to_pylist()
        for row, value in values.items():
            column[row] = value
        place = table.column_names.index(name)
        return table.set_column(place, table.schema.field(name), pa.array(column, table.schema.field(name).type))

    return change


def change_info(root: Path, **fields: object) -> None:
    """Set fields of meta/info.json, however wrong."""
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
