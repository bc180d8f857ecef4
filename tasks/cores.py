"""What runs of one machine share: evaluations take turns at its cores, and trainings at its devices.

Both hold global concurrency limits on the Prefect server, named after the machine, whichever flow runs they belong to:
`cores-HOST` has a slot for each core, and an evaluation holds one for each simulator; `training-HOST-cpu` and
`training-HOST-cuda-0` have one slot each. Change a limit with `prefect gcl update NAME --limit N`.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL

from lerobot_ops.evaluation import stopping
from tasks.runners import cores
from tasks.slots import held
from tasks.steps import slug

logger = logging.getLogger(__name__)
PATIENCE_S = 5.0
"""Between two looks at whether the run was stopped while it waits."""
_one_at_a_time = threading.Lock()


def limit_name() -> str:
    """The name of this machine's limit of cores."""
    return f"cores-{slug(socket.gethostname())}"


def training_limit_name(device: str) -> str:
    """The name of the limit of trainings on one of this machine's devices, such as `cpu` or `cuda:0`."""
    return f"training-{slug(socket.gethostname())}-{slug(device)}"


def ensure_limit(name: str | None = None, slots: int | None = None) -> int:
    """The slots of a limit, which is made when the server has none; a changed one stays as it is.

    Without a name it is this machine's limit of cores.
    """
    name, slots = name or limit_name(), slots or cores()
    with _one_at_a_time, get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(name).limit
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):  # another run was faster
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
            return slots


@contextlib.contextmanager
def occupied(simulators: int) -> Iterator[None]:
    """Hold the cores of `simulators` while the block runs, and wait for them first.

    Does nothing without a server: nobody else would see it, and a killed process would leave its slots taken.
    """
    if not PREFECT_API_URL.value():
        yield
        return
    name, wanted = limit_name(), max(1, min(simulators, ensure_limit()))
    with contextlib.ExitStack() as turn:
        while True:
            try:
                turn.enter_context(held(name, wanted, PATIENCE_S))
                break
            except TimeoutError:
                stopping.check()
        yield


@contextlib.contextmanager
def training_on(device: str) -> Iterator[None]:
    """Train alone on `device` while the block runs, and wait for it first, in the main thread: signals end that wait.

    Does nothing without a server. One that goes away does not end a training that has begun.
    """
    if not PREFECT_API_URL.value():
        yield
        return
    name = training_limit_name(device)
    ensure_limit(name, 1)
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name(name)
    if limit.active_slots >= limit.limit:
        logger.warning("waiting for %s: another training is on this device", name)
    with held(name, 1, None):
        yield
