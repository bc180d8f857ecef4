"""Publish: `python -m flows.publish --items='[{kind: dataset, path: PATH, repo_id: me/data}]'`."""

from prefect import flow

from lerobot_ops.config import Config
from lerobot_ops.hub.publish import PublishConfig
from tasks.publishing import Published, publish_artifact
from tasks.steps import Artifact, run_step
from tasks.tables import show, table


class PublishItems(Config):
    """What is published together."""

    items: list[PublishConfig] = []
    """Datasets, checkpoints and reports."""


@flow(name="publish")
def publish(config: PublishItems) -> list[Published]:
    """Put datasets, checkpoints and reports on a hub."""
    published = [
        run_step(
            publish_artifact,
            label=f"publish {item.kind} {item.repo_id}",
            artifact=Artifact.at(item.path, item.kind),
            kind=item.kind,
            repo_id=item.repo_id,
            hub=item.hub,
        )
        for item in config.items
    ]
    rows = [(receipt.kind, receipt.repo_id, receipt.digest, receipt.where) for receipt in published]
    show("published", "## Published\n\n" + table(("kind", "name", "version", "where"), rows))
    return published


if __name__ == "__main__":
    from flows.terminal import main

    main(publish, PublishItems)
