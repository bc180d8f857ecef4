"""Containers by the flow run that they work for."""

import contextlib
from collections.abc import Mapping

from prefect import runtime

from lerobot_ops.errors import OpsError
from lerobot_ops.evaluation.sandbox.docker import remove_labelled

RUN, ROOT_RUN = "prefect.flow-run-id", "prefect.root-flow-run-id"


def run_labels() -> Mapping[str, str]:
    """What a container says about the flow run that it works for, and about the one that started that."""
    ids = {RUN: runtime.flow_run.id, ROOT_RUN: runtime.flow_run.root_flow_run_id}
    return {name: str(found) for name, found in ids.items() if found}


def remove_containers() -> None:
    """Remove the containers of the flow run that is running, on this machine, whichever process started them."""
    with contextlib.suppress(OpsError):  # without an engine there are none
        remove_labelled({RUN: str(runtime.flow_run.id)})
