"""The weekly run's own page: how every benchmark has done, week by week."""

from pathlib import Path

from prefect import task

from lerobot_ops.evaluation.health import HealthConfig, health
from lerobot_ops.tracking import open_run
from tasks.steps import WORKSPACE, Links
from tasks.tables import show

PAGE = WORKSPACE / "health" / "index.html"


@task(name="open weekly run")
def open_weekly_run(name: str, links: Links) -> str | None:
    """Open the run in MLflow that this week's evaluations belong to; None when tracking is off."""
    run = open_run(links.tracking, name=f"weekly {name}", tags={"step": "weekly", **links.tags})
    run.finish()
    return run.id


@task(name="health page")
def write_health_page(links: Links) -> Path:
    """Write the health page from MLflow's history, and add it to the week's run."""
    page = health(HealthConfig(output=PAGE, tracking=links.tracking))
    if links.parent_run:
        with open_run(links.tracking, name="weekly", run_id=links.parent_run) as run:
            run.log_artifact(page, "health")
    show("health", f"## Health of the benchmarks\n\n[{page}]({page.absolute().as_uri()})\n")
    return page
