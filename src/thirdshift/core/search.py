"""Words in the texts of tasks: what an engine answers when somebody looks for them."""

import re
from dataclasses import dataclass

from thirdshift.core.errors import UsageError
from thirdshift.core.task import TaskId

MATCH_BEGINS, MATCH_ENDS = "\x01", "\x02"
"""What stands around a word that was looked for, in :attr:`Match.excerpt`."""

FIELDS = ("name", "arguments", "tags", "error", "result")
_TERM = re.compile(r'(?:(?P<field>[a-z]+):)?(?:"(?P<phrase>[^"]+)"|(?P<word>[^\s"]+))')


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A task whose texts have the words."""

    id: TaskId
    excerpt: str
    """Some words of where they were found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchState:
    """How far the index is behind the tasks."""

    is_on: bool
    """Whether workers keep it up to date."""
    tasks: int
    """Tasks that were submitted and are not in it, counted up to 100,000."""
    ends: int
    """Attempts whose errors or results are not in it."""

    @property
    def is_current(self) -> bool:
        """Whether nothing is missing."""
        return not self.tasks and not self.ends


def terms(text: str) -> str:
    """Return what people look for as a query of FTS5; every word has to be there.

    ``error:timeout`` looks in one of :data:`FIELDS`, ``"two words"`` for a phrase, ``invoi*`` for a beginning.
    Everything else is taken as words. Raises ``UsageError`` when none is left.
    """
    found = []
    for term in _TERM.finditer(text):
        field, word = term["field"], term["phrase"] or term["word"]
        if field is not None and field not in FIELDS:
            field, word = None, f"{field}:{word}"
        prefix = "*" if term["word"] and word.endswith("*") else ""
        quoted = word.rstrip("*").replace('"', '""')
        if re.search(r"\w", quoted):
            found.append(f'{f"{field} : " if field else ""}"{quoted}"{prefix}')
    if not found:
        raise UsageError(f'{text!r} has no word to look for; write words, "a phrase", invoi*, or error:timeout')
    return " AND ".join(found)
