"""Steps: what is up to date is not done again, and what changed or was lost is."""

import shutil
from pathlib import Path

from prefect import flow, task

from lerobot_ops.config import Config
from tasks.steps import CACHED, Artifact, Links, current_key, place, run_step


class Recipe(Config):
    word: str = "press"
    count: int = 2


@task(name="write", version="1", **CACHED)
def write(recipe: Recipe, source: Artifact, links: Links) -> Artifact:
    """Write the source's text `count` times, and leave a mark that work was done."""
    root = place("texts", recipe.word, current_key())
    text = (source.path / "text").read_text()
    root.mkdir(parents=True, exist_ok=True)
    (root / "text").write_text(text * recipe.count)
    with open("work.log", "a") as log:
        log.write(f"{recipe.count}\n")
    return Artifact.at(root, "dataset", recipe.word, current_key())


@flow
def write_once(recipe: Recipe, source: Path, links: Links) -> Artifact:
    return run_step(write, recipe=recipe, source=Artifact.at(source, "dataset"), links=links)


def work_done() -> int:
    return len(Path("work.log").read_text().splitlines())


def make_source(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "text").write_text(text)
    return path


def test_a_second_run_does_no_work_wherever_the_input_lies_and_whoever_watches(workspace: Path) -> None:
    first = write_once(Recipe(), make_source(workspace / "a", "x"), Links(parent_run="1"))
    second = write_once(Recipe(), make_source(workspace / "b", "x"), Links(parent_run="2"))
    assert first == second
    assert work_done() == 1


def test_another_configuration_or_input_is_another_artifact(workspace: Path) -> None:
    source = make_source(workspace / "a", "x")
    first = write_once(Recipe(), source, Links())
    second = write_once(Recipe(count=3), source, Links())
    (source / "text").write_text("y")
    third = write_once(Recipe(), source, Links())
    assert len({artifact.path for artifact in (first, second, third)}) == 3
    assert (first.path / "text").read_text() == "xx"
    assert work_done() == 3


def test_an_output_that_was_lost_or_cut_is_made_again(workspace: Path) -> None:
    source = make_source(workspace / "a", "long")
    first = write_once(Recipe(), source, Links())
    shutil.rmtree(first.path)
    assert write_once(Recipe(), source, Links()) == first
    (first.path / "text").write_text("l")
    assert write_once(Recipe(), source, Links()) == first
    assert (first.path / "text").read_text() == "longlong"
    assert work_done() == 3
