"""Arguments and results as bytes: JSON with tags for the types that JSON lacks, never pickle.

Version 1 is a JSON array that starts with its version: ``[1, args, kwargs]`` for arguments, ``[1, value]`` for results.
A value that JSON has no form for becomes an object with one key that starts with ``$``; a dict that has such a key
itself is written as ``{"$dict": [[key, value], …]}``. Reading gives back equal values of the same types.
"""

import base64
import dataclasses
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, Flag
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from thirdshift.core.dependency import ResultOf
from thirdshift.core.errors import NotSerialisable, PayloadTooLarge
from thirdshift.core.reference import reference_of, resolve

VERSION = 1
LIMIT_BYTES = 1_000_000
"""The most bytes that the arguments, or the result, of one task may take."""
HANDED_ON_LIMIT_BYTES = 64_000_000
"""The most bytes that all results may take that are handed on to one task."""

_PLAIN = frozenset({str, int, bool, type(None)})
_UNORDERED = ("$set", "$frozenset")
_decode_json = json.JSONDecoder().decode
_encode_json = json.JSONEncoder(
    ensure_ascii=False,
    separators=(",", ":"),
    allow_nan=False,
    check_circular=False,  # _wrap has met every container
).encode


_NO_ARGUMENTS = f"[{VERSION},[],{{}}]".encode()
_REFERENCE = re.compile(rb'\{"\$result":"([^"]*)"\}')
"""Only a :class:`ResultOf` is written so: within a text the quotes have backslashes, and a dict with such a key becomes
``$dict``."""
REFERENCE_MARK = b'{"$result":'
"""What encoded arguments have that stand for results."""
_BEFORE_RESULT, _AFTER_RESULT = len(f"[{VERSION},"), len("]")


class DecodeError(ValueError):
    """Stored bytes are not what this version can read."""


def encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any], *, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Return *args* and *kwargs* as bytes.

    Raises :class:`NotSerialisable` naming the argument, or :class:`PayloadTooLarge`.
    """
    if not args and not kwargs:
        return _NO_ARGUMENTS
    positional = [
        value if type(value) in _PLAIN else _wrap_as(f"argument {number}", value)
        for number, value in enumerate(args, start=1)
    ]
    named = {
        name: value if type(value) in _PLAIN else _wrap_as(f"argument {name!r}", value)
        for name, value in kwargs.items()
    }
    return _encode([VERSION, positional, named], "the arguments", limit_bytes)


def decode_arguments(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what :func:`encode_arguments` was given; raises :class:`DecodeError`."""
    if data == _NO_ARGUMENTS:
        return (), {}
    _, args, kwargs = _decode(data, 3)
    return tuple(map(_unwrap, args)), {name: _unwrap(value) for name, value in kwargs.items()} if kwargs else {}


def references(arguments: bytes) -> list[str]:
    """Return the ids of the tasks whose results encoded *arguments* stand for, each once; quick when there are none."""
    if REFERENCE_MARK not in arguments:
        return []
    return list(dict.fromkeys(map(bytes.decode, _REFERENCE.findall(arguments))))


def filled_in(arguments: bytes, results: Mapping[str, bytes | None]) -> bytes:
    """Return encoded *arguments* with encoded results in their places; a known task without one has returned ``None``.

    Reading arguments that need the result of an unknown task raises :class:`DecodeError`.
    """

    def value_of(found: re.Match[bytes]) -> bytes:
        task_id = found[1].decode()
        if task_id not in results:
            return _lost(f"the result of task {task_id} is not there any more: it was pruned or deleted")
        result = results[task_id]
        return b"null" if result is None else result[_BEFORE_RESULT:-_AFTER_RESULT]

    return _REFERENCE.sub(value_of, arguments)


def refused(arguments: bytes, why: str) -> bytes:
    """Return encoded *arguments* that raise :class:`DecodeError` when they are read, where they stand for results."""
    limit = f"{why}; the limit is {HANDED_ON_LIMIT_BYTES:,}. Hand on paths or keys"
    return _REFERENCE.sub(lambda _: _lost(limit), arguments)


def _lost(why: str) -> bytes:
    return _encode_json({"$lost": why}).encode()


