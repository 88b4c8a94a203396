"""Rows that a file holds more than once, found in bounded memory: hashes go to disk, sorted into many small files.

Equal rows have equal hashes, which lie in the same small file; so each of these can be looked at by itself.
"""

import json
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from blake3 import blake3

from thirdshift.apps.training.data.rows import Row

_RECORD = struct.Struct("<16sQ")
"""The hash of a row and the number of its line."""
_FILES = 128
EXAMPLE_LIMIT = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateRows:
    """``rows`` that an earlier line holds already; the first of them as (line, the line it repeats)."""

    rows: int
    examples: tuple[tuple[int, int], ...]


class DuplicateFinder:
    """Takes rows and says at the end which of them came again. *folder* is empty and its caller's to remove."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"{number:03}" for number in range(_FILES)]
        self._closing = ExitStack()
        self._files = [self._closing.enter_context(path.open("wb")) for path in self._paths]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def add(self, line: int, row: Row) -> None:
        """Take *row*; its label takes no part in what it is."""
        content = [row.text, *([message.role, message.content] for message in row.messages)]
        digest = blake3(json.dumps(content).encode()).digest(length=16)
        self._files[digest[0] % _FILES].write(_RECORD.pack(digest, line))

    def result(self) -> DuplicateRows:
        """Return what came again; nothing can be added any more."""
        self._closing.close()
        rows = 0
        examples: list[tuple[int, int]] = []
        for path in self._paths:
            first: dict[bytes, int] = {}
            for digest, line in _RECORD.iter_unpack(path.read_bytes()):
                if (original := first.setdefault(digest, line)) != line:
                    rows += 1
                    examples.append((line, original))
            examples = sorted(examples)[:EXAMPLE_LIMIT]
        return DuplicateRows(rows=rows, examples=tuple(examples))
