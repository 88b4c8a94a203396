"""Looks at a file before it is trained: a bad one never reaches the model, and its owner learns line and cause."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thirdshift.apps.training.rows import validate_quick
from thirdshift.core.errors import NotSupported, UsageError

Level = Literal["quick", "standard", "deep"]
LEVELS: tuple[Level, ...] = ("quick", "standard", "deep")
SIZE_LIMIT_BYTES = 8 * 1024**3

_LOOK_BYTES = 64 * 1024
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """One thing that is wrong with a file: the line counted from 1, ``None`` for the file as a whole, and why."""

    line: int | None
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What was found in a file: its sound rows, and its problems (the first ones when ``truncated``)."""

    file: str
    level: Level
    rows: int = 0
    problems: tuple[FileProblem, ...] = ()
    truncated: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether the file may be trained."""
        return not self.problems

    @property
    def cause(self) -> str:
        """The first problem in one line, ``file:line: why``; empty for a sound file."""
        if not self.problems:
            return ""
        first = self.problems[0]
        place = self.file if first.line is None else f"{self.file}:{first.line}"
        return f"{place}: {first.why}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the report beside the file."""
        return {
            "file": self.file,
            "level": self.level,
            "is_sound": self.is_sound,
            "cause": self.cause,
            "rows": self.rows,
            "problems": [{"line": problem.line, "why": problem.why} for problem in self.problems],
            "truncated": self.truncated,
        }


def validate(path: Path, level: Level = "quick", *, size_limit_bytes: int = SIZE_LIMIT_BYTES) -> ValidationReport:
    """Look at *path*; whatever is wrong with the file stands in the report and is not raised.

    ``"quick"`` reads every line and checks its form. ``"standard"`` and ``"deep"`` raise :class:`NotSupported`, an
    unknown level :class:`UsageError`.
    """
    if level not in LEVELS:
        raise UsageError(f"{level!r} is no level of validation; known are {', '.join(LEVELS)}")
    if level != "quick":
        raise NotSupported(f"validation at level {level!r}", 'Use level="quick": it checks the form of every line.')
    if problem := _problem_with_the_file(path, size_limit_bytes):
        return ValidationReport(file=path.name, level=level, problems=(problem,))
    try:
        found = validate_quick(path)
    except OSError as error:
        return ValidationReport(file=path.name, level=level, problems=(_unreadable(error),))
    problems = tuple(FileProblem(line=problem.line, why=problem.why) for problem in found.problems)
    return ValidationReport(file=path.name, level=level, rows=found.rows, problems=problems, truncated=found.truncated)


def _problem_with_the_file(path: Path, size_limit_bytes: int) -> FileProblem | None:
    """What can be said without reading the lines; the order of the questions is that of their usefulness."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "no regular file")
            return FileProblem(line=None, why=f"is {kind}; only a regular file can be trained")
        if status.st_size == 0:
            return FileProblem(line=None, why="is empty")
        if status.st_size > size_limit_bytes:
            why = f"has {status.st_size:,} bytes; the limit is {size_limit_bytes:,}. Split it into several files"
            return FileProblem(line=None, why=why)
        return _sign_of_binary(_beginning(path))
    except OSError as error:
        return _unreadable(error)


def _sign_of_binary(beginning: bytes) -> FileProblem | None:
    for magic, name in _COMPRESSED.items():
        if beginning.startswith(magic):
            return FileProblem(line=None, why=f"is compressed ({name}); unpack it first")
    if (position := beginning.find(b"\0")) >= 0:
        line = beginning.count(b"\n", 0, position) + 1
        return FileProblem(line=line, why=f"holds a NUL byte (byte {position:,}); this is binary data, not JSON Lines")
    return None


def _beginning(path: Path) -> bytes:
    # O_NONBLOCK: a FIFO that took the file's place a moment ago must not hang the reader.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        return file.read(_LOOK_BYTES)


def _unreadable(error: OSError) -> FileProblem:
    return FileProblem(line=None, why=f"cannot be read ({error.strerror})")
