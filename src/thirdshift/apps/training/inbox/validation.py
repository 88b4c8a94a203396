"""Looks at a file before it is trained: a bad one never reaches the model, and its owner learns line and cause.

A file of any size takes the memory of one line: it is read once, from front to end, and of a sample only the places
are kept.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

from blake3 import blake3

from thirdshift.apps.training.config import LEVELS, Level
from thirdshift.apps.training.data.duplicate_rows import DuplicateFinder
from thirdshift.apps.training.data.lengths import LengthCounter
from thirdshift.apps.training.data.rows import BadRow, Line, Row, parse_row, read_lines
from thirdshift.apps.training.inbox.file_kind import kind_of, problem_with
from thirdshift.apps.training.inbox.validation_report import FileProblem, ValidationReport
from thirdshift.apps.training.models.measure import Measure
from thirdshift.core.errors import UnsafePath, UsageError
from thirdshift.host.files import open_regular

SAMPLE_ROWS = 1000
PROBLEM_LIMIT = 20
SIZE_LIMIT_BYTES = 16 * 10**9
_LOOK_EVERY_BYTES = 1 << 20


class FileChanged(Exception):
    """The file was written to while it was read: what was found means nothing."""


class Stopped(Exception):
    """The look was asked to stop."""


def validate(
    path: Path,
    level: Level = "quick",
    *,
    measure: Measure | None = None,
    size_limit_bytes: int = SIZE_LIMIT_BYTES,
    scratch: Path | None = None,
    look: Callable[[int], object] = lambda _bytes: None,
) -> ValidationReport:
    """Look at *path*; whatever is wrong with the file stands in the report and is not raised.

    ``"quick"`` reads every line and checks its form. ``"standard"`` also asks *measure* for the lengths of 1,000 rows,
    drawn evenly; ``"deep"`` for those of all, and finds rows that come again, for which it needs room in *scratch*
    (default: the system's folder for temporary files). *look* is called now and then with the bytes read so far; what
    it raises ends the look. Raises :class:`FileChanged` when somebody writes to the file meanwhile.
    """
    if level not in LEVELS:
        raise UsageError(f"{level!r} is no level of validation; known are {', '.join(LEVELS)}")
    if level != "quick" and measure is None:
        raise UsageError(f"validation at level {level!r} needs the measure of a model")
    try:
        if kind := kind_of(path):
            return _refused(path, level, None, f"is {kind}; only a regular file can be trained")
        with open_regular(path) as file:
            before = os.fstat(file.fileno())
            if problem := problem_with(file, size_limit_bytes):
                return _refused(path, level, *problem)
            file.seek(0)
            with _Look(file, level, measure, scratch) as found:
                report = found.through(path.name, look)
            after = os.fstat(file.fileno())
    except UnsafePath:
        return _refused(path, level, None, "is no regular file; only a regular file can be trained")
    except OSError as error:
        return _refused(path, level, None, f"cannot be read ({error.strerror})")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FileChanged
    return report


class _Look:
    """One look through an open file."""

    def __init__(self, file: BinaryIO, level: Level, measure: Measure | None, scratch: Path | None) -> None:
        self._file = file
        self._level = level
        self._measure = None if level == "quick" else measure
        self._rows = 0
        self._problems: list[FileProblem] = []
        self._problem_count = 0
        self._lengths = None if self._measure is None else LengthCounter(self._measure.context)
        self._sample = _Sample(SAMPLE_ROWS)
        self._closing = ExitStack()
        self._duplicates: DuplicateFinder | None = None
        if level == "deep":
            folder = tempfile.mkdtemp(prefix="thirdshift-", dir=scratch)
            self._closing.callback(shutil.rmtree, folder, ignore_errors=True)
            self._duplicates = self._closing.enter_context(DuplicateFinder(Path(folder)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def through(self, name: str, look: Callable[[int], object]) -> ValidationReport:
        hasher = blake3()
        looked_at = 0
        for line in read_lines(self._file, hasher.update):
            if line.offset >= looked_at + _LOOK_EVERY_BYTES:
                looked_at = line.offset
                look(looked_at)
            self._see(line)
        for number, offset, size_bytes in self._sample.chosen():
            look(offset)
            self._measure_again(number, offset, size_bytes)
        return ValidationReport(
            file=name,
            level=self._level,
            rows=self._rows,
            size_bytes=os.fstat(self._file.fileno()).st_size,
            content_hash=hasher.hexdigest(),
            problems=tuple(sorted(self._problems, key=lambda problem: problem.line or 0)[:PROBLEM_LIMIT]),
            problem_count=self._problem_count,
            lengths=None if self._lengths is None else self._lengths.result(),
            duplicates=None if self._duplicates is None else self._duplicates.result(),
        )

    def _see(self, line: Line) -> None:
        row = line.outcome
        if isinstance(row, BadRow):
            self._blame(line.number, row)
            return
        self._rows += 1
        if self._duplicates is not None:
            self._duplicates.add(line.number, row)
            self._weigh(line.number, row)
        elif self._measure is not None:
            self._sample.offer((line.number, line.offset, line.size_bytes))

    def _measure_again(self, number: int, offset: int, size_bytes: int) -> None:
        """Read a line of the sample once more. It was a row when it was read first."""
        self._file.seek(offset)
        try:
            row = parse_row(self._file.read(size_bytes))
        except BadRow as changed:
            raise FileChanged from changed
        self._weigh(number, row)

    def _weigh(self, number: int, row: Row) -> None:
        assert self._measure is not None
        assert self._lengths is not None
        try:
            encoded = self._measure.encode(row)
        except BadRow as problem:
            self._rows -= 1
            self._blame(number, problem)
        else:
            self._lengths.add(len(encoded.ids) + encoded.cut, sum(encoded.trained))

    def _blame(self, number: int, problem: BadRow) -> None:
        self._problem_count += 1
        if len(self._problems) < PROBLEM_LIMIT:
            self._problems.append(FileProblem(line=number, why=problem.why))


class _Sample:
    """Draws evenly from any number of places, with a seed of its own: the same file has the same sample."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._seen = 0
        self._kept: list[tuple[int, int, int]] = []
        self._random = random.Random(0)  # noqa: S311  # no secret

    def offer(self, place: tuple[int, int, int]) -> None:
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append(place)
        elif (number := self._random.randrange(self._seen)) < self._size:
            self._kept[number] = place

    def chosen(self) -> list[tuple[int, int, int]]:
        return sorted(self._kept)


def _refused(path: Path, level: Level, line: int | None, why: str) -> ValidationReport:
    problem = FileProblem(line=line, why=why)
    return ValidationReport(file=path.name, level=level, problems=(problem,), problem_count=1)
