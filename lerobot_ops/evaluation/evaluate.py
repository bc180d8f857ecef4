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

from lerobot_ops import envs
from lerobot_ops.artifacts import staged, write_json
from lerobot_ops.config import content_key
from lerobot_ops.errors import CheckpointError, ConfigError, PrerequisiteError, SandboxError
from lerobot_ops.evaluation import clips, pool, records, rollout, sequential
from lerobot_ops.evaluation.actors import Act, Actor, Queries, load_actor, located
from lerobot_ops.evaluation.clips import Clip
from lerobot_ops.evaluation.comparison import records_file
from lerobot_ops.evaluation.config import EvalConfig, StopConfig
from lerobot_ops.evaluation.records import Record, RecordLog, repeated_beginnings
from lerobot_ops.evaluation.result import KEY, PROVENANCE, EvalResult, finished_key, load_result, write_result
from lerobot_ops.evaluation.rollout import Episode, Progress
from lerobot_ops.evaluation.sandbox import Sandbox, Worker, open_sandbox
from lerobot_ops.evaluation.workers import WorkerPark, crew, measured
from lerobot_ops.hub.checkpoints import checkpoint_digest
from lerobot_ops.versioning.digest import digest

logger = logging.getLogger(__name__)
ERRORS_IN_A_ROW = 5
"""After so many the simulator is broken, and playing on would only waste time."""


def evaluate(config: EvalConfig, *, on_record: Callable[[Record], None] | None = None) -> EvalResult:
    """Measure the policy of `config` on its benchmark.

    `on_record` is called once for every episode of the result, for those of an interrupted evaluation at once; and for
    those that are dropped because `eval.stop` had its answer when they ended.
    Leaves in the output folder: `records.jsonl` (the records), `metrics.json` (the scores, as LeRobot's CI has them),
    `eval_info.json` (LeRobot's), `task_descriptions.json`, `evaluation.json` (what was measured, with what), `clips/`.
    When the output folder holds this very evaluation already, that is the result.

    Raises CheckpointError, PrerequisiteError, SandboxError, and ArtifactError when the output folder holds another.
    """
    config = config.model_copy(update={"policy": located(config.policy)})
    actor, stop = _load_actor(config), sequential.rule(config)
    sandbox = open_sandbox(config.env.type, config.sandbox, config.env.options)
    identity = _identity(config, actor, sandbox)
    key = content_key(*KEY, identity)
    output = config.output_dir or Path("outputs", "eval", key[:12])
    if finished_key(output) == key:
        return load_result(output)
    with _open_workers(config, actor, sandbox) as workers, staged(output, key) as partial:
        evaluation = _Evaluation(config, actor, workers, partial, stop)
        found = evaluation.play_missing(on_record or _ignore)
        made, problems = evaluation.film(found)
        notes = [*([stop.outcome().told] if stop else []), *repeated_beginnings(found)]
        for note in notes:
            logger.warning(note)
        write_result(partial, config.env, identity["policy"]["version"], found, made)
        provenance = {
            "key": key,
            "evaluation": identity,
            "groups": config.env.groups(),
            "sandbox": {"identity": sandbox.identity, "reason": sandbox.reason},
            "simulators": evaluation.simulators,
            "versions": workers.info["versions"],
            "clips": [clip.model_dump() for clip in made],
            "clip_problems": problems,
            "notes": notes,
            "stop": stop.outcome().model_dump() if stop else None,
        }
        write_json(partial / PROVENANCE, provenance)
    return load_result(output)


def _load_actor(config: EvalConfig) -> Actor | None:
    """The actor; raises ConfigError for the expert of a benchmark that has none."""
    actor = load_actor(config.policy, config.eval.policy_batch, config.rename_map)
    if actor is None and not envs.benchmark(config.env.type).has_expert:
        raise ConfigError(
            f"{config.env.type} has no scripted expert",
            field="policy.path",
            found="expert",
            expected="a checkpoint's folder, zero or random; or replay, with --policy.dataset=FOLDER",
        )
    return actor


