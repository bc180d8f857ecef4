"""A configuration from a file and from flags, and what a wrong one says."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from lerobot_ops.config import Config
from lerobot_ops.errors import ConfigError
from lerobot_ops.flags import describe, parse


class Small(Config):
    type: Literal["small"] = "small"
    width: int = 64
    """Units of a layer."""


class Large(Config):
    type: Literal["large"] = "large"
    depth: int = 4


class Run(Config):
    steps: int = 100
    """How many updates."""
    policy: Annotated[Small | Large, Field(discriminator="type")] = Small()
    episodes: list[int] | None = None
    fast: bool = False
    output: Path


def test_the_first_argument_may_stand_for_a_field() -> None:
    assert parse(Run, ["here", "--steps=3"], "output") == Run(steps=3, output=Path("here"))
    with pytest.raises(ConfigError, match="not a flag"):
        parse(Run, ["here"])


def test_flags_lie_on_top_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train:\n  steps: 7\n  policy: {type: small, width: 8}\n  output: here\n")
    run = parse(Run, [f"--config_path={file}:train", "--policy.width=16", "--episodes=[1, 2]", "--fast"])
    assert run == Run(steps=7, policy=Small(width=16), episodes=[1, 2], fast=True, output=Path("here"))


def test_the_type_chooses_the_variant_and_a_value_may_follow_its_flag() -> None:
    assert parse(Run, ["--policy.type", "large", "--policy.depth", "9", "--output", "x"]).policy == Large(depth=9)


def test_help_names_the_types_of_nested_values() -> None:
    class Rig(Config):
        parts: dict[str, Annotated[Small | Large, Field(discriminator="type")]] = {}
        speed: Annotated[float, Field(gt=0)] | None = None

    shown = {flag: kind for flag, kind, _, _ in describe(Rig)}
    assert shown == {"--parts": "dict[str, small | large]", "--speed": "float | None"}


class Rack(Config):
    shelves: dict[str, Annotated[Small | Large, Field(discriminator="type")]] = {}
    policy: Annotated[Small | Large, Field(discriminator="type")]


def test_a_problem_inside_a_variant_is_named_as_its_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Rack, ["--shelves={top: {type: large, dept: 3}}", "--policy.type=small", "--policy.widht=2"])
    message = str(caught.value)
    assert "shelves.top.dept: unknown parameter; did you mean 'depth'?" in message
    assert "policy.widht: unknown parameter; did you mean 'width'?" in message


class Preset(Config):
    policy: Annotated[Small | Large, Field(discriminator="type")] = Small(width=8)
    nested: Run = Run(steps=1, output=Path("x"))


def test_one_flag_changes_one_thing_of_a_default() -> None:
    preset = parse(Preset, ["--nested.fast=true"])
    assert preset.nested == Run(steps=1, output=Path("x"), fast=True)
    assert parse(Preset, ["--policy.width=9"]).policy == Small(width=9)
    assert parse(Preset, ["--policy.type=small"]).policy == Small(width=8)
    assert parse(Preset, ["--policy.type=large"]).policy == Large()


def test_a_flag_may_take_its_mapping_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("policies:\n  tall: {type: large, depth: 12}\n")
    assert parse(Run, [f"--policy=@{file}:policies.tall", "--output=x"]).policy == Large(depth=12)


def test_every_problem_is_named_at_once_with_close_matches() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Run, ["--stepz=3", "--policy.widht=3", "--episodes=many"])
    message = str(caught.value)
    assert "stepz: unknown parameter; did you mean 'steps'?" in message
    assert "widht: unknown parameter; did you mean 'width'?" in message
    assert "output: missing; add --output=" in message
    assert "episodes" in message
    assert "'many'" in message


def test_an_unknown_section_suggests_the_one_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train: {steps: 3}\n")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        parse(Run, [f"--config_path={file}:trian"])


def test_a_file_that_is_no_yaml_and_a_file_that_is_missing_are_named(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train: [1, 2\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse(Run, [f"--config_path={file}"])
    with pytest.raises(ConfigError, match="does not exist"):
        parse(Run, ["--config_path=nowhere.yaml"])


def test_the_description_lists_nested_fields_with_their_sentences() -> None:
    lines = {flag: (kind, default, sentence) for flag, kind, default, sentence in describe(Run)}
    assert lines["--steps"] == ("int", "100", "How many updates.")
    assert lines["--policy.width"][2] == "Units of a layer."
    assert lines["--policy.type"][:2] == ("small | large", '"small"')
    assert "--policy.depth" not in lines
    large = [flag for flag, *_ in describe(Run, ["here", "--policy.type", "large", "-h"])]
    assert "--policy.depth" in large
    assert "--policy.width" not in large
    assert lines["--output"][1] == "required"
