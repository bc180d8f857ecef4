"""Evaluations of sanity policies in the real simulator: records, files, resume, and what goes wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest

from lerobot_ops.errors import ArtifactError, CheckpointError, ConfigError, OpsError, SandboxError
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate
from lerobot_ops.evaluation.records import read_records
from lerobot_ops.evaluation.result import load_result
from lerobot_ops.flags import build

TASK = "button-press-topdown-v3"


def configured(output: Path, **values) -> EvalConfig:
    usual = {"eval": {"n_episodes": 3}, "clips": {"enable": False}, "sandbox": {"type": "venv"}, "output_dir": output}
    return build(EvalConfig, {**usual, **values}, source="a test")


def outcomes(result):
    return [record.outcome() for record in result.records]


def workers() -> set[int]:
    """Process ids of the simulators that this process started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"lerobot_ops.evaluation.worker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    return evaluate(configured(tmp_path_factory.mktemp("expert") / "result", env={"task": f"{TASK},reach-v3"}))


def test_the_expert_solves_its_tasks(expert):
    assert expert.pc_success == 100
    assert (expert.n_episodes, expert.n_errors) == (6, 0)
    assert expert.ci_low == pytest.approx(60.97, abs=0.01)
    assert [score.task for score in expert.per_task] == [TASK, "reach-v3"]
    assert expert.sandbox == "venv"
    assert workers() == set()


def test_episodes_have_their_own_seeds_and_layouts(expert):
    records = expert.records
    assert [(record.task, record.episode, record.seed) for record in records] == [
        (task, number, 1000 + number) for task in (TASK, "reach-v3") for number in range(3)
    ]
    assert len({record.observation for record in records}) == 6
    assert all(0 < record.steps < 500 and record.max_reward > 5 for record in records)


def test_the_folder_holds_lerobots_files_and_ours(expert):
    folder = expert.output_dir
    assert sorted(path.name for path in folder.iterdir()) == [
        "eval_info.json",
        "evaluation.json",
        "metrics.json",
        "records.jsonl",
        "task_descriptions.json",
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["pc_success"], metrics["n_episodes"], metrics["env"]) == (100.0, 6, "metaworld")
    info = json.loads((folder / "eval_info.json").read_text())
    assert info["overall"]["pc_success"] == 100.0
    assert info["per_task"][1]["metrics"]["successes"] == [True, True, True]
    described = json.loads((folder / "task_descriptions.json").read_text())
    assert described == {f"{TASK}_0": "Press a button from the top", "reach-v3_0": "Reach a goal position"}
    assert load_result(folder) == expert


def test_the_number_of_simulators_changes_nothing(expert, tmp_path):
    batch = {"n_episodes": 3, "batch_size": 1}
    alone = evaluate(configured(tmp_path / "result", env={"task": f"{TASK},reach-v3"}, eval=batch))
    assert outcomes(alone) == outcomes(expert)
    one, other = (json.loads((result.output_dir / "metrics.json").read_text()) for result in (alone, expert))
    assert {**one, "eval_s": 0} == {**other, "eval_s": 0}


def test_random_actions_depend_on_the_episode_alone(tmp_path):
    runs = [
        evaluate(
            configured(tmp_path / f"{count}", policy={"path": "random"}, eval={"n_episodes": 3, "batch_size": count})
        )
        for count in (1, 2)
    ]
    assert outcomes(runs[0]) == outcomes(runs[1])
    assert len({record.sum_reward for record in runs[0].records}) == 3
    assert {record.steps for record in runs[0].records} == {500}


def test_doing_nothing_fails_after_the_steps_that_an_episode_has(tmp_path):
    result = evaluate(configured(tmp_path / "result", policy={"path": "zero"}, env={"episode_length": 70}))
    assert result.pc_success == 0
    assert {(record.steps, record.success, record.error) for record in result.records} == {(70, False, None)}


INTERRUPTED = """
import sys
from pathlib import Path
from lerobot_ops.evaluation.config import EvalConfig
from lerobot_ops.evaluation.evaluate import evaluate

if __name__ == "__main__":
    config = EvalConfig.model_validate_json(sys.argv[1])
    evaluate(config, on_record=lambda record: print(record.episode, flush=True))
"""


