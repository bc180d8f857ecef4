"""Measure a policy: play its episodes on a pool of simulators, record each one, and compute what the records say.

An interrupted evaluation that is started again plays only the episodes that it lacks. Neither the number of simulators
nor an interruption changes a record.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerobot_ops import envs
from lerobot_ops.artifacts import staged, write_json
from lerobot_ops.config import content_key
from lerobot_ops.errors import CheckpointError, PrerequisiteError, SandboxError
from lerobot_ops.evaluation import clips, pool, records, rollout
from lerobot_ops.evaluation.actors import Act, Actor, Query, load_actor
from lerobot_ops.evaluation.clips import Clip
from lerobot_ops.evaluation.config import EvalConfig, simulators
from lerobot_ops.evaluation.metrics import eval_info, metrics
from lerobot_ops.evaluation.records import Record, RecordLog
from lerobot_ops.evaluation.result import PROVENANCE, EvalResult, finished_key, load_result
from lerobot_ops.evaluation.rollout import Episode, Progress
from lerobot_ops.evaluation.sandbox import Sandbox, Worker, open_sandbox
from lerobot_ops.evaluation.workers import WorkerPark
from lerobot_ops.versioning.digest import digest

logger = logging.getLogger(__name__)
ERRORS_IN_A_ROW = 5
"""After so many the simulator is broken, and playing on would only waste time."""


def evaluate(config: EvalConfig, *, on_record: Callable[[Record], None] | None = None) -> EvalResult:
    """Measure the policy of `config` on its benchmark.

    `on_record` is called once for every episode of the result; for those of an interrupted evaluation at once.
    Leaves in the output folder: `records.jsonl` (the records), `metrics.json` (what depends on outcomes alone),
    `eval_info.json` (LeRobot's), `task_descriptions.json`, `evaluation.json` (what was measured, with what), `clips/`.
    When the output folder holds this very evaluation already, that is the result.

    Raises CheckpointError, PrerequisiteError, SandboxError, and ArtifactError when the output folder holds another.
    """
    actor = load_actor(config.policy)
    sandbox = open_sandbox(config.env.type, config.sandbox)
    identity = _identity(config, actor, sandbox)
    key = content_key("evaluation", 1, identity)
    output = config.output_dir or Path("outputs", "eval", key[:12])
    if finished_key(output) == key:
        return load_result(output)
    with _open_workers(config, actor, sandbox) as workers, staged(output, key) as partial:
        evaluation = _Evaluation(config, actor, workers, partial)
        found = evaluation.play_missing(on_record or _ignore)
        made, problems = evaluation.film(found)
        _write(partial, config, found, made)
        provenance = {
            "key": key,
            "evaluation": identity,
            "groups": config.env.groups(),
            "sandbox_reason": sandbox.reason,
            "versions": workers.info["versions"],
            "clips": [clip.model_dump() for clip in made],
            "clip_problems": problems,
        }
        write_json(partial / PROVENANCE, provenance)
    return load_result(output)


def _identity(config: EvalConfig, actor: Actor | None, sandbox: Sandbox) -> dict[str, Any]:
    """All that decides the result: an interrupted evaluation is continued only by the same one."""
    version = config.policy.path if config.policy.is_sanity else digest(Path(config.policy.path))
    return {
        "env": config.env.model_dump(mode="json"),
        "policy": {
            "version": version,
            "device": config.policy.device,
            **(actor.facts if actor else {"type": "expert"}),
        },
        "n_episodes": config.eval.n_episodes,
        "seed": config.seed,
        "clips": config.clips.model_dump(mode="json"),
        "sandbox": {"type": sandbox.kind, "identity": sandbox.identity},
    }


def _open_workers(config: EvalConfig, actor: Actor | None, sandbox: Sandbox) -> WorkerPark:
    """Workers that can show what the policy reads; raises when they cannot, before an episode is played."""
    cameras = actor.cameras if actor else []
    try:
        workers = WorkerPark(sandbox, {"options": config.env.options, "video": bool(cameras or config.clips.enable)})
    except PrerequisiteError as error:
        if cameras or not config.clips.enable:
            raise
        raise PrerequisiteError(
            f"clips cannot be rendered: {error}\n  or:       evaluate without clips, --clips.enable=false"
        ) from error
    try:
        known = [key for key in workers.info["features"] if key != "action"]
        _check_reads(config.env.type, actor.observation_keys if actor else [], known)
    except CheckpointError:
        workers.close()
        raise
    return workers


def _check_reads(benchmark: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    if lacking := [key for key in wanted if key not in known]:
        raise CheckpointError(
            f"the policy reads what {benchmark} does not show",
            field="policy.path",
            found=", ".join(lacking),
            expected=", ".join(known),
            fix="train on a dataset that was collected from this benchmark",
        )


class _Evaluation:
    """One evaluation at work in its partial folder."""

    def __init__(self, config: EvalConfig, actor: Actor | None, workers: WorkerPark, folder: Path) -> None:
        self.config, self.actor, self.workers, self.folder = config, actor, workers, folder
        self.cameras = actor.cameras if actor else []
        self.last = actor.last if actor else 1
        most = workers.info["max_steps"]
        self.episodes = [
            Episode(task, number, config.seed + number, config.env.limit(task, most))
            for task in config.env.tasks()
            for number in range(config.eval.n_episodes)
        ]

    def play_missing(self, on_record: Callable[[Record], None]) -> list[Record]:
        """Play the episodes without a record, and those that ended in an error; all records, in order."""
        with RecordLog(self.folder / records.FILE_NAME) as log:
            finished = {record.key: record for record in log.records if record.error is None}
            for record in finished.values():
                on_record(record)
            failures: list[Record] = []

            def keep(episode: Episode, result: Record | pool.Failure) -> None:
                record = _error_record(episode, result) if isinstance(result, pool.Failure) else result
                log.append(record)
                finished[record.key] = record
                on_record(record)
                failures.append(record) if record.error else failures.clear()
                if len(failures) >= ERRORS_IN_A_ROW:
                    problem = f"{len(failures)} episodes in a row ended in an error; the last: {record.error}"
                    raise SandboxError(problem, fix="mend the benchmark and run again: finished episodes are kept")

            self._run([episode for episode in self.episodes if episode.key not in finished], self._play, keep)
        ordered = [finished[episode.key] for episode in self.episodes]
        if all(record.error is not None for record in ordered):
            raise SandboxError("every episode ended in an error", found=ordered[0].error)
        return ordered

    def film(self, found: Sequence[Record]) -> tuple[list[Clip], list[str]]:
        """The clips, in the order of `found`, and what went wrong with the others."""
        if not self.config.clips.enable:
            return [], []
        shutil.rmtree(self.folder / clips.FOLDER, ignore_errors=True)
        wanted = {record.key: record for record in clips.chosen(found, self.config.clips)}
        (self.folder / clips.FOLDER).mkdir()
        made: dict[tuple[str, int], Clip] = {}
        problems: list[str] = []

        def film(worker: Worker, episode: Episode, turn: pool.Turn, desk: pool.Desk) -> Clip | clips.Unfaithful:
            record = wanted[episode.key]
            cameras, last = self.cameras, self.last
            return clips.film(worker, episode, record, self._act(desk), self.folder, self.config.clips, cameras, last)

        def keep(episode: Episode, result: Clip | clips.Unfaithful | pool.Failure) -> None:
            if isinstance(result, Clip):
                made[episode.key] = result
                return
            problem = f"no clip: {result.error}" if isinstance(result, pool.Failure) else str(result)
            logger.warning(problem)
            problems.append(problem)

        self._run([episode for episode in self.episodes if episode.key in wanted], film, keep)
        return [made[key] for key in wanted if key in made], sorted(problems)

    def _run(self, episodes: list[Episode], play: Callable[..., Any], keep: Callable[..., None]) -> None:
        count = simulators(self.config.eval.batch_size, len(episodes))
        take, park = self.workers.take, self.workers.park
        with self.actor.at_work() if self.actor else contextlib.nullcontext():
            pool.run(episodes, spawn=take, retire=park, play=play, deliver=keep, workers=count)

    def _play(self, worker: Worker, episode: Episode, turn: pool.Turn, desk: pool.Desk) -> Record:
        act = self._act(desk)
        if act is None:
            return rollout.play_expert(worker, episode, turn)[0]
        return rollout.play(worker, episode, act, cameras=self.cameras, last=self.last, turn=turn)

    def _act(self, desk: pool.Desk) -> Act | None:
        """How a worker's thread queries the policy: it runs in the pool's thread alone."""
        actor = self.actor
        if actor is None:
            return None

        decide = desk.ask(actor.episode)

        def act(query: Query) -> NDArray[np.float32]:
            return desk.ask(decide, query)

        return act


def _error_record(episode: Episode, failure: pool.Failure) -> Record:
    return Progress(episode, failure.turn).record(error=str(failure.error))


def _write(folder: Path, config: EvalConfig, found: Sequence[Record], made: Sequence[Clip]) -> None:
    """The files that follow from the records."""
    groups, films = config.env.groups(), clips.paths_by_task(made)
    names = {
        f"{group}_{config.env.task_id(group, task)}": task for group, members in groups.items() for task in members
    }
    records.write_records(folder / records.FILE_NAME, found)
    write_json(folder / "metrics.json", {"env": config.env.type, "task": config.env.task, **metrics(found, groups)})
    write_json(folder / "eval_info.json", eval_info(found, groups, films))
    described = {name: envs.instruction(config.env.type, task) for name, task in names.items()}
    write_json(folder / "task_descriptions.json", described)


def _ignore(record: Record) -> None:
    pass
