"""A configuration as MLflow parameters."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

PARAM_LIMIT = 6000
TAG_LIMIT = 8000
KEY_LIMIT = 250
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_\-. /:]")


def flatten(config: BaseModel | Mapping[str, Any]) -> dict[str, str]:
    """Dotted names and texts of every field: {"policy": {"type": "act"}} gives {"policy.type": "act"}.

    Lists become JSON, None becomes "null". A text over MLflow's limit is cut and ends with "…".
    """
    plain = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
    return {name(key): cut(_text(value), PARAM_LIMIT) for key, value in _leaves("", plain)}


def name(key: str) -> str:
    """`key` in the characters and the length that MLflow takes for metrics, parameters and tags."""
    return _FORBIDDEN.sub("_", key)[:KEY_LIMIT] or "_"


def cut(text: str, limit: int) -> str:
    """`text`, or its first `limit` characters with the last one replaced by "…"."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping) and value:
        return [
            leaf for key, item in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else str(key), item)
        ]
    return [(prefix, value)] if prefix else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
