"""The result of an evaluation, read from the folder that it left."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lerobot_ops import envs
from lerobot_ops.artifacts import write_json
from lerobot_ops.config import Config
from lerobot_ops.errors import ArtifactError
from lerobot_ops.evaluation.clips import Clip, paths_by_task, write_sheets
from lerobot_ops.evaluation.config import EnvConfig
from lerobot_ops.evaluation.metrics import Score, eval_info, metrics, score, score_of
from lerobot_ops.evaluation.records import FILE_NAME, Record, read_records, write_records

PROVENANCE = "evaluation.json"
KEY = ("evaluation", 3)
"""What the key of an evaluation begins with; the number counts changes of what equal configurations give."""


Answer = Literal["reached", "missed", "improved", "regressed", "inconclusive"]


class Stop(Config):
    """Where an evaluation stopped, and why."""

    verdict: Answer
    """`reached` or `missed` for a bar, `improved` or `regressed` for a baseline; `inconclusive` after all episodes."""
    rounds: int
    """Episodes of each task that the result consists of."""
    of: int
    """Episodes of each task that it was to have at most."""
    ci_low: float
    ci_high: float
    """The interval of the mean of the tasks' `pc_success`, which holds whenever one stops."""
    told: str
    """A sentence for people."""


class TaskScore(Score):
    """The score of one task."""

    task: str


class EvalResult(Score):
    """The score over all tasks, and what it is made of."""

    output_dir: Path
    policy: str
    """The digest of the checkpoint, or the name of a policy without training."""
    sandbox: str
    """Kind of the sandbox: docker, venv or process."""
    identity: str
    """What the sandbox held: an image's digest, or that of the requirements and the worker's sources."""
    recipe: str
    """What the sandbox was made from; the same on every machine, where two builds of an image differ."""
    per_task: list[TaskScore]
    per_group: dict[str, Score]
    clips: list[Clip]
    clip_problems: list[str]
    """Clips that could not be made, and why."""
    notes: list[str]
    """What a reader of the success rate should know, such as episodes that began alike."""
    stop: Stop | None
    """Where it stopped, when it was to stop as soon as its question is answered."""

    @property
    def records(self) -> list[Record]:
        """Every episode, by task and number."""
        return read_records(self.output_dir / FILE_NAME)


def load_result(output_dir: Path) -> EvalResult:
    """The result in an evaluation's folder; raises ArtifactError when there is none."""
    provenance = read_provenance(output_dir)
    if provenance is None:
        raise ArtifactError("there is no finished evaluation", file=output_dir, expected=f"a folder with {PROVENANCE}")
    records = read_records(output_dir / FILE_NAME)
    groups: dict[str, list[str]] = provenance["groups"]
    sandbox = provenance["evaluation"]["sandbox"]
    tasks = dict.fromkeys(task for members in groups.values() for task in members)
    return EvalResult(
        **score(records).model_dump(),
        output_dir=output_dir,
        policy=provenance["evaluation"]["policy"]["version"],
        sandbox=sandbox["type"],
        identity=provenance["sandbox"]["identity"],
        recipe=sandbox["recipe"],
        per_task=[TaskScore(task=task, **score_of(records, [task]).model_dump()) for task in tasks],
        per_group={group: score_of(records, members) for group, members in groups.items()},
        clips=[Clip(**clip) for clip in provenance["clips"]],
        clip_problems=provenance["clip_problems"],
        notes=provenance["notes"],
        stop=Stop(**found) if (found := provenance["stop"]) else None,
    )


def write_result(folder: Path, env: EnvConfig, policy: str, found: Sequence[Record], clips: Sequence[Clip]) -> None:
    """Write the files that follow from the records; `policy` is its version, or its name if it is not trained."""
    groups = env.groups()
    described = {
        f"{group}_{env.task_id(group, task)}": envs.instruction(env.type, task)
        for group, members in groups.items()
        for task in members
    }
    info = eval_info(found, groups, paths_by_task(clips), env.task_id)
    about = {"env": env.type, "task": env.task, "policy": policy, "task_descriptions": described}
    about["eval_s"] = info["overall"]["eval_s"]
    write_records(folder / FILE_NAME, found)
    write_sheets(folder, clips)
    write_json(folder / "metrics.json", {**about, **metrics(found, groups)})
    write_json(folder / "eval_info.json", info)
    write_json(folder / "task_descriptions.json", described)


def finished_key(output_dir: Path) -> str | None:
    """The key of the finished evaluation in a folder, if there is one."""
    provenance = read_provenance(output_dir)
    return None if provenance is None else str(provenance["key"])


def read_provenance(output_dir: Path) -> dict[str, Any] | None:
    """What was measured, with what; None when the folder holds no finished evaluation."""
    path = output_dir / PROVENANCE
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content