def hash_of_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that are the same, in every process, for equal arguments, and for no others.

    Raises what :func:`encode_arguments` raises. Neither the order of a dict nor that of a set counts.
    """
    document = _canonical(json.loads(encode_arguments(args, kwargs).decode("utf-8", "surrogatepass")))
    return hashlib.blake2b(_sortable(document).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _canonical(item) for key, item in value.items()}
    for tag in _UNORDERED:
        if isinstance(found.get(tag), list):
            found[tag].sort(key=_sortable)
    return found


def _sortable(document: Any) -> str:
    return json.dumps(document, sort_keys=True, ensure_ascii=False)


def encode_result(value: Any, *, where: str = "the result", limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Return *value* as bytes; raises :class:`NotSerialisable` or :class:`PayloadTooLarge`, which name *where*."""
    plain = value if type(value) in _PLAIN else _wrap_as(where, value)
    return _encode([VERSION, plain], where, limit_bytes)


def decode_result(data: bytes) -> Any:
    """Return what :func:`encode_result` was given; raises :class:`DecodeError`."""
    return _unwrap(_decode(data, 2)[1])


def _encode(document: list[Any], where: str, limit_bytes: int) -> bytes:
    try:
        data = _encode_json(document).encode("utf-8", "surrogatepass")
    except ValueError as error:  # an integer of more digits than Python turns into text
        raise NotSerialisable(where, document[1], str(error)) from error
    if len(data) > limit_bytes:
        raise PayloadTooLarge(where, len(data), limit_bytes)
    return data


