"""Rows on disk in one form, whatever form they came in: examinations, and what is kept to be replayed."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from blake3 import blake3

from thirdshift.apps.training.data.rows import Message, Row


def write_row_file(path: Path, rows: Iterable[Row]) -> None:
    """Write *rows* to *path*, one a line. Not durable by itself."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(asdict(row)) + "\n")


def read_row_file(path: Path) -> Iterator[Row]:
    """Yield the rows that :func:`write_row_file` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            document = json.loads(line)
            messages = tuple(Message(**message) for message in document.pop("messages"))
            yield Row(**document, messages=messages)


def digest_of(row: Row) -> int:
    """Return a hash of what *row* asks and answers, or of its text; whatever form it came in, the same."""
    content = [[message.role, message.content] for message in row.messages] or row.text
    return int.from_bytes(blake3(json.dumps(content).encode()).digest()[:16])