def test_after_a_kill_only_the_missing_episodes_are_played(tmp_path):
    config = configured(tmp_path / "result", policy={"path": "random"}, eval={"n_episodes": 12})
    command = [sys.executable, "-c", INTERRUPTED, config.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "result").exists()
    (log,) = tmp_path.glob(".result.partial-*/records.jsonl")
    kept = read_records(log)
    assert 3 <= len(kept) < 12

    told = []
    resumed = evaluate(config, on_record=told.append)
    assert told[: len(kept)] == kept
    assert len(told) == 12
    assert set(kept) < set(resumed.records), "a record holds its duration, so an equal one was not played again"
    whole = evaluate(config.altered("output_dir", tmp_path / "whole"))
    assert outcomes(resumed) == outcomes(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result", "whole"]


def test_a_simulator_that_is_killed_is_replaced_and_its_episode_repeated(tmp_path):
    def kill_once(record):
        if record.episode == 1:
            for process in workers():
                os.kill(process, signal.SIGKILL)

    config = configured(tmp_path / "result", policy={"path": "random"}, eval={"n_episodes": 4, "batch_size": 1})
    result = evaluate(config, on_record=kill_once)
    assert sorted(record.attempt for record in result.records) == [1, 1, 1, 2]
    assert result.n_errors == 0
    assert outcomes(result) == outcomes(evaluate(config.altered("output_dir", tmp_path / "calm")))


def test_a_broken_simulator_is_not_a_failing_policy(tmp_path):
    config = configured(tmp_path / "result", eval={"n_episodes": 6})
    broken = config.altered("sandbox.step_timeout_s", 1e-5)
    with pytest.raises(SandboxError, match="5 episodes in a row ended in an error") as caught:
        evaluate(broken)
    assert "did not answer" in str(caught.value)
    (log,) = tmp_path.glob(".result.partial-*/records.jsonl")
    assert all(record.error and record.attempt == 2 and not record.success for record in read_records(log))
    mended = evaluate(config)
    assert (mended.pc_success, mended.n_errors, mended.n_episodes) == (100, 0, 6)


def test_a_finished_evaluation_is_not_done_again(expert):
    def play(record):
        raise AssertionError(f"{record} was played")

    config = configured(expert.output_dir, env={"task": f"{TASK},reach-v3"})
    assert evaluate(config, on_record=play) == expert


def test_another_evaluation_is_never_overwritten(expert):
    before = {path: path.read_bytes() for path in expert.output_dir.iterdir()}
    with pytest.raises(ArtifactError, match="exists already"):
        evaluate(configured(expert.output_dir, seed=7))
    assert {path: path.read_bytes() for path in expert.output_dir.iterdir()} == before


def test_clips_show_the_first_success_and_the_first_failure(tmp_path):
    result = evaluate(
        configured(
            tmp_path / "result",
            env={"episode_length": 66},  # the expert needs 59 to 70 steps
            eval={"n_episodes": 4},
            clips={"size": 64, "fps": 10},
        )
    )
    assert result.clip_problems == []
    assert 0 < result.n_successes < 4
    assert [clip.success for clip in result.clips] in ([True, False], [False, True])
    info = json.loads((result.output_dir / "eval_info.json").read_text())
    assert info["overall"]["video_paths"] == [clip.path for clip in result.clips]
    for clip in result.clips:
        record = next(r for r in result.records if r.episode == clip.episode)
        with av.open(str(result.output_dir / clip.path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.width) == ("h264", "yuv420p", 64)
            assert stream.average_rate == 10
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        last = 1 if record.success and record.steps % 8 else 0
        assert len(frames) == 1 + record.steps // 8 + last
        assert min(frame.std() for frame in frames) > 10
        assert abs(frames[0].astype(int) - frames[-1]).mean() > 1


def test_a_task_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"no such task.*did you mean 'button-press-v3'"):
        configured(Path("unused"), env={"task": "buton-press-v3"})


@pytest.mark.parametrize(
    ("values", "expected", "problem"),
    [
        ({"policy": {"path": "exprt"}}, CheckpointError, "did you mean 'expert'"),
        ({"policy": {"path": "outputs/none/pretrained_model"}}, CheckpointError, "no such checkpoint"),
        ({"env": {"options": {"camera_nme": "corner"}}}, OpsError, "camera_nme"),
        ({"output_dir": Path("/proc/result")}, ArtifactError, "cannot be written"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, values, expected, problem):
    with pytest.raises(expected, match=problem):
        evaluate(configured(tmp_path / "result", **values))
    assert list(tmp_path.iterdir()) == []
    assert workers() == set()


def test_a_container_and_a_virtual_environment_give_equal_records(expert, docker_sandbox, tmp_path):
    config = configured(tmp_path / "result", env={"task": f"{TASK},reach-v3"}, sandbox={"type": "docker"})
    contained = evaluate(config)
    assert (contained.sandbox, contained.identity) == ("docker", docker_sandbox.identity)
    assert outcomes(contained) == outcomes(expert)
