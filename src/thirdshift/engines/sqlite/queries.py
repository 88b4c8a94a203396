"""The SQL of this engine, read from ``sql/*.sql``: one named query each, with the reason why it is safe above it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_VALUES = re.compile(r"\bVALUES (\([?, ]+\))")
_CHUNKS = (512, 64, 8, 1)
"""Rows that one statement takes: few sizes, so that all stay prepared."""


def _load() -> dict[str, str]:
    queries: dict[str, str] = {}
    for file in _files("sql"):
        parts = _NAME.split(file.read_text("utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in queries:
                raise ValueError(f"{file.name}: the query {name} exists twice")
            queries[name] = _without_comments(text)
    return queries


def migrations() -> list[tuple[int, str]]:
    """Return every migration as (schema version it leads to, script), in order."""
    return [(int(file.name[:4]), file.read_text("utf-8")) for file in _files("migrations")]


def _files(folder: str) -> list[Traversable]:
    entries = resources.files(__package__).joinpath(folder).iterdir()
    return sorted((entry for entry in entries if entry.name.endswith(".sql")), key=lambda entry: entry.name)


def _without_comments(text: str) -> str:
    lines = (line.partition("--")[0].rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line).removesuffix(";")


QUERY = _load()
"""Every query by its name."""


def in_chunks(name: str, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the query *name*, whose ``VALUES`` stand for one row, as statements of many rows, with their parameters.

    Python gives up its interpreter lock at every step of a statement and has to win it back. One statement of 64 rows
    does that once, and meanwhile the other threads run.
    """
    if len(rows) == 1:  # the usual case of a submit
        yield QUERY[name], list(rows[0])
        return
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            yield _of_many_rows(name, size), [value for row in rows[start : start + size] for value in row]
            start += size


def leaving_out(name: str, functions: Iterable[str]) -> tuple[str, list[Any]]:
    """Return the query *name* without the tasks of *functions*, and its last parameters.

    A query of its own, because one for both cases would cost those who leave out nothing.
    """
    return _leaving_out(name), [json.dumps(list(functions))]


def forget_built() -> None:
    """Forget the statements that were built of queries, for who has changed one of those."""
    _leaving_out.cache_clear()
    _of_many_rows.cache_clear()


@cache
def _leaving_out(name: str) -> str:
    query = QUERY[name]
    number = 1 + max(map(int, re.findall(r"\?(\d+)", query)))
    return query.replace("queue = ?1", f"queue = ?1 AND function NOT IN (SELECT value FROM json_each(?{number}))")  # noqa: S608


@cache
def _of_many_rows(name: str, count: int) -> str:
    return _VALUES.sub(lambda found: f"VALUES {', '.join([found[1]] * count)}", QUERY[name], count=1)
