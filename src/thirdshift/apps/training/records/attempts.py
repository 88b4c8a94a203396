"""The attempts at one file: when each began, how it ended, and how far it came; a line each, beside its plan.

An attempt without an end was killed, or is at work now.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thirdshift.apps.training.moments import iso

ATTEMPTS = "attempts.jsonl"
KILLED = "killed, or its machine died"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt: ISO times in UTC, and the words for how it ended."""

    began_at: str
    ended_at: str = ""
    how: str = KILLED
    step: int = 0
    """Optimizer steps of the file that were done and saved at its end."""


class AttemptLog:
    """Writes and reads the attempts in the folder *work*. *clock* gives Unix seconds."""

    def __init__(self, work: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = work / ATTEMPTS
        self._clock = clock

    def begin(self) -> None:
        """Note that an attempt begins."""
        self._append({"began_at": iso(self._clock())})

    def end(self, how: str, step: int) -> None:
        """Note how the newest attempt ended."""
        self._append({"ended_at": iso(self._clock()), "how": how, "step": step})

    def read(self) -> list[Attempt]:
        """Return all attempts, oldest first; lines that a crash cut short are passed over."""
        attempts: list[dict[str, Any]] = []
        for line in self._lines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if "began_at" in document:
                    attempts.append(document)
                elif attempts:
                    attempts[-1].update(document)
        return [Attempt(**document) for document in attempts]

    def with_end(self, how: str, step: int) -> list[dict[str, Any]]:
        """Return all attempts as plain data, the newest one as if it ended now."""
        *earlier, newest = self.read()
        ended = Attempt(began_at=newest.began_at, ended_at=iso(self._clock()), how=how, step=step)
        return [asdict(attempt) for attempt in (*earlier, ended)]

    def _lines(self) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError):
            yield from self._path.read_bytes().splitlines()

    def _append(self, document: dict[str, Any]) -> None:
        """Add a line, after the end of one that a crash cut short."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"\n" + json.dumps(document).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
