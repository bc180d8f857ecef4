"""From the command line to a configuration: `--config_path=FILE[:SECTION]`, then `--a.b.c=value` on top of it.

The same nested flags that LeRobot takes. Values are YAML scalars, lists or mappings; `@FILE:SECTION` stands for what a
file holds there. Every problem of a configuration
is reported at once, with the close matches of a mistyped name.
"""

import itertools
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from lerobot_ops.config import merged
from lerobot_ops.errors import ConfigError, did_you_mean

C = TypeVar("C", bound=BaseModel)


def parse(model: type[C], arguments: Sequence[str], *positional: str) -> C:
    """The configuration that `arguments` describe; raises ConfigError with every problem in one message.

    First arguments that are no flags are the values of the fields `positional`.
    """
    values: dict[str, Any] = {}
    plain = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[: len(positional)]))
    named = [f"--{name}={value}" for name, value in zip(positional, plain, strict=False)]
    arguments = [*named, *arguments[len(plain) :]]
    flags = _split(arguments)
    for name, text in flags:
        if name == "config_path":
            values = merged(values, read_section(text))
    for name, text in flags:
        if name != "config_path":
            values = merged(values, _nested(name, text))
    return build(model, values, source="the command line")


def read_section(reference: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, or in one of its sections: `params.yaml`, `params.yaml:train`."""
    name, _, section = reference.partition(":")
    path = Path(name)
    if not path.is_file():
        raise ConfigError("the configuration file does not exist", file=path, fix="check --config_path")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError("the configuration file is not valid YAML", file=path, found=str(error)) from error
    for key in filter(None, section.split(".")):
        if not isinstance(content, dict) or key not in content:
            known = content if isinstance(content, dict) else {}
            raise ConfigError("the file has no such section", file=path, found=key, fix=did_you_mean(key, known))
        content = content[key]
    if not isinstance(content, dict):
        raise ConfigError(
            "a configuration is a mapping", file=path, field=section or None, found=type(content).__name__
        )
    return content


def build(model: type[C], values: dict[str, Any], source: str | Path) -> C:
    """`values` as a `model`; raises ConfigError that names every wrong field, what was found and what is expected."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_sentence(model, values, dict(problem)) for problem in error.errors(include_url=False)]
        raise ConfigError("the configuration is not valid:\n" + "\n".join(problems), file=source) from error


def describe(model: type[BaseModel], arguments: Sequence[str] = ()) -> Iterator[tuple[str, str, str, str]]:
    """(flag, type, default, sentence) of every field of `model` and of the models nested in it.

    Of variants only that one is described that `arguments` choose by `--NAME.type=…`, or else the default, if any.
    """
    after = next((number for number, argument in enumerate(arguments) if argument.startswith("--")), len(arguments))
    flags = _split([argument for argument in arguments[after:] if argument != "-h"])
    chosen = {name: value for name, value in flags if name.endswith(".type")}
    for flag, field, variants in _walk(model, "", chosen):
        kind, sentence = _type_name(field.annotation), " ".join((field.description or "").split())
        if variants:
            kind = " | ".join(variants)
            sentence = f"Every type has flags of its own: {flag}=… --help shows them."
        default = "required" if field.is_required() else _short(field.get_default(call_default_factory=True))
        yield flag, kind, default, sentence


def _split(arguments: Sequence[str]) -> list[tuple[str, str]]:
    flags = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if not argument.startswith("--"):
            raise ConfigError("an argument is not a flag", found=argument, expected="--name=value")
        name, equals, text = argument[2:].partition("=")
        if not equals:  # `--name value`, or `--name` alone for true
            text = pending.pop(0) if pending and not pending[0].startswith("--") else "true"
        flags.append((name.replace("-", "_"), text))
    return flags


def _nested(name: str, text: str) -> dict[str, Any]:
    value: Any
    try:
        value = read_section(text[1:]) if text.startswith("@") else yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        value = text
    for key in reversed(name.split(".")):
        value = {key: value}
    return typing.cast(dict[str, Any], value)


def _sentence(model: type[BaseModel], values: dict[str, Any], problem: dict[str, Any]) -> str:
    parent, path = _located(model, values, [str(part) for part in problem["loc"]])
    field = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = parent.model_fields if parent else {}
        return f"  {field}: unknown parameter; {did_you_mean(path[-1], known)}"
    if problem["type"] == "missing":
        return f"  {field}: missing; add --{field}=…"
    message = problem["msg"].removeprefix("Value error, ")
    found = "" if isinstance(problem["input"], dict | BaseModel) else f" (found {problem['input']!r})"
    return f"  {field}: {message}{found}" if field else f"  {message}{found}"


def _located(model: type[BaseModel], values: Any, location: list[str]) -> tuple[type[BaseModel] | None, list[str]]:
    """The model that has the last part of `location`, and its path as flags say it: pydantic puts in tags of unions.

    Of a union, the member that the value's `type` names.
    """
    here: type[BaseModel] | None = model
    path: list[str] = []
    of_mapping: Any = None
    for part in location:
        if of_mapping is None and here is not None and part not in here.model_fields and part == _chosen(values):
            continue
        path.append(part)
        if of_mapping is not None:
            annotation, of_mapping = of_mapping, None
        elif here is not None and part in here.model_fields and len(path) < len(location):
            annotation = here.model_fields[part].annotation
        else:
            continue
        values = values.get(part) if isinstance(values, dict) else None
        if typing.get_origin(annotation) is dict:
            here, of_mapping = None, typing.get_args(annotation)[1]
            continue
        members = list(_models(annotation))
        tagged = [member for member in members if _tag(member) == _chosen(values)]
        here = next(iter(tagged or members), None)
    return here, path


def _chosen(values: Any) -> Any:
    return values.get("type") if isinstance(values, dict) else getattr(values, "type", None)


def _walk(
    model: type[BaseModel], prefix: str, chosen: dict[str, str], variants: Sequence[str] = ()
) -> Iterator[tuple[str, FieldInfo, Sequence[str]]]:
    """(flag, field, variants) of all fields; `variants` are the types that a field named `type` may choose."""
    for name, field in model.model_fields.items():
        flag, nested = f"--{prefix}{field.alias or name}", list(_models(field.annotation))
        if not nested:
            yield flag, field, variants if name == "type" else ()
        tags = [str(_tag(member)) for member in nested] if len(nested) > 1 and all(map(_tag, nested)) else []
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        wanted = chosen.get(f"{prefix}{name}.type", str(getattr(default, "type", None)))
        if tags and wanted not in tags:
            yield f"{flag}.type", field, tags
            continue
        for member in nested:
            if not tags or str(_tag(member)) == wanted:
                yield from _walk(member, f"{prefix}{name}.", chosen, tags)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field of this annotation holds directly: a model, an optional one or a union of some."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _models(part)


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("type")
    return field.default if field else None


def _type_name(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join("None" if part is types.NoneType else _type_name(part) for part in parts)
    if isinstance(origin, type) and origin is not typing.Literal:
        return f"{origin.__name__}[{', '.join(map(_type_name, parts))}]"
    if isinstance(annotation, type):
        tag = annotation.model_fields.get("type") if issubclass(annotation, BaseModel) else None
        variant = tag is not None and typing.get_origin(tag.annotation) is typing.Literal
        return str(tag.default) if tag is not None and variant else annotation.__name__
    return re.sub(r"\b\w[\w.]*\.(?=\w)", "", str(annotation))


def _short(value: Any) -> str:
    return json.dumps(to_jsonable_python(value), ensure_ascii=False)
