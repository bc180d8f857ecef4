"""Kinds of a thing (cameras, robots, teleoperators), told apart by their `type`: ours, and those of others."""

import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, Generic, TypeVar, Union

from pydantic import BeforeValidator, Field

from lerobot_ops.config import Config
from lerobot_ops.errors import did_you_mean

C = TypeVar("C", bound=Config)


class Variants(Generic[C]):
    """The configurations that a field may hold; an entry point, named after its `type`, points to one."""

    def __init__(self, thing: str, group: str, base: type[C], ours: Mapping[str, type[C]]) -> None:
        self.thing, self.base = thing, base
        self.types: dict[str, type[C]] = dict(ours)
        for entry in entry_points(group=group):
            try:
                self.types[entry.name] = self._checked(entry.load(), entry.name)
            except Exception as error:  # a stranger's package must not take everything down with it
                warnings.warn(f"the {thing} {entry.name!r} of {entry.value} cannot be used: {error!r}", stacklevel=2)

    def annotation(self) -> Any:
        """The type of a field that holds any of them, chosen by `type`; an unknown one names those that are close."""
        choice: Any = Union[tuple(self.types.values())]  # noqa: UP007 - the members are known only at run time
        tagged = Annotated[choice, Field(discriminator="type")] if len(self.types) > 1 else choice
        return Annotated[tagged, BeforeValidator(self._known)]

    def _known(self, value: Any) -> Any:
        if isinstance(value, self.base):
            return value
        if not isinstance(value, dict) or "type" not in value:
            raise ValueError(f"a {self.thing} has a type: {did_you_mean('', self.types)}")
        if value["type"] not in self.types:
            raise ValueError(
                f"unknown type of {self.thing} {value['type']!r}; {did_you_mean(str(value['type']), self.types)}"
            )
        return value

    def _checked(self, config: Any, name: str) -> type[C]:
        if not (isinstance(config, type) and issubclass(config, self.base)):
            raise TypeError(f"it is no {self.base.__name__}")
        if config.model_fields["type"].default != name:
            raise TypeError(f"the default of its `type` is {config.model_fields['type'].default!r}")
        return config
