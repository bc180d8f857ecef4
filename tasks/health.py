"""The health page: how every benchmark has done, week by week."""

from pathlib import Path

from prefect import task

from lerobot_ops.evaluation.health import HealthConfig, health
from lerobot_ops.tracking import TrackingConfig
from tasks.steps import WORKSPACE

HEALTH_PAGE = WORKSPACE / "health" / "index.html"


@task(name="health page")
def write_health_page(tracking: TrackingConfig) -> Path:
    """Write the page from MLflow's history."""
    return health(HealthConfig(output=HEALTH_PAGE, tracking=tracking))
