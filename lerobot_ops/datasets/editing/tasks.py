"""Editing what the robot was told to do: task texts of episodes, of single tasks, or of the whole dataset."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from lerobot_ops.datasets.editing.recipe import Recipe
from lerobot_ops.datasets.editing.source import Kept, Source, open_source
from lerobot_ops.datasets.editing.write import EditPlan, EditResult, write
from lerobot_ops.errors import DatasetError, did_you_mean


def modify_tasks(
    source: Path,
    target: Path,
    *,
    new_task: str | None = None,
    episode_tasks: Mapping[int, str] | None = None,
    task_replacements: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> EditResult | EditPlan:
    """Write the dataset `source` with other task texts to `target`.

    The text of a frame is the first that applies: `episode_tasks` of its episode, `task_replacements` of the text that
    it had, `new_task`, the text that it had. Equal texts become one task; tasks are numbered in the order in which
    they first appear. Raises DatasetError when an episode or a text to replace does not exist, or a text is empty.
    """
    opened = open_source(source)
    episodes, replacements = dict(episode_tasks or {}), dict(task_replacements or {})
    _check(opened, new_task, episodes, replacements)

    def texts(kept: Kept, _: pa.Table) -> list[str]:
        if kept.episode in episodes:
            return [episodes[kept.episode]] * kept.count
        known = {text: replacements.get(text, new_task or text) for text in kept.tasks}
        runs = kept.rows.tasks
        ends = [first for first, _ in runs[1:]] + [kept.count]
        return [
            known[opened.tasks[task]] for (first, task), end in zip(runs, ends, strict=True) for _ in range(first, end)
        ]

    kept = [Kept(opened, number) for number in range(len(opened.rows))]
    return write({target: Recipe(kept, opened.info, tasks=texts)}, dry_run)[0]


def _check(source: Source, new_task: str | None, episodes: Mapping[int, str], replacements: Mapping[str, str]) -> None:
    if new_task is None and not episodes and not replacements:
        raise DatasetError(
            "no new task is named",
            file=source.root,
            field="new_task, episode_tasks, task_replacements",
            expected="at least one of them",
        )
    named = {"new_task": new_task} if new_task is not None else {}
    named |= {f"episode_tasks.{number}": text for number, text in episodes.items()}
    named |= {f"task_replacements.{text}": new for text, new in replacements.items()}
    for field, text in named.items():
        if not text.strip():
            raise DatasetError(
                "a task is empty", file=source.root, field=field, found=repr(text), expected="a sentence"
            )
    total = len(source.rows)
    for number in episodes:
        if not 0 <= number < total:
            raise DatasetError(
                "the dataset has no such episode",
                file=source.root,
                field="episode_tasks",
                found=number,
                expected=f"0 to {total - 1}",
                fix="nothing was written; correct the number",
            )
    used = {text for number in range(total) for text in Kept(source, number).tasks}
    for text in replacements:
        if text not in used:
            raise DatasetError(
                "no frame has the task that is to be replaced",
                file=source.root,
                field="task_replacements",
                found=text,
                fix=did_you_mean(text, used),
            )
