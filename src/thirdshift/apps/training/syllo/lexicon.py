"""The words a puzzle can ask for, each cut into syllables and with one clue.

The list is a text file in the package, one ``syl-la-ble<TAB>clue`` a line, so that a person can read and mend it. Its
order matters: the easy levels draw from its beginning (:data:`thirdshift.apps.training.syllo.LEVELS`).
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from thirdshift.apps.training.syllo.levels import find_level
from thirdshift.core.errors import ThirdshiftError

_FILE_NAME = "lexicon.txt"
_LINE = re.compile(r"(?P<syllables>[a-z]+(?:-[a-z]+){1,3})\t(?P<clue>[a-z]+(?: [a-z]+){0,3})")


class MalformedLexicon(ThirdshiftError):
    """A line of the lexicon is not an entry, or repeats an earlier one."""

    def __init__(self, file_name: str, line_number: int, why: str) -> None:
        super().__init__(
            f"{file_name}, line {line_number}: {why}. A line is 'syl-la-ble<TAB>clue' in lower-case ascii letters, "
            "with two to four syllables, one to four clue words, and every word and clue only once."
        )
        self.file_name = file_name
        self.line_number = line_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One word, its syllables in order (joined they spell it), and the clue that asks for it and no other word."""

    word: str
    syllables: tuple[str, ...]
    clue: str


@functools.cache
def load_lexicon() -> tuple[Entry, ...]:
    """Return every entry in the order of the file; reads it once a process.

    Raises :class:`MalformedLexicon` naming the file and the line.
    """
    text = resources.files(__package__).joinpath(_FILE_NAME).read_text(encoding="utf-8")
    return parse_lexicon(text, file_name=_FILE_NAME)


def tier(level: int) -> tuple[Entry, ...]:
    """Return the entries that puzzles of *level* draw from, held-out words included.

    Raises :class:`thirdshift.apps.training.syllo.UnknownLevel`.
    """
    return load_lexicon()[: find_level(level).tier_entries]


def parse_lexicon(text: str, *, file_name: str) -> tuple[Entry, ...]:
    """Read a lexicon from *text*; lines that begin with ``#`` are remarks. *file_name* is what errors name.

    Raises :class:`MalformedLexicon`, also for a word or a clue that stands there twice: with two entries behind one
    clue a puzzle could have two right answers.
    """
    first_seen: dict[str, int] = {}
    entries = []
    for line_number, entry in _entries(text, file_name):
        for kind, value in (("word", entry.word), ("clue", entry.clue)):
            earlier = first_seen.setdefault(f"{kind} {value!r}", line_number)
            if earlier != line_number:
                raise MalformedLexicon(file_name, line_number, f"the {kind} {value!r} is in line {earlier} already")
        entries.append(entry)
    return tuple(entries)


def _entries(text: str, file_name: str) -> Iterator[tuple[int, Entry]]:
    for line_number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise MalformedLexicon(file_name, line_number, f"{line!r} is not an entry")
        syllables = tuple(match["syllables"].split("-"))
        yield line_number, Entry(word="".join(syllables), syllables=syllables, clue=match["clue"])
