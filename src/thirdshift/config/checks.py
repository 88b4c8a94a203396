"""For the owners of sections, in their ``__post_init__``: a ValueError is reported with file, line and column."""

import difflib
import math
from collections.abc import Sequence


class Refused(ValueError):
    """Values of a section are wrong. A problem that begins with ``KEY is`` is told at the place of that key."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def refuse(*problems: list[str]) -> None:
    """Raise :class:`Refused` with all *problems*, if there are any."""
    if any(problems):
        raise Refused([problem for group in problems for problem in group])


def less_than(least: float, **values: float) -> list[str]:
    """Return a problem for each of *values* that is less than *least*, or no finite number."""
    wrong = {name: value for name, value in values.items() if not least <= value < math.inf}
    return [f"{name} is {value:g}; it must be {least:g} or more" for name, value in wrong.items()]


def none_of(name: str, value: str, choices: Sequence[str]) -> list[str]:
    """Return a problem when *value* is none of *choices*."""
    return [] if value in choices else [f"{name} is {value!r}; it may be {' or '.join(map(repr, choices))}"]


def suggestion(word: str, known: list[str]) -> str:
    """Return the end of a sentence: what may have been meant, or all that is known."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
