import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recordings import LEROBOT, record
from safetensors.numpy import save_file

from lerobot_ops.datasets.describing.checkpoint import describe_checkpoint
from lerobot_ops.datasets.describing.describe import InfoConfig, describe_dataset, info
from lerobot_ops.datasets.describing.installation import describe_installation
from lerobot_ops.datasets.describing.text import duration_text, shortened, size_text
from lerobot_ops.datasets.info import load_info, write_info
from lerobot_ops.errors import CheckpointError, DatasetError
from lerobot_ops.versioning.digest import digest

BUTTON, TWO_TASKS, IMAGES = (LEROBOT / name for name in ("button_av1_cut", "two_task_h264", "images_cut"))
FRONT = "observation.images.front"


def test_a_dataset_is_described() -> None:
    about = describe_dataset(TWO_TASKS)
    assert (about.name, about.format, about.robot) == ("two_task_h264", "v3.0", "synthetic")
    assert (about.episodes, about.frames, about.fps, about.seconds) == (12, 960, 30, 32.0)
    assert about.lengths == {"min": 80, "median": 80, "max": 80}
    assert about.tasks == {"push the red block": 6, "pull the blue lever": 6}
    assert about.splits == {"train": "0:12"}
    assert about.features["action"].names == [f"j{place}.pos" for place in range(6)]
    front, video = about.cameras[FRONT], TWO_TASKS / "videos" / FRONT / "chunk-000/file-000.mp4"
    assert (front.codec, front.width, front.height) == ("h264 yuv420p", 256, 256)
    assert front.bytes == video.stat().st_size
    assert front.bits_per_second == pytest.approx(video.stat().st_size * 8 / 32)
    files = [path for path in TWO_TASKS.rglob("*") if path.is_file()]
    assert sum(about.files.values()) == len(files)
    assert sum(about.bytes.values()) == sum(path.stat().st_size for path in files)
    assert about.features_without_statistics == about.features_without_quantiles == []


def test_the_description_reads_well() -> None:
    text = info(InfoConfig(root=TWO_TASKS))
    for line in (
        "two_task_h264: LeRobotDataset v3.0",
        "  episodes    12",
        "  duration    32.0 s",
        "  lengths     80 to 80 frames, median 80",
        "  statistics  of every feature, with quantiles",
        "        6  pull the blue lever",
    ):
        assert line in text.splitlines()
    assert "h264 yuv420p, 0.34 Mbit/s" in text
    assert "version" not in text


def test_episodes_of_different_lengths_and_tasks_are_counted(tmp_path: Path) -> None:
    root = record(tmp_path / "dataset", ["lift", "push", "push"], cameras={FRONT: "image"})
    about = describe_dataset(root)
    assert about.lengths == {"min": 12, "median": 13, "max": 14}
    assert list(about.tasks.items()) == [("push", 2), ("lift", 1)]
    assert about.cameras[FRONT].codec == "images"
    assert about.cameras[FRONT].bits_per_second is None


def test_the_version_is_named_only_when_asked_for() -> None:
    assert describe_dataset(IMAGES).digest is None
    about = json.loads(info(InfoConfig(root=IMAGES, digest=True, as_json=True)))
    assert about["digest"] == digest(IMAGES)


def test_json_says_the_same() -> None:
    config = InfoConfig.model_validate({"root": BUTTON, "json": True})
    assert json.loads(info(config)) == describe_dataset(BUTTON).model_dump(mode="json")


def test_gaps_in_the_statistics_are_named(tmp_path: Path) -> None:
    root = shutil.copytree(IMAGES, tmp_path / "dataset")
    path = root / "meta/stats.json"
    stats = json.loads(path.read_text())
    del stats["action"], stats["observation.state"]["q01"]
    path.write_text(json.dumps(stats))
    text = info(InfoConfig(root=root))
    assert "statistics  none of action; no quantiles of observation.state" in text
    path.unlink()
    assert "statistics  none\n" in info(InfoConfig(root=root))


def test_the_codec_is_read_from_the_video_when_the_dataset_does_not_say_it(tmp_path: Path) -> None:
    root = shutil.copytree(BUTTON, tmp_path / "dataset")
    about = load_info(root)
    camera = about.features["observation.image"].model_copy(update={"info": None})
    write_info(root, about.model_copy(update={"features": about.features | {"observation.image": camera}}))
    assert describe_dataset(root).cameras["observation.image"].codec == "av1 yuv420p"


def test_describing_a_dataset_imports_nothing_slow() -> None:
    code = "import sys; from lerobot_ops.cli import main; main(['info', sys.argv[1]]); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code, TWO_TASKS], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "pandas", "huggingface_hub", "docker", "prefect", "mlflow"} & set(output.split())


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"):
        shutil.copy(LEROBOT / "act_reference" / name, folder)
    weights = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32), "c": np.zeros((), np.int64)}
    save_file(weights, folder / "model.safetensors")
    training = {"steps": 100, "batch_size": 8, "seed": 7, "dataset": {"repo_id": "me/button", "revision": "v3.0"}}
    (folder / "train_config.json").write_text(json.dumps(training))
    return folder


def test_a_checkpoint_is_described(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "pretrained_model")
    about = describe_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    assert about.type == "act"
    assert (about.parameters, about.dtypes) == (18, ["F32", "I64"])
    assert about.dataset == "me/button@v3.0"
    assert about.settings["chunk_size"] == config["chunk_size"]
    assert (about.settings["steps"], about.settings["batch_size"], about.settings["seed"]) == (100, 8, 7)
    assert about.inputs.keys() == config["input_features"].keys()
    assert "normalizer_processor" in about.processors["preprocessor"]
    text = info(InfoConfig(root=folder, digest=True))
    assert "policy of type act" in text
    assert digest(folder) in text
    assert json.loads(info(InfoConfig(root=folder, as_json=True))) == about.model_dump(mode="json")


def test_the_last_checkpoint_of_a_training_is_found(tmp_path: Path) -> None:
    step = checkpoint(tmp_path / "checkpoints/000100/pretrained_model").parent
    (step / "training_state").mkdir()
    (step / "training_state/training_step.json").write_text('{"step": 100}')
    (tmp_path / "checkpoints/last").symlink_to("000100")
    text = info(InfoConfig(root=tmp_path))
    assert "checkpoints/last/pretrained_model" in text
    assert "trained steps   100" in text


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "pretrained_model")
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json")
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        info(InfoConfig(root=folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        info(InfoConfig(root=folder))


def test_this_installation_is_described() -> None:
    about = describe_installation()
    assert about.python == platform.python_version()
    assert about.packages["pyarrow"]
    assert {"libsvtav1", "libx264"} <= set(about.encoders)
    assert not set(about.encoders) & set(about.encoders_without_device)
    assert about.free_bytes > 0
    text = info(InfoConfig())
    assert text.startswith("this installation")
    assert "libsvtav1" in text


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset and no checkpoint"):
        info(InfoConfig(root=tmp_path))
    with pytest.raises(DatasetError, match="no such directory"):
        info(InfoConfig(root=tmp_path / "none"))


def test_numbers_are_put_into_words() -> None:
    assert [size_text(size) for size in (0, 999, 1000, 12_345_678, 2 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.3 MB",
        "2.0 TB",
    ]
    assert [duration_text(seconds) for seconds in (0.25, 59.9, 61, 7322)] == ["0.2 s", "59.9 s", "0:01:01", "2:02:02"]
    assert shortened([f"joint_{place}" for place in range(40)]).endswith("… (40 in all)")