def _identity(config: EvalConfig, actor: Actor | None, sandbox: Sandbox) -> dict[str, Any]:
    """All that decides the result: an interrupted evaluation is continued only by the same one."""
    source = config.policy
    version = source.path
    if source.dataset is not None:
        version = digest(source.dataset)
    elif not source.is_sanity:
        version = checkpoint_digest(Path(source.path))
    renaming = {} if config.rename_map is None else {"rename_map": config.rename_map}
    return {
        "env": config.env.model_dump(mode="json"),
        "policy": {
            "version": version,
            "device": source.device,
            **(actor.facts if actor else {"type": "expert"}),
            **renaming,
        },
        "n_episodes": config.eval.n_episodes,
        "seed": config.seed,
        "shard": config.shard,
        "stop": _stop_identity(config.eval.stop),
        "clips": config.clips.model_dump(mode="json"),
        "sandbox": {"type": sandbox.kind, "recipe": sandbox.recipe},
    }


def _stop_identity(stop: StopConfig) -> dict[str, Any] | None:
    if not stop.is_set:
        return None
    baseline = digest(records_file(stop.baseline)) if stop.baseline else None
    return {"bar": stop.bar, "baseline": baseline, "alpha": stop.alpha}


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


class _Answered(Exception):  # noqa: N818 (no error: it ends a pool that has played enough)
    """The question is answered; what is still being played is dropped."""


class _Evaluation:
    """One evaluation at work in its partial folder."""

    def __init__(
        self,
        config: EvalConfig,
        actor: Actor | None,
        workers: WorkerPark,
        folder: Path,
        stop: sequential.Rule | None = None,
    ) -> None:
        self.config, self.actor, self.workers, self.folder, self.stop = config, actor, workers, folder, stop
        self.cameras = actor.cameras if actor else []
        self.last = actor.last if actor else 1
        self.queries = Queries(actor) if actor else None
        self.simulators = ""
        """How many run at once, and why."""
        self.episodes = [self._episode(task, number) for task, number in config.episodes()]

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
                if self.stop and self.stop.answered(finished):
                    raise _Answered

            if not (self.stop and self.stop.answered(finished)):
                missing = [episode for episode in self.episodes if episode.key not in finished]
                with contextlib.suppress(_Answered):
                    self._run(self._in_rounds(missing), self._play, keep)
        if self.stop:
            self.episodes = [episode for episode in self.episodes if episode.number < self.stop.rounds]
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

    def _episode(self, task: str, number: int) -> Episode:
        limit = self.config.env.limit(task, self.workers.info["max_steps"])
        own = self.actor.steps(envs.instruction(self.config.env.type, task), number) if self.actor else None
        return Episode(task, number, self.config.seed + number, limit if own is None else min(limit, own))

    def _in_rounds(self, episodes: list[Episode]) -> list[Episode]:
        """In the order in which a rule looks at them: one of every task, then the next."""
        return sorted(episodes, key=lambda episode: episode.number) if self.stop else episodes

    def _run(self, episodes: list[Episode], play: Callable[..., Any], keep: Callable[..., None]) -> None:
        if not episodes:
            return
        requested = self.config.eval.batch_size
        memory = None if requested else measured(self.workers, episodes[0], self.cameras)
        together = crew(requested, len(episodes), memory)
        if not self.simulators:
            self.simulators = f"{together.count}: {together.reason}"
            logger.info("simulators: %s", self.simulators)
        with self.actor.at_work() if self.actor else contextlib.nullcontext():
            pool.run(
                episodes,
                spawn=self.workers.take,
                retire=self.workers.park,
                play=play,
                deliver=keep,
                workers=together.count,
                kind=lambda episode: None if self.stop else episode.task,
            )

    def _play(self, worker: Worker, episode: Episode, turn: pool.Turn, desk: pool.Desk) -> Record:
        act = self._act(desk)
        if act is None:
            return rollout.play_expert(worker, episode, turn)[0]
        return rollout.play(worker, episode, act, cameras=self.cameras, last=self.last, turn=turn)

    def _act(self, desk: pool.Desk) -> Act | None:
        """How a worker's thread queries the policy: it runs in the pool's thread alone."""
        return self.queries.act(desk) if self.queries else None


def _error_record(episode: Episode, failure: pool.Failure) -> Record:
    return Progress(episode, failure.turn).record(error=str(failure.error))


def _ignore(record: Record) -> None:
    pass
