"""Recording as a step: whose turn at a robot it is, what the operator is asked in a browser, and what is tracked."""

import contextlib
from collections.abc import Iterator
from typing import Literal
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from pydantic import Field, ValidationError

from lerobot_ops.errors import ArtifactError, PrerequisiteError
from lerobot_ops.recording.hardware import HardwareFacts
from lerobot_ops.recording.operator import Decision, EpisodeReport, Operator, Plan
from lerobot_ops.robots.robot import RobotConfig
from tasks.cores import ensure_limit
from tasks.progress import unless_away
from tasks.slots import AWAY, held
from tasks.steps import slug

POLL_S = 1
"""Between two looks at whether the form was sent."""


class Take(RunInput):
    """What an operator says before an episode."""

    action: Literal["record", "redo", "stop"] = Field(
        default="record",
        description="record it; redo the one before, which is taken out of the dataset; or stop here",
    )
    task: str = Field(min_length=1, description="what the robot does, in a sentence; it is stored with every frame")
    episodes: int = Field(ge=0, description="how many this run records")


class Form(Operator):
    """Asks through Prefect: before every episode the run pauses until somebody fills in its form.

    The robot holds its pose meanwhile. An answer that is not valid is asked for again. When nobody answers for
    `timeout_s` the session ends as if it had been told to stop.
    """

    def __init__(self, timeout_s: int) -> None:
        self._timeout_s = timeout_s
        self._asked = 0
        self._logger = get_run_logger()

    def ready(self, plan: Plan) -> Decision:
        problem = ""
        while True:
            try:
                answer = self._ask(plan, problem)
            except ValidationError as error:
                problem = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            except FlowPauseTimeout:
                self.say(f"nobody answered for {self._timeout_s} s: the recording ends here")
                return Decision(action="stop")
            except AWAY as error:
                raise PrerequisiteError(
                    "the Prefect server went away while it was to ask for the next episode",
                    found=str(error) or repr(error),
                    fix="start it again and run the flow with resume=true; what was saved is in the dataset",
                ) from None
            else:
                return Decision(action=answer.action, task=answer.task, wanted=answer.episodes)

    def say(self, message: str) -> None:
        self._logger.info(message)

    def _ask(self, plan: Plan, problem: str) -> Take:
        self._asked += 1
        form = Take.with_initial_data(
            description=question(plan, problem), action="record", task=plan.task, episodes=plan.wanted
        )
        key = f"episode-{self._asked}"
        answer: Take = pause_flow_run(wait_for_input=form, timeout=self._timeout_s, poll_interval=POLL_S, key=key)
        return answer


def question(plan: Plan, problem: str = "") -> str:
    """What the form says, as Markdown."""
    lines = [f"## Episode {plan.number} of {plan.wanted}", ""]
    if problem:
        lines += [f"**Not understood:** {problem}", ""]
    if plan.last is not None:
        last, timing = plan.last, plan.last.timing
        lines += [
            f"The one before ({last.frames} frames at {timing.rate:.1f} Hz, {last.task!r}) is saved as episode "
            f"{last.episode}; `redo` takes it out again.",
            "",
        ]
    lines.append("Put everything in place. The robot holds its pose, and moves as soon as you send this.")
    return "\n".join(lines)


def robot_name(config: RobotConfig) -> str:
    """How a robot is called: its kind and which of them."""
    return slug(f"{config.type} {config.id or ''}")


def robot_page(found: HardwareFacts) -> str:
    """What a look at the hardware found, as Markdown."""
    return f"## Hardware\n\n```\n{found}\n```\n"


@contextlib.contextmanager
def turn_at(config: RobotConfig, patience_s: float) -> Iterator[None]:
    """Hold the one slot of the robot's global limit; without a server the robot's serial port is exclusive enough.

    Raises ArtifactError when another run holds it for longer than `patience_s`. A lease that cannot be renewed does not
    interrupt a recording: the port is exclusive, too.
    """
    if not PREFECT_API_URL.value():
        yield
        return
    name = f"robot-{robot_name(config)}"
    ensure_limit(name, 1)
    with contextlib.ExitStack() as turn:
        try:
            turn.enter_context(held(name, 1, patience_s))
        except TimeoutError:
            fix = f"wait for that run, or cancel it; when none is left: prefect gcl update {name} --active-slots 0"
            raise ArtifactError("another run has the robot", field=name, fix=fix) from None
        yield


class Told:
    """How far a recording is, as a progress artifact."""

    def __init__(self, name: str, wanted: int) -> None:
        self._name, self._wanted, self._saved = name, max(1, wanted), 0
        self._artifact: UUID | None = None
        with unless_away():
            self._artifact = create_progress_artifact(0.0, f"recording-{slug(name)}", f"{name}: nothing yet")  # type: ignore[assignment]

    def add(self, report: EpisodeReport) -> None:
        """One more episode is on disk."""
        self._saved += 1
        sentence = f"{self._name}: episode {report.episode}, {report.frames} frames. {report.timing}"
        if self._artifact is not None:
            with unless_away():
                share = min(100.0, 100 * self._saved / self._wanted)
                update_progress_artifact(self._artifact, share, description=sentence)


def metrics_of(report: EpisodeReport) -> dict[str, float]:
    """What MLflow keeps of an episode."""
    timing = report.timing
    return {
        "frames": report.frames,
        "rate_hz": timing.rate,
        "jitter_ms_p99": timing.jitter_ms_p99,
        "jitter_ms_max": timing.jitter_ms_max,
        "overruns": timing.overruns,
        "skipped": timing.skipped,
        "repeated_frames": sum(report.repeated.values()),
        "limited_frames": sum(report.limited.values()),
        "interventions": report.interventions,
        "backlog": report.backlog,
        "save_s": report.save_s,
        **{f"oldest_ms/{name}": age for name, age in report.oldest_ms.items()},
    }
