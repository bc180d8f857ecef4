"""A flow from the terminal: `python -m flows.NAME --config_path=FILE --a.b=value`, without any server.

`--links.tracking.experiment=value` and its like say where the run is recorded: a deployment's parameter `links`.

A problem that the user can mend ends in its one message and exit code 1 (2 when the configuration is wrong); only what
nobody expected shows a traceback.
"""

import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from prefect.exceptions import FailedRun
from pydantic import create_model

from lerobot_ops.errors import ConfigError, OpsError
from lerobot_ops.flags import describe, parse
from tasks.steps import Links

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
    arguments, command = sys.argv[1:], _command(flow, model)
    if {"-h", "--help"} & set(arguments):
        print(f"{(flow.__doc__ or '').strip()}\n")
        for flag, kind, default, sentence in describe(command):
            print(f"  {flag} {kind} (default: {default})" + (f"\n      {sentence}" if sentence else ""))
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        config, links = _parsed(model, command, arguments)
        hide_expected_tracebacks()
        with _without_heartbeats():
            result = flow(config, **links)
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


def _command(flow: Callable[..., Any], model: type[Any]) -> type[Any]:
    """The flow's configuration, with `links` beside it where the flow has that parameter."""
    if "links" not in inspect.signature(flow).parameters:
        return model
    return create_model(model.__name__, __base__=model, links=(Links, Links()))


def _parsed(model: type[Any], command: type[Any], arguments: list[str]) -> tuple[Any, dict[str, Links]]:
    """The configuration, and where the run is recorded if the command line says so."""
    parsed = parse(command, arguments)
    if command is model:
        return parsed, {}
    config = model(**{name: getattr(parsed, name) for name in model.model_fields})
    return config, {"links": parsed.links}


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
