"""Evaluations of one machine take turns at its cores, whichever flow runs they belong to.

Each machine has a global concurrency limit on the Prefect server, named after it, with a slot for each core; an
evaluation holds one for each simulator. Change a limit with `prefect gcl update NAME --limit N`.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL

from lerobot_ops.evaluation import stopping
from tasks.runners import cores
from tasks.steps import slug

PATIENCE_S = 5.0
"""Between two looks at whether the run was stopped while it waits."""
_one_at_a_time = threading.Lock()


def limit_name() -> str:
    """The name of this machine's limit."""
    return f"cores-{slug(socket.gethostname())}"


def ensure_limit() -> int:
    """The slots of this machine's limit, which is made when the server has none; a changed one stays as it is."""
    name = limit_name()
    with _one_at_a_time, get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(name).limit
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):  # another run was faster
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=cores()))
            return cores()


@contextlib.contextmanager
def occupied(simulators: int) -> Iterator[None]:
    """Hold the cores of `simulators` while the block runs, and wait for them first.

    Does nothing without a server: nobody else would see it, and a killed process would leave its slots taken.
    """
    if not PREFECT_API_URL.value():
        yield
        return
    wanted = max(1, min(simulators, ensure_limit()))
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(concurrency(limit_name(), occupy=wanted, timeout_seconds=PATIENCE_S))
                break
            except TimeoutError:
                stopping.check()
        yield
