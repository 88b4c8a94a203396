"""Arguments and results come back as equal values of the same types, and what cannot is refused by name."""

import contextlib
import enum
import json
import math
import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thirdshift.core import codec
from thirdshift.core.codec import DecodeError
from thirdshift.core.errors import NotSerialisable, PayloadTooLarge


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("deep", 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    RUN = enum.auto()


@dataclass(frozen=True)
class Point:
    x: float
    y: Any = None


@dataclass
class Account:
    owner: str
    points: list[Point] = field(default_factory=list)
    number: int = field(init=False, default=0)


Pair = namedtuple("Pair", "a b")  # noqa: PYI024  # an ordinary one, as users have them

ZONES = st.sampled_from(
    [None, UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), timezone(timedelta(hours=5, minutes=45))]
)
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # half characters too
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    TEXT,
    st.binary(max_size=8),
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.builds(Path, st.text("ab/.", max_size=6)),
    st.sampled_from(Colour),
    st.sampled_from(Level),
    st.sampled_from([Right.READ, Right.READ | Right.RUN, Right(0), Right.READ | Right.WRITE | Right.RUN]),
)
MOMENTS = st.datetimes(timezones=ZONES)
VALUES = st.recursive(
    HASHABLE | MOMENTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.frozensets(HASHABLE, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.dictionaries(TEXT | st.sampled_from(["$", "$tuple", "$dict"]), inner, max_size=4),
        st.builds(Point, st.floats(allow_nan=False), inner),
        st.builds(Account, TEXT, st.lists(st.builds(Point, st.just(1.0)), max_size=2)),
    ),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """The types of a value, all the way down."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [shape(item) for item in value]
    if kind is dict:
        return kind, {key: shape(item) for key, item in value.items()}
    if kind in (set, frozenset):
        return kind, sorted(str(type(item)) for item in value)
    if kind is Point:
        return kind, shape(value.y)
    return kind


@settings(max_examples=400, deadline=None)
@given(VALUES)
def test_every_promised_type_comes_back_equal(value: Any) -> None:
    """Nested as deep as one likes, through bytes."""
    found = codec.decode_result(codec.encode_result(value))
    assert found == value
    assert shape(found) == shape(value)


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, max_size=3), st.dictionaries(TEXT, VALUES, max_size=3))
def test_arguments_come_back_equal(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Positional as a tuple, named in their order, whatever their names."""
    found_args, found_kwargs = codec.decode_arguments(codec.encode_arguments(args, kwargs))
    assert found_args == tuple(args)
    assert list(found_kwargs.items()) == list(kwargs.items())


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda i: st.lists(i) | st.dictionaries(st.sampled_from([*codec._UNWRAPPERS, "$x", "y"]), i),
        max_leaves=6,
    ).map(lambda value: json.dumps([1, value]).encode())
)
def test_any_stored_bytes_are_read_or_refused(data: bytes) -> None:
    """Damaged or foreign bytes are a DecodeError, never another exception."""
    with contextlib.suppress(DecodeError):
        codec.decode_result(data)


def test_special_numbers_come_back() -> None:
    """JSON has no form for them."""
    found = codec.decode_result(codec.encode_result([math.nan, math.inf, -math.inf, -0.0, Decimal("NaN"), 10**400]))
    assert math.isnan(found[0])
    assert found[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, found[3]) == -1
    assert found[4].is_nan()
    assert found[5] == 10**400


def test_both_moments_of_a_repeated_hour_come_back() -> None:
    """The fold is kept, with the zone's name."""
    berlin = ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        moment = datetime(2030, 10, 27, 2, 30, tzinfo=berlin, fold=fold)
        found = codec.decode_result(codec.encode_result(moment))
        assert (found.utcoffset(), found.fold, found.tzinfo) == (moment.utcoffset(), fold, berlin)


def test_equal_arguments_have_one_hash() -> None:
    """In every process, whatever the order of their sets and dicts, and others have another."""
    letters = "abcdefgh"
    made_in = [
        codec.hash_of_arguments((set(order), 1.5), {"by": {key: [frozenset(order)] for key in order}, "x": None})
        for order in (letters, letters[::-1])
    ]
    assert made_in[0] == made_in[1]
    code = "from thirdshift.core import codec; print(codec.hash_of_arguments(({'a', 'b', 'c'}, 'é'), {}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    different: list[tuple[Any, ...]] = [
        ((1,), {}),
        (("1",), {}),
        ((), {"a": 1}),
        (([1],), {}),
        (({1},), {}),
        ((1.0,), {}),
    ]
    assert len({codec.hash_of_arguments(args, kwargs) for args, kwargs in different}) == len(different)


