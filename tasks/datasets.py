"""Dataset steps: record an expert, check, edit."""

import re
from collections.abc import Sequence
from pathlib import Path

from prefect import task

from lerobot_ops.datasets.editing.command import EditConfig, EditOperation, Merge, edit
from lerobot_ops.datasets.info import load_info
from lerobot_ops.datasets.validation.validate import ValidateConfig, ValidationReport, validate
from lerobot_ops.progress import counting
from lerobot_ops.recording.collect import CollectConfig, collect
from tasks.steps import CACHED, WORKSPACE, Artifact, current_key, place


def dataset_at(root: Path, name: str = "", key: str = "") -> Artifact:
    """The dataset in `root` as an artifact; raises DatasetError when there is none."""
    info = load_info(root)
    name = name or _name(root)
    facts = {"episodes": info.total_episodes, "frames": info.total_frames, "fps": info.fps, "cameras": info.camera_keys}
    return Artifact.at(root, "dataset", name, key, facts)


def _name(root: Path) -> str:
    """Of a dataset in the workspace, the name that it was made under; of any other, its directory's."""
    rooms = WORKSPACE / "datasets"
    if not root.is_relative_to(rooms):
        return root.name
    made = root.parent if re.fullmatch("[0-9a-f]{12}", root.name) else root  # a step's output is named by its key
    return made.relative_to(rooms).as_posix()


@task(name="collect", version="1", **CACHED)
def collect_dataset(config: CollectConfig) -> Artifact:
    """Record a scripted expert; continues what an interrupted run had recorded."""
    key, name = current_key(), config.dataset.repo_id
    root = place("datasets", name, key)
    if not root.exists():
        with counting(f"collect {name}", config.num_episodes) as count:
            collect(config.writing_to(root), on_episode=count)
    return dataset_at(root, name, key)


class Validated(ValidationReport):
    """A validation report as a step's product: it has no files that could be lost."""

    @property
    def intact(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"{self.episodes} episodes, {len(self.findings)} finding(s)"


@task(name="validate", version="1", **CACHED)
def validate_dataset(dataset: Artifact, config: ValidateConfig) -> Validated:
    """Check a dataset's format and quality."""
    report = validate(dataset.path, config=config)
    return Validated.model_validate(report.model_dump())


@task(name="edit", version="2", **CACHED)
def edit_dataset(
    sources: list[Artifact], operation: EditOperation, name: str, files: Sequence[Artifact] = ()
) -> Artifact:
    """Any edit, into a new dataset; a split's parts lie below the artifact's path.

    What a merge joins and the files that an operation reads come as artifacts: their content counts, not their places.
    """
    key = current_key()
    root = place("datasets", name, key)
    if isinstance(operation, Merge):
        operation = operation.model_copy(update={"roots": [source.path for source in sources]})
    operation = operation.reading([file.path for file in files])
    if not root.exists():
        edit(EditConfig(root=sources[0].path, new_root=root, operation=operation))
    return Artifact.at(root, "dataset", name, key) if operation.type == "split" else dataset_at(root, name, key)
