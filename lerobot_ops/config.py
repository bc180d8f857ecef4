"""The base of every configuration: strict, immutable, documented by its attributes, and named by its content."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A configuration that refuses unknown fields and cannot change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


def content_key(*parts: object) -> str:
    """A 64-digit name of `parts` (JSON values or configs): equal content, equal name, whatever the order of fields."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(part: object) -> Any:
    return part.model_dump(mode="json") if isinstance(part, BaseModel) else part
