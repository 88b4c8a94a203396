"""What a look at a file found: for the program, for the report beside the file, and in words for its owner."""

from dataclasses import asdict, dataclass
from typing import Any

from thirdshift.apps.training.config import Level
from thirdshift.apps.training.data.duplicate_rows import DuplicateRows
from thirdshift.apps.training.data.lengths import Lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class FileProblem:
    """One thing that is wrong with a file: the line counted from 1, ``None`` for the file as a whole, and why."""

    line: int | None
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """What was found in a file: its sound rows, and the first of its ``problem_count`` problems.

    ``content_hash`` is the BLAKE3 of its bytes, empty when it was not read to the end. ``lengths`` are those of all
    rows (``deep``) or of a sample of them (``standard``).
    """

    file: str
    level: Level
    rows: int = 0
    size_bytes: int = 0
    content_hash: str = ""
    problems: tuple[FileProblem, ...] = ()
    problem_count: int = 0
    lengths: Lengths | None = None
    duplicates: DuplicateRows | None = None

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
            "size_bytes": self.size_bytes,
            "content_hash": self.content_hash,
            "problems": [asdict(problem) for problem in self.problems],
            "problem_count": self.problem_count,
            "lengths": None if self.lengths is None else asdict(self.lengths),
            "duplicates": None if self.duplicates is None else asdict(self.duplicates),
        }
