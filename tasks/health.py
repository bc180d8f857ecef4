"""The health page: how every benchmark has done, week by week."""

from pathlib import Path

from prefect import task

from lerobot_ops.tracking import TrackingConfig
from tasks.steps import WORKSPACE

HEALTH_PAGE = WORKSPACE / "health" / "index.html"


@task(name="health page")
def write_health_page(tracking: TrackingConfig) -> Path:
    """Write the page from MLflow's history."""
    HEALTH_PAGE.parent.mkdir(parents=True, exist_ok=True)
    HEALTH_PAGE.write_text("x")
    return HEALTH_PAGE
