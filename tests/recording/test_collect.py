"""Recording the scripted expert: the same bytes however it was recorded, and frames that replay."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.tables import column_array, load_data, load_tasks
from lerobot_ops.errors import ArtifactError, ConfigError
from lerobot_ops.evaluation import rollout
from lerobot_ops.evaluation.actors import script
from lerobot_ops.evaluation.rollout import Episode
from lerobot_ops.evaluation.sandbox import SandboxConfig, open_sandbox
from lerobot_ops.flags import build
from lerobot_ops.recording.collect import CollectConfig, collect

TASK = "button-press-topdown-v3"


def configured(root: Path, **values) -> CollectConfig:
    usual = {"dataset": {"root": root}, "sandbox": {"type": "venv"}, "num_episodes": 4}
    return build(CollectConfig, {**usual, **values}, source="a test")


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def column(root: Path, name: str) -> np.ndarray:
    return column_array(load_data(root, [name])[name], load_info(root).features[name])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded") / "dataset"
    told = []
    result = collect(configured(root, seed=3, action_noise=[0.0, 0.5]), on_episode=told.append)
    assert sorted(told) == [0, 1, 2, 3]
    return result


def test_a_dataset_of_the_expert(recorded):
    info = load_info(recorded.root)
    assert (recorded.episodes, recorded.failed_episodes, recorded.failures) == (4, [], 0)
    assert (info.total_episodes, info.total_frames, info.fps) == (4, recorded.frames, 80)
    assert {name: (feature.dtype, feature.shape) for name, feature in info.features.items() if "." in name} == {
        "observation.state": ("float32", (4,)),
        "observation.environment_state": ("float32", (39,)),
        "next.reward": ("float32", (1,)),
        "next.success": ("bool", (1,)),
    }
    assert load_tasks(recorded.root) == ["Press a button from the top"]


def test_an_episode_ends_with_its_first_success(recorded):
    success, episode = column(recorded.root, "next.success"), column(recorded.root, "episode_index")
    last = np.append(np.diff(episode) > 0, True)
    assert np.array_equal(success, last)


def test_recorded_actions_lead_to_the_recorded_frames_again(recorded):
    action, reward = column(recorded.root, "action"), column(recorded.root, "next.reward")
    state, episodes = column(recorded.root, "observation.state"), column(recorded.root, "episode_index")
    assert np.abs(action).max() <= 1
    seen = []
    sandbox = open_sandbox("metaworld", SandboxConfig(type="venv"))
    with sandbox.spawn({}) as worker:
        for index in range(4):
            rows = episodes == index
            play = script(action[rows])

            def watch(query, play=play):
                seen.append(query.observation["observation.state"])
                return play(query)[:1]

            record = rollout.play(worker, Episode(TASK, index, 3 + index, 500), watch, cameras=[])
            assert record.success
            assert record.steps == rows.sum()
            assert record.sum_reward == pytest.approx(reward[rows].sum(dtype=float), rel=1e-5)
    assert np.array_equal(np.stack(seen), state)


def test_noise_is_on_the_episodes_that_it_was_asked_for(recorded, tmp_path):
    clean = collect(configured(tmp_path / "clean", seed=3))
    episodes = {root: column(root, "episode_index") for root in (recorded.root, clean.root)}
    actions = {root: column(root, "action") for root in episodes}
    for index in range(4):
        noisy, calm = (actions[root][episodes[root] == index] for root in (recorded.root, clean.root))
        assert (len(noisy) == len(calm) and np.array_equal(noisy, calm)) is (index % 2 == 0)


def test_the_number_of_simulators_changes_no_byte(recorded, tmp_path):
    alone = collect(configured(tmp_path / "dataset", seed=3, action_noise=[0.0, 0.5], workers=1))
    assert digest(alone.root) == digest(recorded.root)


def test_an_episode_that_takes_too_long_is_an_honest_failure(tmp_path):
    config = configured(tmp_path / "dataset", num_episodes=8, seed=101, action_noise=0.4, env={"episode_length": 84})
    result = collect(config)
    assert result.failed_episodes == [5]
    episode = column(result.root, "episode_index") == 5
    assert episode.sum() == 84
    assert not column(result.root, "next.success")[episode].any()


def test_several_tasks_take_turns(tmp_path):
    result = collect(configured(tmp_path / "dataset", env={"task": f"{TASK},reach-v3"}))
    tasks, episodes = column(result.root, "task_index"), column(result.root, "episode_index")
    assert load_tasks(result.root) == ["Press a button from the top", "Reach a goal position"]
    assert [tasks[episodes == index][0] for index in range(4)] == [0, 1, 0, 1]


def test_a_camera_is_recorded_at_every_step(tmp_path):
    config = configured(tmp_path / "dataset", num_episodes=2, cameras=True, camera_size=48, env={"episode_length": 25})
    result = collect(config)
    info = load_info(result.root)
    assert info.features["observation.image"].shape == (48, 48, 3)
    (video,) = (result.root / "videos").rglob("*.mp4")
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == result.frames == 50
    assert min(frame.std() for frame in frames) > 10
    assert result.failures == 2


INTERRUPTED = """
import sys
from lerobot_ops.recording.collect import CollectConfig, collect

if __name__ == "__main__":
    collect(CollectConfig.model_validate_json(sys.argv[1]), on_episode=lambda index: print(index, flush=True))
"""


def test_after_a_kill_only_the_missing_episodes_are_recorded(tmp_path):
    config = configured(tmp_path / "dataset", num_episodes=16, action_noise=2.0)
    command = [sys.executable, "-c", INTERRUPTED, config.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "dataset").exists()
    (partial,) = tmp_path.glob(".dataset.partial-*")
    waiting = list(partial.glob(".recording/0*"))  # for an episode in front of them
    kept = {path: path.stat().st_mtime_ns for path in partial.glob("data/*/*.parquet")}
    assert 3 <= len(kept) + len(waiting) < 16
    assert len(kept) - 2 <= load_info(partial).total_episodes <= len(kept)

    told = []

    def unchanged(index):
        told.append(index)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept

    result = collect(config, on_episode=unchanged)
    assert sorted(told) == list(range(16))
    whole = collect(config.writing_to(tmp_path / "whole"))
    assert digest(result.root) == digest(whole.root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "whole"]


def test_a_dataset_is_never_overwritten(recorded):
    before = digest(recorded.root)
    with pytest.raises(ArtifactError, match="exists already"):
        collect(configured(recorded.root))
    assert digest(recorded.root) == before


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"action_noise": -0.1}, "0 or more"),
        ({"action_noise": []}, "0 or more"),
        ({"num_episode": 3}, "did you mean 'num_episodes'"),
        ({"env": {"type": "libro"}}, "no such benchmark"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(tmp_path, values, problem):
    with pytest.raises(ConfigError, match=problem):
        configured(tmp_path / "dataset", **values)


def test_a_camera_that_the_benchmark_lacks_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"no such camera[\s\S]*did you mean 'observation.image'"):
        collect(configured(tmp_path / "dataset", cameras=["observation.imag"]))
    assert list(tmp_path.iterdir()) == []