class Unknown:
    """What no codec knows."""


def local_class() -> Any:
    @dataclass
    class Local:
        x: int

    return Local(1)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Unknown(), r"argument 2 is a .*Unknown, which cannot be stored"),
        ({1: 2}, r"argument 2 is a builtins\.int, which cannot be stored \(keys of a dict must be strings\)"),
        ([{"a": {Unknown()}}], "Unknown, which cannot be stored"),
        (CYCLE, "it contains itself or is nested too deeply"),
        (local_class(), "its class cannot be imported"),
        (OrderedDict(a=1), r"collections\.OrderedDict"),
        (Pair(1, 2), "Pair"),
        (PureWindowsPath("a"), "PureWindowsPath"),
        pytest.param(10**5000, "limit", id="an integer of 5000 digits"),
        (len, "builtin_function_or_method"),
        (Point, "builtins.type"),
    ],
)
def test_what_cannot_be_stored_is_named(value: Any, words: str) -> None:
    """The argument, the type, and what could be stored instead."""
    with pytest.raises(NotSerialisable, match=words) as caught:
        codec.encode_arguments([1, value], {})
    assert "Use JSON-like data, datetime, date" in str(caught.value)


def test_a_named_argument_and_a_result_are_named_too() -> None:
    """As the caller knows them."""
    with pytest.raises(NotSerialisable, match="argument 'when' is a"):
        codec.encode_arguments([], {"when": Unknown()})
    with pytest.raises(NotSerialisable, match="the result is a"):
        codec.encode_result(Unknown())


def test_sizes_are_limited() -> None:
    """To the byte; the message says what to do instead."""
    fits = "x" * (codec.LIMIT_BYTES - len('[1,""]'))
    assert codec.decode_result(codec.encode_result(fits)) == fits
    with pytest.raises(PayloadTooLarge, match=r"the result takes 1,000,001 bytes; the limit is 1,000,000\. Store it"):
        codec.encode_result(fits + "x")
    with pytest.raises(PayloadTooLarge, match="the arguments takes"):
        codec.encode_arguments([fits], {})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{}", "not payload version 1"),
        (b"[]", "not payload version 1"),
        (b"[2, 1]", "not payload version 1; a newer Thirdshift may have written them"),
        (b"[1, 1, 2]", "not payload version 1"),
        (b'[1, {"$later": 1}]', "unknown tag \\$later; a newer Thirdshift may have written them"),
        (b'[1, {"$enum": ["no.such.module:Colour", "RED"]}]', "class that cannot be imported here"),
        (b'[1, {"$enum": ["enum:Gone", "RED"]}]', "class that cannot be imported here"),
        (b'[1, {"$enum": ["subprocess:run", "RED"]}]', "is not the kind of class"),
        (b'[1, {"$dataclass": ["subprocess:Popen", {"args": "true"}]}]', "is not the kind of class"),
        (b'[1, {"$date": "2030-13-01"}]', r"kind \$date cannot be read"),
        (b'[1, {"$decimal": "ten"}]', r"kind \$decimal cannot be read"),
        (b'[1, {"$set": [[1]]}]', r"kind \$set cannot be read"),
    ],
)
def test_bytes_of_another_version_are_refused(data: bytes, words: str) -> None:
    """Or of a class that is gone; data never calls code that is no class of the kind it says."""
    with pytest.raises(DecodeError, match=words):
        codec.decode_result(data)


def test_a_class_that_lost_a_field_or_a_member_is_a_decode_error() -> None:
    """Code changes while data is stored."""
    stored = codec.encode_result([Colour.RED]).replace(b'"RED"', b'"GREEN"')
    with pytest.raises(DecodeError, match="GREEN"):
        codec.decode_result(stored)
    stored = codec.encode_result(Point(1.0)).replace(b'"y"', b'"z"')
    with pytest.raises(DecodeError, match="unexpected keyword argument"):
        codec.decode_result(stored)


def test_a_value_is_stored_as_plain_json() -> None:
    """Readable with any tool."""
    assert json.loads(codec.encode_result({"a": [1, "ä", None]})) == [1, {"a": [1, "ä", None]}]
    assert codec.encode_result(date(2030, 1, 2)) == b'[1,{"$date":"2030-01-02"}]'
    assert codec.encode_result(UUID(int=1)) == b'[1,{"$uuid":"' + b"0" * 31 + b'1"}]'
