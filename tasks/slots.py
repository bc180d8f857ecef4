"""Slots of a global concurrency limit, held as long as a block runs, whatever becomes of the server meanwhile."""

import contextlib
import logging
from collections.abc import Iterator

import httpx
from prefect.concurrency.sync import concurrency
from prefect.exceptions import PrefectHTTPStatusError

logger = logging.getLogger(__name__)
LEASE_S = 60.0
"""After which the slots of a killed process are free again."""
AWAY = (httpx.HTTPError, PrefectHTTPStatusError, OSError)
"""What a server that does not answer raises."""


@contextlib.contextmanager
def held(name: str, slots: int, patience_s: float | None) -> Iterator[None]:
    """Hold slots of a limit that exists; raises TimeoutError when they are not free within `patience_s`;
    None waits for as long as it takes.

    A server that goes away neither interrupts the block nor changes how it ends.
    """
    turn = concurrency(
        name,
        occupy=slots,
        timeout_seconds=patience_s,
        lease_duration=LEASE_S,
        strict=True,
        raise_on_lease_renewal_failure=False,
    )
    turn.__enter__()
    try:
        yield
    finally:
        try:
            turn.__exit__(None, None, None)
        except AWAY as error:
            logger.warning("%s was not given back: %s; prefect gcl update %s --active-slots 0", name, error, name)
