"""Edit a dataset: `python -m flows.edit --root=PATH --repo_id=demo/edited --operation.type=modify_tasks ...`."""

from pathlib import Path

from prefect import flow

from lerobot_ops.config import Config
from lerobot_ops.datasets.editing.command import EditOperation, Merge
from lerobot_ops.datasets.remote import local_root
from lerobot_ops.errors import ConfigError
from tasks.datasets import dataset_at, edit_dataset
from tasks.steps import Artifact, run_step, slug
from tasks.tables import facts, show


class EditFlowConfig(Config):
    """One edit of a dataset into a new one."""

    root: Path | None = None
    """The dataset, a directory or OWNER/NAME[@REVISION] on the Hub; a merge names its own."""
    repo_id: str = "local/edited"
    """The name of the result."""
    operation: EditOperation


@flow(name="edit")
def edit(config: EditFlowConfig) -> Artifact:
    """Edit a dataset into a new one; the same edit of the same content is done once."""
    operation = config.operation
    places = operation.roots if isinstance(operation, Merge) else [config.root]
    sources = [dataset_at(local_root(place)) for place in places if place is not None]
    if not sources:
        field = "operation.roots" if isinstance(operation, Merge) else "root"
        raise ConfigError("the dataset to edit is not named", field=field, fix=f"add --{field}=PATH")
    files = [Artifact.at(file, "file") for file in operation.files]
    operation = operation.reading([Path(file.name) for file in operation.files])
    if isinstance(operation, Merge):
        operation = operation.model_copy(update={"roots": []})
    label = f"{operation.type} {config.repo_id}"
    made = run_step(edit_dataset, label=label, sources=sources, operation=operation, name=config.repo_id, files=files)
    show(f"dataset-{slug(config.repo_id)}", facts(f"Dataset {config.repo_id}", made.about))
    return made


if __name__ == "__main__":
    from flows.terminal import main

    main(edit, EditFlowConfig)
