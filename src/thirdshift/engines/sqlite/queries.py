"""The SQL of this engine, read from ``sql/*.sql``: one named query each, with the reason why it is safe above it."""

import re
from importlib import resources
from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


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
