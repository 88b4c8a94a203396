"""Any value as the JSON that people, ``jq`` and pages read: status, reports, progress, ``--json``. One way only.

The codec is for reading back; this is for showing, so it may lose types and never fails.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any


def plain(value: object) -> Any:
    """Return *value* made of nothing but JSON types; never fails, because a status must not end what it describes.

    Aware times become ISO text in UTC, spans seconds, data classes objects, enums their value; infinities and
    not-a-number, which JSON does not have, become text, as does everything unknown.
    """
    match value:
        case Enum():
            return plain(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case datetime():
            return _iso(value)
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return str(value)


def _iso(moment: datetime) -> str:
    """Return an aware *moment* in UTC, always with microseconds, so that it sorts as text; a naive one as it is."""
    return moment.isoformat() if moment.tzinfo is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
