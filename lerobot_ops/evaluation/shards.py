"""One evaluation in parts that were played apart, and the result that they make together.

Every part is an `EvalConfig` with its `shard`, played anywhere; merged, they give the files that the evaluation in one
piece would have given, but for how the episodes came about.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from lerobot_ops.artifacts import link_or_copy, staged, write_json
from lerobot_ops.config import Config, content_key
from lerobot_ops.errors import ArtifactError
from lerobot_ops.evaluation import clips
from lerobot_ops.evaluation.clips import Clip
from lerobot_ops.evaluation.config import ClipsConfig, EnvConfig, EvalConfig
from lerobot_ops.evaluation.records import FILE_NAME, Record, read_records, repeated_beginnings
from lerobot_ops.evaluation.result import (
    KEY,
    PROVENANCE,
    EvalResult,
    finished_key,
    load_result,
    read_provenance,
    write_result,
)


class MergeConfig(Config):
    """Shards to merge."""

    shards: list[Path] = Field(min_length=1)
    """Folders of finished shards of one evaluation, in any order; a shard may be there twice."""
    output_dir: Path
    """Where the result goes."""


def shards_of(config: EvalConfig, count: int) -> list[EvalConfig]:
    """The configurations of `count` parts (or of as many as there are episodes), each with an output of its own.

    The outputs lie in `config.output_dir`, if it is set, as `shard-1-of-n` and so on.
    """
    parts = min(count, len(config.episodes()))
    configs = [config.altered("shard", f"{part}/{parts}") for part in range(1, parts + 1)]
    if config.output_dir is None:
        return configs
    places = [config.output_dir / f"shard-{part}-of-{parts}" for part in range(1, parts + 1)]
    return [each.altered("output_dir", place) for each, place in zip(configs, places, strict=True)]


def merge_shards(folders: Sequence[Path], output: Path) -> EvalResult:
    """The result of one evaluation, made of its shards' folders; when `output` holds it already, that is the result.

    An episode that several shards hold is counted once. Raises ArtifactError when a folder is no finished evaluation,
    when the shards are not of one evaluation, contradict each other, or lack episodes, and when `output` holds another.
    """
    sources = {folder: _provenance(folder) for folder in folders}
    first, *others = sources
    identity = _whole(sources[first])
    for folder in others:
        _must_agree(folder, identity, _whole(sources[folder]), first)
    key = content_key(*KEY, identity)
    if finished_key(output) == key:
        return load_result(output)
    env = EnvConfig.model_validate(identity["env"])
    found = _merged(folders, [(task, n) for task in env.tasks() for n in range(identity["n_episodes"])])
    made = _clips(found, sources, ClipsConfig.model_validate(identity["clips"]))
    with staged(output, key) as partial:
        for folder, clip in made:
            (partial / clip.path).parent.mkdir(exist_ok=True)
            link_or_copy(folder / clip.path, partial / clip.path)
        write_result(partial, env, identity["policy"]["version"], found, [clip for _, clip in made])
        provenance = {
            **sources[first],
            "key": key,
            "evaluation": identity,
            "shards": [source["evaluation"]["shard"] for source in sources.values()],
            "clips": [clip.model_dump() for _, clip in made],
            "clip_problems": sorted({problem for source in sources.values() for problem in source["clip_problems"]}),
            "notes": repeated_beginnings(found),
        }
        write_json(partial / PROVENANCE, provenance)
    return load_result(output)


def _provenance(folder: Path) -> dict[str, Any]:
    provenance = read_provenance(folder)
    if provenance is None:
        raise ArtifactError(
            "this shard is not finished",
            file=folder,
            expected=f"a folder with {PROVENANCE}",
            fix="evaluate it again: its finished episodes are kept",
        )
    return provenance


def _whole(provenance: dict[str, Any]) -> dict[str, Any]:
    """What decides the result of the evaluation that a shard is a part of."""
    return {**provenance["evaluation"], "shard": None}


def _must_agree(folder: Path, expected: dict[str, Any], found: dict[str, Any], first: Path) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(
                f"this is no shard of the evaluation in {first}",
                file=folder,
                field=name,
                found=found.get(name),
                expected=expected.get(name),
                fix="merge shards of one configuration, policy and sandbox only",
            )


def _merged(folders: Sequence[Path], wanted: list[tuple[str, int]]) -> list[Record]:
    """One record for each episode in `wanted`, in that order; one that ended well before one that ended in an error."""
    found: dict[tuple[str, int], Record] = {}
    for folder in folders:
        for record in read_records(folder / FILE_NAME):
            other = found.get(record.key)
            if other is None or (other.error is not None and record.error is None):
                found[record.key] = record
            elif record.error is None and record.outcome() != other.outcome():
                raise ArtifactError(
                    "an episode went differently in two shards",
                    file=folder,
                    field=f"{record.task} episode {record.episode}",
                    found=f"{record.steps} steps, success {record.success}",
                    expected=f"{other.steps} steps, success {other.success}",
                )
    if missing := [key for key in wanted if key not in found]:
        named = ", ".join(f"{task} {number}" for task, number in missing[:5])
        raise ArtifactError(
            f"{len(missing)} of {len(wanted)} episodes are in no shard",
            found=named + (" …" if len(missing) > 5 else ""),
            fix="merge all shards, from 1/n to n/n",
        )
    return [found[key] for key in wanted]


def _clips(found: list[Record], sources: dict[Path, dict[str, Any]], config: ClipsConfig) -> list[tuple[Path, Clip]]:
    """The clips that the evaluation in one piece has, and the shard that each is in.

    A shard's first successes and failures of a task are more than the evaluation's, so none is lacking that was made.
    """
    made = {
        (clip["task"], clip["episode"]): (folder, Clip(**clip))
        for folder in sources
        for clip in sources[folder]["clips"]
    }
    picked = clips.chosen(found, config) if config.enable else []
    return [made[record.key] for record in picked if record.key in made]
