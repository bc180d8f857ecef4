"""Checkpoints in the registry, and the champion among them."""

from pathlib import Path

import pytest

from lerobot_ops.errors import ArtifactError, ConfigError
from lerobot_ops.tracking import Registered, Run, TrackingConfig, champion, open_run, promote, register_checkpoint
from lerobot_ops.versioning.digest import digest

BENCHMARK = "metaworld/button-press-topdown-v3"


@pytest.fixture
def config(store: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{store}")


def _checkpoint(root: Path, weights: bytes) -> Path:
    (root / "nested").mkdir(parents=True)
    (root / "model.safetensors").write_bytes(weights)
    (root / "config.json").write_text("{}")
    (root / "nested/empty.json").write_text("")
    return root


def _register(config: TrackingConfig, checkpoint: Path) -> Registered:
    with open_run(config, name="train") as run:
        registered = register_checkpoint(run, checkpoint, name="act", tags={"git.commit": "abc"})
    assert registered is not None
    return registered


def _stand(config: TrackingConfig, version: Registered, pc_success: float, benchmark: str = BENCHMARK) -> bool:
    return promote(config, version, pc_success=pc_success, n_episodes=50, benchmark=benchmark).promoted


def test_the_best_checkpoint_is_the_champion_and_downloads_whole(config: TrackingConfig, tmp_path: Path) -> None:
    good, worse, best = (_register(config, _checkpoint(tmp_path / name, name.encode())) for name in ("a", "b", "c"))
    assert [version.version for version in (good, worse, best)] == ["1", "2", "3"]
    assert _stand(config, good, 200 / 3)
    assert not _stand(config, worse, 66.0)
    assert _stand(config, best, 200 / 3), "an equal one takes over"
    found = champion(config, "act", tmp_path / "champions")
    assert (found.version, found.pc_success, found.run_id) == ("3", 200 / 3, best.run_id)
    assert digest(found.path) == digest(tmp_path / "c") == found.digest
    again = promote(config, best, pc_success=70.0, n_episodes=50, benchmark=BENCHMARK)
    assert (again.promoted, again.previous) == (True, "1")


def test_the_same_bytes_are_one_version(config: TrackingConfig, tmp_path: Path) -> None:
    first = _register(config, _checkpoint(tmp_path / "a", b"same"))
    second = _register(config, _checkpoint(tmp_path / "b", b"same"))
    assert first == second


def test_another_benchmark_cannot_be_compared(config: TrackingConfig, tmp_path: Path) -> None:
    version = _register(config, _checkpoint(tmp_path / "a", b"a"))
    other = _register(config, _checkpoint(tmp_path / "b", b"b"))
    assert _stand(config, version, 50.0)
    with pytest.raises(ConfigError, match="another benchmark"):
        _stand(config, other, 100.0, "metaworld/reach-v3")
    assert champion(config, "act", tmp_path / "champions").version == "1"


def test_a_changed_download_is_refused(config: TrackingConfig, tmp_path: Path) -> None:
    version = _register(config, _checkpoint(tmp_path / "a", b"a"))
    _stand(config, version, 50.0)
    found = champion(config, "act", tmp_path / "champions")
    (found.path / "model.safetensors").write_bytes(b"b")
    with pytest.raises(ArtifactError, match="was changed after its download"):
        champion(config, "act", tmp_path / "champions")


def test_files_that_changed_in_the_store_are_refused(config: TrackingConfig, tmp_path: Path) -> None:
    version = _register(config, _checkpoint(tmp_path / "a", b"a"))
    _stand(config, version, 50.0)
    (stored,) = (tmp_path / "store/artifacts").rglob("model.safetensors")
    stored.write_bytes(b"b")
    with pytest.raises(ArtifactError, match="not the ones that were registered"):
        champion(config, "act", tmp_path / "champions")
    stored.unlink()
    for path in (tmp_path / "store/artifacts").rglob("*.json"):
        path.unlink()
    with pytest.raises(ArtifactError):
        champion(config, "act", tmp_path / "champions")
    assert not (tmp_path / "champions/act/v1").exists()


def test_an_unknown_champion_suggests_the_known_ones(config: TrackingConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train and evaluate a policy first"):
        champion(config, "act")
    _stand(config, _register(config, _checkpoint(tmp_path / "a", b"a")), 50.0)
    with pytest.raises(ConfigError, match="did you mean 'act'"):
        champion(config, "atc")
    with pytest.raises(ConfigError, match="tracking is off"):
        champion(TrackingConfig(enable=False), "act")


def test_pickles_bad_names_and_untracked_runs(config: TrackingConfig, tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "a", b"a")
    assert register_checkpoint(Run(), checkpoint, name="act") is None
    with open_run(config, name="train") as run:
        with pytest.raises(ConfigError, match="no / : or quotes"):
            register_checkpoint(run, checkpoint, name="a/b")
        (checkpoint / "optimizer.pt").write_bytes(b"")
        with pytest.raises(ArtifactError, match="must not hold pickles"):
            register_checkpoint(run, checkpoint, name="act")
        with pytest.raises(ArtifactError, match="no checkpoint"):
            register_checkpoint(run, tmp_path / "nowhere", name="act")
