"""What a server needs before it takes deployments: the work pools that they name, and this machine's concurrency limit.

`prefect deploy` refuses a deployment whose work pool does not exist yet, and looks only after it has loaded the flow.
So this module, the first entry of pipelines.yaml, makes the pools when that command loads it, and a fresh server needs
no step before the deployment. The limit keeps evaluations from fighting for cores; another machine's is made when it
evaluates for the first time.
"""

import contextlib
import sys

from prefect import flow, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from tasks.cores import ensure_limit

WORK_POOLS = ("lerobot-ops", "robot-host")
"""Of machines that compute, and of those that a robot is connected to."""


@flow(name="work-pool")
def work_pool() -> None:
    """Make the process work pools of this project and the limit of this machine's cores, unless they are there."""
    with get_client(sync_client=True) as client:
        for name in WORK_POOLS:
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    ensure_limit()


if "deploy" in sys.argv:
    work_pool.fn()
