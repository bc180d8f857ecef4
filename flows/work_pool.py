"""The work pool that every deployment names.

`prefect deploy` refuses a deployment whose work pool does not exist yet, and looks only after it has loaded the flow.
So this module, the first entry of pipelines.yaml, makes the pool when that command loads it, and a fresh server needs
no step before the deployment.
"""

import sys

from prefect import flow, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

WORK_POOL = "lerobot-ops"


@flow(name="work-pool")
def work_pool() -> None:
    """Make the process work pool of this project, unless it is there."""
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        except ObjectAlreadyExists:
            return


if "deploy" in sys.argv:
    work_pool.fn()
