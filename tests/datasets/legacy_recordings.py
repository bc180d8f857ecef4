"""Datasets v2.1 and v2.0 made of v3.0 ones: the same episodes in a parquet and an mp4 each, and JSON lines."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import episode_stats, load_data, load_episodes, load_stats, load_tasks
from lerobot_ops.datasets.videos.video import Piece, cut_and_join

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
QUANTILES = ("q01", "q10", "q50", "q90", "q99")


def make_legacy(source: Path, root: Path, version: str = "v2.1", per_chunk: int = 1000) -> Path:
    """Write the dataset at `source` as `version` into the new directory `root`."""
    info, episodes, data = load_info(source), load_episodes(source).to_pylist(), load_data(source)
    for row in episodes:
        number, chunk = row["episode_index"], row["episode_index"] // per_chunk
        path = root / DATA_PATH.format(episode_chunk=chunk, episode_index=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_as_lists(data.slice(row["dataset_from_index"], row["length"])), path)
        for key in info.video_keys:
            place = (row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index"))
            piece = Piece(source / info.video_file(key, *place), row[f"videos/{key}/from_timestamp"], row["length"])
            video = root / VIDEO_PATH.format(episode_chunk=chunk, episode_index=number, video_key=key)
            cut_and_join([piece], video, info.fps)
    meta = root / "meta"
    meta.mkdir()
    tasks = [{"task_index": index, "task": task} for index, task in enumerate(load_tasks(source))]
    write_lines(meta / "tasks.jsonl", tasks)
    write_lines(
        meta / "episodes.jsonl", [{k: row[k] for k in ("episode_index", "tasks", "length")} for row in episodes]
    )
    if version == "v2.1":
        stats = [{"episode_index": row["episode_index"], "stats": _plain(episode_stats(row))} for row in episodes]
        write_lines(meta / "episodes_stats.jsonl", stats)
    else:
        (meta / "stats.json").write_text(json.dumps(_plain(load_stats(source))))
    content = info.entry() | {"codebase_version": version, "data_path": DATA_PATH, "fps": float(info.fps)}
    content |= {"video_path": VIDEO_PATH if info.video_keys else None, "chunks_size": per_chunk}
    content |= {"total_chunks": 1 + (len(episodes) - 1) // per_chunk, "total_videos": len(episodes)}
    for name in ("data_files_size_in_mb", "video_files_size_in_mb"):
        del content[name]
    (meta / "info.json").write_text(json.dumps(content, indent=4))
    return root


def write_lines(path: Path, entries: list[dict]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _as_lists(table: pa.Table) -> pa.Table:
    """Vectors as lists of any length, which is how v2.1 often has them."""
    fields = [
        pa.field(field.name, pa.list_(field.type.value_type)) if pa.types.is_fixed_size_list(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def _plain(stats: dict[str, dict[str, np.ndarray]]) -> dict:
    return {
        feature: {name: value.tolist() for name, value in found.items() if name not in QUANTILES}
        for feature, found in stats.items()
    }