def _decode(data: bytes, length: int) -> list[Any]:
    try:
        document = _decode_json(data.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise DecodeError(f"stored bytes are not JSON ({error})") from error
    if not isinstance(document, list) or not document or document[0] != VERSION or len(document) != length:
        raise DecodeError(f"stored bytes are not payload version {VERSION}; a newer Thirdshift may have written them")
    return document


def _wrap_as(where: str, value: Any) -> Any:
    try:
        return _wrap(value)
    except _CannotWrap as refusal:
        raise NotSerialisable(where, refusal.value, refusal.why) from refusal.__cause__
    except RecursionError:
        raise NotSerialisable(where, value, "it contains itself or is nested too deeply") from None


class _CannotWrap(Exception):  # never leaves this module
    def __init__(self, value: Any, why: str = "") -> None:
        self.value = value
        self.why = why


def _wrap(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    wrap = _WRAPPERS.get(kind)
    if wrap is not None:
        return wrap(value)
    for matches, wrap in _WRAPPERS_BY_TEST:
        if matches(value):
            return wrap(value)
    raise _CannotWrap(value)


def _wrap_float(value: float) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _wrap_list(value: list[Any]) -> Any:
    return [_wrap(item) for item in value]


def _wrap_dict(value: dict[Any, Any]) -> Any:
    for key in value:
        if type(key) is not str:
            raise _CannotWrap(key, "keys of a dict must be strings")
    if any(key.startswith("$") for key in value):
        return {"$dict": [[key, _wrap(item)] for key, item in value.items()]}
    return {key: _wrap(item) for key, item in value.items()}


def _wrap_datetime(value: datetime) -> Any:
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    return {"$datetime": [value.isoformat(), zone, value.fold]}


def _wrap_timedelta(value: timedelta) -> Any:
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


def _wrap_flag(value: Flag) -> Any:
    """A combination of flags has no name that finds it again."""
    return {"$flag": [_class_reference(value), value.value]}


def _wrap_enum(value: Enum) -> Any:
    return {"$enum": [_class_reference(value), value.name]}


def _wrap_dataclass(value: Any) -> Any:
    fields = {field.name: _wrap(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"$dataclass": [_class_reference(value), fields]}


def _wrap_msgspec(value: Any) -> Any:
    return {"$msgspec": [_class_reference(value), sys.modules["msgspec"].to_builtins(value, str_keys=True)]}


def _wrap_pydantic(value: Any) -> Any:
    return {"$pydantic": [_class_reference(value), value.model_dump(mode="json")]}


def _class_reference(value: Any) -> str:
    try:
        return reference_of(type(value))
    except Exception as error:
        raise _CannotWrap(value, "its class cannot be imported") from error


def _is_instance_of(module: str, name: str) -> Callable[[Any], bool]:
    """Test for a class of an optional library without importing it: who holds an instance has imported it."""

    def matches(value: Any) -> bool:
        library = sys.modules.get(module)
        return library is not None and isinstance(value, getattr(library, name))

    return matches


_WRAPPERS: dict[type, Callable[[Any], Any]] = {
    float: _wrap_float,
    list: _wrap_list,
    dict: _wrap_dict,
    tuple: lambda value: {"$tuple": _wrap_list(value)},
    set: lambda value: {"$set": [_wrap(item) for item in value]},
    frozenset: lambda value: {"$frozenset": [_wrap(item) for item in value]},
    bytes: lambda value: {"$bytes": base64.b64encode(value).decode()},
    datetime: _wrap_datetime,
    date: lambda value: {"$date": value.isoformat()},
    timedelta: _wrap_timedelta,
    UUID: lambda value: {"$uuid": value.hex},
    Decimal: lambda value: {"$decimal": str(value)},
    ResultOf: lambda value: {"$result": value.task_id},
}

_WRAPPERS_BY_TEST: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (lambda value: isinstance(value, Flag), _wrap_flag),
    (lambda value: isinstance(value, Enum), _wrap_enum),
    (lambda value: isinstance(value, Path), lambda value: {"$path": str(value)}),
    (lambda value: dataclasses.is_dataclass(value) and not isinstance(value, type), _wrap_dataclass),
    (_is_instance_of("msgspec", "Struct"), _wrap_msgspec),
    (_is_instance_of("pydantic", "BaseModel"), _wrap_pydantic),
)


def _unwrap(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_unwrap(item) for item in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        (tag,) = value
        if tag.startswith("$"):
            return _untag(tag, value[tag])
    return {key: _unwrap(item) for key, item in value.items()}


def _untag(tag: str, payload: Any) -> Any:
    unwrap = _UNWRAPPERS.get(tag)
    if unwrap is None:
        raise DecodeError(f"stored bytes use the unknown tag {tag}; a newer Thirdshift may have written them")
    try:
        return unwrap(payload)
    except (ImportError, AttributeError) as error:
        raise DecodeError(f"a stored value needs a class that cannot be imported here: {error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"a stored value of the kind {tag} cannot be read: {error}") from error


def _unwrap_lost(payload: str) -> Any:
    raise DecodeError(payload)


def _unwrap_datetime(payload: list[Any]) -> datetime:
    text, zone, fold = payload
    moment = datetime.fromisoformat(text).replace(fold=fold)
    return moment if zone is None else moment.replace(tzinfo=ZoneInfo(zone))


def _unwrap_flag(payload: list[Any]) -> Any:
    return _resolve_class(payload[0], lambda found: issubclass(found, Flag))(payload[1])


def _unwrap_enum(payload: list[Any]) -> Any:
    return _resolve_class(payload[0], lambda found: issubclass(found, Enum))[payload[1]]


def _unwrap_dataclass(payload: list[Any]) -> Any:
    cls = _resolve_class(payload[0], dataclasses.is_dataclass)
    values = {name: _unwrap(value) for name, value in payload[1].items()}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    instance = cls(**{name: value for name, value in values.items() if name not in fields or fields[name].init})
    for name, value in values.items():
        if name in fields and not fields[name].init:
            object.__setattr__(instance, name, value)
    return instance


def _unwrap_msgspec(payload: list[Any]) -> Any:
    cls = _resolve_class(payload[0], lambda found: hasattr(found, "__struct_fields__"))
    return sys.modules["msgspec"].convert(payload[1], cls)


def _unwrap_pydantic(payload: list[Any]) -> Any:
    return _resolve_class(payload[0], lambda found: hasattr(found, "model_validate")).model_validate(payload[1])


def _resolve_class(reference: str, is_expected: Callable[[Any], bool]) -> Any:
    """Import the class that *reference* names; anything else under that name is refused, so data cannot call code."""
    found = resolve(reference)
    if not isinstance(found, type) or not is_expected(found):
        raise DecodeError(f"{reference} is not the kind of class that the stored value says it is")
    return found


_UNWRAPPERS: dict[str, Callable[[Any], Any]] = {
    "$dict": lambda payload: {key: _unwrap(value) for key, value in payload},
    "$float": float,
    "$tuple": lambda payload: tuple(map(_unwrap, payload)),
    "$set": lambda payload: set(map(_unwrap, payload)),
    "$frozenset": lambda payload: frozenset(map(_unwrap, payload)),
    "$bytes": base64.b64decode,
    "$datetime": _unwrap_datetime,
    "$date": date.fromisoformat,
    "$timedelta": lambda payload: timedelta(days=payload[0], seconds=payload[1], microseconds=payload[2]),
    "$uuid": UUID,
    "$decimal": Decimal,
    "$path": Path,
    "$result": ResultOf,
    "$lost": _unwrap_lost,
    "$flag": _unwrap_flag,
    "$enum": _unwrap_enum,
    "$dataclass": _unwrap_dataclass,
    "$msgspec": _unwrap_msgspec,
    "$pydantic": _unwrap_pydantic,
}
