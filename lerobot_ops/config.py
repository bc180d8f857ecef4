"""The base of every configuration: strict, immutable, documented by its attributes, and named by its content."""

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """A configuration that refuses unknown fields and cannot change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, values: Any) -> Any:
        """Lay every nested mapping over its field's default, so that one parameter changes one thing.

        Naming another `type` than the default's starts from that type's own defaults instead.
        """
        if not isinstance(values, dict):
            return values
        result = dict(values)
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if not isinstance(value, dict) or field is None or field.is_required():
                continue
            default = field.get_default(call_default_factory=True)
            if isinstance(default, Config) and value.get("type", default.tag) == default.tag:
                result[name] = merged(default.model_dump(), value)
        return result

    @property
    def tag(self) -> str | None:
        """The `type` that tells variants apart, where there are any."""
        return getattr(self, "type", None)

    def altered(self, field: str, value: Any) -> Self:
        """A copy in which one field, dotted when it is nested, holds `value`."""
        name, _, rest = field.partition(".")
        return self.model_copy(update={name: getattr(self, name).altered(rest, value) if rest else value})


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`, mapping by mapping."""
    result = dict(base)
    for key, value in top.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def content_key(*parts: object) -> str:
    """A 64-digit name of `parts` (JSON values or configs): equal content, equal name, whatever the order of fields."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(part: object) -> Any:
    return part.model_dump(mode="json") if isinstance(part, BaseModel) else part
