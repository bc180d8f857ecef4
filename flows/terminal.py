"""A flow from the terminal: `python -m flows.NAME --config_path=FILE --a.b=value`, without any server.

A problem that the user can mend ends in its one message and exit code 1 (2 when the configuration is wrong); only what
nobody expected shows a traceback.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from prefect.exceptions import FailedRun

from lerobot_ops.errors import ConfigError, OpsError
from lerobot_ops.flags import describe, parse

R = TypeVar("R")

QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}
"""Nothing is sent anywhere unless the user says so; a loaded machine may take its time to start the server."""


def main(flow: Callable[..., R], model: type[Any], finish: Callable[[R], None] | None = None) -> None:
    """Run `flow` on the configuration that the command line describes."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(f"{(flow.__doc__ or '').strip()}\n")
        for flag, kind, default, sentence in describe(model):
            print(f"  {flag} {kind} (default: {default})" + (f"\n      {sentence}" if sentence else ""))
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        config = parse(model, arguments)
        hide_expected_tracebacks()
        with _without_heartbeats():
            result = flow(config)
    except OpsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except FailedRun as error:  # the state that the flow chose says it all
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    if finish:
        finish(result)


def _without_heartbeats() -> contextlib.AbstractContextManager[Any]:
    """Without a server nobody waits for a run's heartbeats, and stopping them costs each sub-flow a second."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    if PREFECT_API_URL.value():
        return contextlib.nullcontext()
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


class _ExpectedErrors(logging.Filter):
    """Keeps the message of an expected error and drops its traceback, which tells the user nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], OpsError):
            record.msg, record.args = "stopped: %s", (record.exc_info[1].problem,)
            record.exc_info = None
        return True


def hide_expected_tracebacks() -> None:
    """Keep Prefect's loggers from printing the traceback of an error that has its own message."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_ExpectedErrors())
