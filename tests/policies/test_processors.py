"""Processors: the formulas, their files, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lerobot_ops.errors import CheckpointError
from lerobot_ops.processors.features import FeatureType, NormalizationMode, PolicyFeature
from lerobot_ops.processors.normalize import Normalize, Unnormalize
from lerobot_ops.processors.pipeline import POSTPROCESSOR, PREPROCESSOR, Pipeline, load_pipeline, save_pipeline
from lerobot_ops.processors.steps import RenameObservations, ToBatch, ToDevice

FEATURES = {
    "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(3,)),
    "observation.images.front": PolicyFeature(type=FeatureType.VISUAL, shape=(3, 4, 5)),
    "action": PolicyFeature(type=FeatureType.ACTION, shape=(3,)),
}


def statistics(size: int = 3) -> dict[str, Any]:
    values = np.arange(1.0, size + 1)
    return {
        "mean": values,
        "std": values / 2,
        "min": -values,
        "max": values * 3,
        "q01": -values / 2,
        "q99": values * 2,
        "q10": -values / 4,
        "q90": values,
        "count": np.array([10]),
    }


STATS = {name: statistics() for name in FEATURES}


def scaled(mode: NormalizationMode, value: torch.Tensor, name: str = "action") -> torch.Tensor:
    kind = FEATURES[name].type
    return Normalize(FEATURES, {kind: mode}, STATS)({name: value})[name]


def test_formulas() -> None:
    value = torch.tensor([[2.0, 0.0, 3.0]])
    one, two, three = value[0].tolist()
    expected = {
        NormalizationMode.IDENTITY: value[0],
        NormalizationMode.MEAN_STD: torch.tensor([(one - 1) / 0.5, (two - 2) / 1, (three - 3) / 1.5]),
        NormalizationMode.MIN_MAX: torch.tensor(
            [2 * (one + 1) / 4 - 1, 2 * (two + 2) / 8 - 1, 2 * (three + 3) / 12 - 1]
        ),
        NormalizationMode.QUANTILES: torch.tensor([2 * 2.5 / 2.5 - 1, 2 * 1 / 5 - 1, 2 * 4.5 / 7.5 - 1]),
        NormalizationMode.QUANTILE10: torch.tensor([2 * 2.25 / 1.25 - 1, 2 * 0.5 / 2.5 - 1, 2 * 3.75 / 3.75 - 1]),
    }
    for mode, result in expected.items():
        torch.testing.assert_close(scaled(mode, value)[0], result, msg=str(mode))


def test_a_camera_is_scaled_per_channel() -> None:
    frames = torch.rand(2, 3, 4, 5)
    result = scaled(NormalizationMode.MEAN_STD, frames, "observation.images.front")
    for channel in range(3):
        expected = (frames[:, channel] - (channel + 1)) / ((channel + 1) / 2)
        torch.testing.assert_close(result[:, channel], expected)


def test_a_constant_value_stays_finite() -> None:
    stats = {"action": {name: np.full(3, 0.7) for name in ("min", "max", "mean")} | {"std": np.zeros(3)}}
    feature = {"action": FEATURES["action"]}
    value = torch.full((1, 3), 0.7)
    for mode in (NormalizationMode.MEAN_STD, NormalizationMode.MIN_MAX):
        normalized = Normalize(feature, {FeatureType.ACTION: mode}, stats)({"action": value})
        back = Unnormalize(feature, {FeatureType.ACTION: mode}, stats)(normalized)
        torch.testing.assert_close(back["action"], value)


@given(
    arrays(np.float32, (2, 5, 3), elements=st.floats(-100, 100, width=32)),
    st.sampled_from(NormalizationMode),
)
def test_unnormalize_is_the_inverse(value: np.ndarray, mode: NormalizationMode) -> None:
    norm_map = {FeatureType.ACTION: mode}
    normalized = Normalize(FEATURES, norm_map, STATS)({"action": torch.from_numpy(value)})
    back = Unnormalize(FEATURES, norm_map, STATS)(normalized)["action"]
    torch.testing.assert_close(back, torch.from_numpy(value), rtol=1e-4, atol=1e-4)


def test_steps_in_turn() -> None:
    pipeline = Pipeline(PREPROCESSOR, [RenameObservations({"observation.arm": "observation.state"}), ToBatch()])
    given = {"observation.arm": torch.ones(3), "observation.arm_is_pad": torch.zeros(1), "task": "reach"}
    result = pipeline(given)
    assert result["observation.state"].shape == (1, 3)
    assert result["task"] == ["reach"]
    assert set(result) == {"observation.state", "observation.state_is_pad", "task"}
    assert set(given) == {"observation.arm", "observation.arm_is_pad", "task"}
    half = ToDevice("cpu", "float16")({"action": torch.ones(2), "index": torch.ones(2, dtype=torch.int64)})
    assert (half["action"].dtype, half["index"].dtype) == (torch.float16, torch.int64)


def test_saved_and_loaded(tmp_path: Path) -> None:
    norm_map = {FeatureType.STATE: NormalizationMode.MIN_MAX, FeatureType.ACTION: NormalizationMode.QUANTILES}
    steps = [RenameObservations({"a": "b"}), ToBatch(), ToDevice("cpu"), Normalize(FEATURES, norm_map, STATS)]
    save_pipeline(Pipeline(PREPROCESSOR, steps), tmp_path / "one")
    loaded = load_pipeline(tmp_path / "one", PREPROCESSOR)
    save_pipeline(loaded, tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    batch = {"observation.state": torch.rand(2, 3), "action": torch.rand(2, 4, 3)}
    for name, value in Pipeline(PREPROCESSOR, steps)(batch).items():
        assert torch.equal(loaded(batch)[name], value)


@pytest.fixture
def copy(act_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(act_checkpoint, tmp_path / "copy")


def change(file: Path, step: int, **values: Any) -> None:
    content = json.loads(file.read_text())
    content["steps"][step] = {**content["steps"][step], **values}
    file.write_text(
        json.dumps({**content, "steps": [{k: v for k, v in s.items() if v is not None} for s in content["steps"]]})
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"registry_name": "normaliser_processor"}, "did you mean 'normalizer_processor'"),
        ({"registry_name": None, "class": "os.system"}, r"not known here[\s\S]*os\.system"),
        ({"state_file": None}, r"lack observation\.image\.mean"),
        ({"state_file": "lost.safetensors"}, "state file is missing"),
        ({"state_file": "../lost.safetensors"}, "beside its processor"),
        ({"config": {"features": {}, "norm_map": {"STATE": "MEDIAN"}}}, "MEDIAN"),
        ({"config": {"sigma": 3, "features": {}, "norm_map": {}}}, "sigma"),
    ],
)
def test_a_bad_file_is_refused(copy: Path, values: dict[str, Any], message: str) -> None:
    change(copy / "policy_preprocessor.json", 3, **values)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(copy, PREPROCESSOR)


def test_a_lost_or_garbled_file_is_refused(copy: Path) -> None:
    (copy / "policy_preprocessor.json").unlink()
    with pytest.raises(CheckpointError, match="has no processor"):
        load_pipeline(copy, PREPROCESSOR)
    (copy / "policy_postprocessor.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid"):
        load_pipeline(copy, POSTPROCESSOR)
