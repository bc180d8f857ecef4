"""Parquet files that lost their footer: what was written completely is read."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus import annotated
from recordings import LEROBOT, camera, picture

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.repairing.parquet_footer import rows_without_footer
from lerobot_ops.datasets.tables import data_files, data_schema, load_data
from lerobot_ops.datasets.writing.writer import DatasetWriter
from lerobot_ops.errors import DatasetError

WRITTEN = ["button_av1_cut", "images_cut", "two_task_h264"]


def footless(path: Path, share: float, to: Path) -> Path:
    """The first `share` of a file's pages."""
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    to.write_bytes(content[: int((len(content) - footer) * share)])
    return to


@pytest.mark.parametrize("name", WRITTEN)
def test_all_rows_come_back(tmp_path: Path, name: str) -> None:
    info = load_info(LEROBOT / name)
    (path,) = data_files(LEROBOT / name)
    rows = rows_without_footer(footless(path, 1, tmp_path / "cut.parquet"), info.columns)
    schema = data_schema(info.columns)
    assert rows.equals(load_data(LEROBOT / name).select(schema.names).cast(schema))


@pytest.mark.parametrize("share", [0.9, 0.55, 0.3])
def test_complete_row_groups_come_back(tmp_path: Path, share: float) -> None:
    info = load_info(LEROBOT / "two_task_h264")
    (path,) = data_files(LEROBOT / "two_task_h264")
    rows = rows_without_footer(footless(path, share, tmp_path / "cut.parquet"), info.columns)
    with pq.ParquetFile(path) as file:
        end = share * (path.stat().st_size - file.metadata.serialized_size - 8)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    complete = [group for group in groups if _end(group) <= end]
    assert rows.num_rows == sum(group.num_rows for group in complete)
    assert np.array_equal(rows.column("index").to_numpy(), np.arange(rows.num_rows))


def _end(group: pq.RowGroupMetaData) -> int:
    chunk = group.column(group.num_columns - 1)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    return begin + chunk.total_compressed_size


def test_what_a_killed_recording_of_lerobot_left_is_read() -> None:
    info = load_info(LEROBOT / "crashed")
    (path,) = data_files(LEROBOT / "crashed")
    rows = rows_without_footer(path, info.columns)
    assert np.unique(rows.column("episode_index"), return_counts=True)[1].tolist() == [40, 40, 40, 40]


def test_every_kind_of_feature_comes_back(tmp_path: Path) -> None:
    features = {
        "grid": {"dtype": "float32", "shape": [2, 3], "names": None},
        "ready": {"dtype": "bool", "shape": [1], "names": None},
        "note": {"dtype": "string", "shape": [1], "names": None},
        "front": camera("image"),
    }
    with DatasetWriter.create(tmp_path / "made", fps=10, features=features) as writer:
        for episode in range(3):
            for frame in range(5 + episode):
                grid, ready = np.full((2, 3), frame, np.float32), np.array([frame % 2 == 0])
                note, front = f"frame {frame}", picture(episode, frame)
                writer.add_frame({"grid": grid, "ready": ready, "note": note, "front": front, "task": "write"})
            writer.save_episode()
    info = load_info(tmp_path / "made")
    (path,) = data_files(tmp_path / "made")
    rows = rows_without_footer(footless(path, 1, tmp_path / "cut.parquet"), info.columns)
    assert rows.equals(load_data(tmp_path / "made").cast(rows.schema))


def test_language_comes_back(tmp_path: Path) -> None:
    (path,) = data_files(annotated(tmp_path / "made"))
    rows = rows_without_footer(footless(path, 1, tmp_path / "cut.parquet"), load_info(tmp_path / "made").columns)
    assert rows.to_pylist() == load_data(tmp_path / "made").to_pylist()


def test_a_row_group_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    info = load_info(LEROBOT / "two_task_h264")
    (path,) = data_files(LEROBOT / "two_task_h264")
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(3).column(0)
    content = bytearray(footless(path, 1, tmp_path / "cut.parquet").read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 3
    content[middle : middle + 100] = bytes(100)
    (tmp_path / "cut.parquet").write_bytes(content)
    rows = rows_without_footer(tmp_path / "cut.parquet", info.columns)
    assert set(rows.column("episode_index").to_pylist()) >= {0, 1, 2}
    assert rows.num_rows < 960


def test_a_file_without_a_complete_row_group_is_refused(tmp_path: Path) -> None:
    info = load_info(LEROBOT / "two_task_h264")
    (path,) = data_files(LEROBOT / "two_task_h264")
    for content in (b"", b"PAR1", path.read_bytes()[:500], bytes(1000)):
        broken = tmp_path / "broken.parquet"
        broken.write_bytes(content)
        with pytest.raises(DatasetError, match="at least one complete row group"):
            rows_without_footer(broken, info.columns)
