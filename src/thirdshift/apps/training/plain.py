"""Facts as the JSON that people and ``jq`` read: reports, sidecars, the status."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any


def iso(seconds: float) -> str:
    """Unix seconds as an ISO time in UTC, always with microseconds, so that it sorts as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def plain(value: object) -> Any:
    """*value* made of nothing but JSON types; never fails, because a status must not end what it describes.

    Aware times become ISO text in UTC; infinities and not-a-number, which JSON does not have, become null; data
    classes become objects; everything unknown becomes its text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return _plain_collection(value)


def _plain_collection(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    return str(value)
