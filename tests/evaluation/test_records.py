"""Records on disk: whole lines survive a crash at any byte."""

import json

import pytest

from lerobot_ops.errors import ArtifactError
from lerobot_ops.evaluation.records import Record, RecordLog, read_records, write_records


def record(**values) -> Record:
    usual = {
        "task": "reach-v3",
        "episode": 0,
        "seed": 7,
        "init_state": None,
        "success": True,
        "error": None,
        "steps": 3,
    }
    usual |= {"sum_reward": 1.5, "max_reward": 1.0, "observation": "ab" * 8, "seconds": 0.5, "worker": 0, "attempt": 1}
    return Record(**{**usual, **values})


def test_records_come_back_as_they_were_appended(tmp_path):
    path = tmp_path / "records.jsonl"
    written = [record(episode=0, sum_reward=0.1 + 0.2), record(episode=1, success=False, error="it died ☠\nbadly")]
    with RecordLog(path) as log:
        for one in written:
            log.append(one)
            assert read_records(path)[-1] == one
    assert read_records(path) == written
    with RecordLog(path) as log:
        assert log.records == written


def test_a_line_that_a_crash_tore_at_any_byte_is_written_again(tmp_path):
    path = tmp_path / "records.jsonl"
    first, second, third = (record(episode=number) for number in range(3))
    write_records(path, [first])
    intact = path.read_bytes()
    write_records(path, [second])
    torn = path.read_bytes()
    for length in range(len(torn)):
        path.write_bytes(intact + torn[:length])
        assert read_records(path) == [first]
        with RecordLog(path) as log:
            assert log.records == [first]
            log.append(third)
        assert read_records(path) == [first, third]


@pytest.mark.parametrize("line", ['{"task": "reach-v3"', '{"task": "reach-v3"}', "[]", "null"])
def test_a_bad_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "records.jsonl"
    write_records(path, [record()])
    path.write_text(f"{path.read_text()}{line}\n{path.read_text()}")
    with pytest.raises(ArtifactError, match="line 2") as caught:
        read_records(path)
    assert caught.value.file == path


def test_no_records(tmp_path):
    with pytest.raises(ArtifactError, match="no episode records"):
        read_records(tmp_path / "records.jsonl")


def test_an_outcome_leaves_out_what_may_differ():
    assert record(seconds=1.0, worker=1, attempt=2).outcome() == record(seconds=3.0).outcome()
    assert record(sum_reward=1.0).outcome() != record(sum_reward=2.0).outcome()


def test_a_number_that_json_lacks_is_refused(tmp_path):
    with RecordLog(tmp_path / "records.jsonl") as log, pytest.raises(ValueError, match="not JSON compliant"):
        log.append(record(sum_reward=float("nan")))
    assert [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()] == []
