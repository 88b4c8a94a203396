"""A SYLLO puzzle, how it is written, and the solver that says what a right answer is.

Clues on one side, the syllables of all answers shuffled on the other: ``na rob ba in na | yellow fruit, red bird = ``
asks for ``banana, robin``. The solver works from the text alone, so that an answer is judged by the rules of the game
and not by what the generator remembers.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from thirdshift.apps.training.syllo.levels import LEVELS, find_level
from thirdshift.apps.training.syllo.lexicon import Entry, load_lexicon
from thirdshift.core.errors import UsageError

_WORDS = r"[a-z]+(?: [a-z]+)*"
_PROMPT = re.compile(rf"(?P<syllables>{_WORDS}) \| (?P<clues>{_WORDS}(?:, {_WORDS})*) =")


class MalformedPrompt(UsageError):
    """A text is not a SYLLO prompt."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not a SYLLO prompt. Write the syllables, ' | ', the clues separated by ', ', and ' = ', "
            "all in lower-case ascii letters."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What the solver sees: the shuffled syllables and the clues in the order the answer must keep."""

    syllables: tuple[str, ...]
    clues: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The question as text, with the trailing ``" = "`` after which the answer begins."""
        return f"{' '.join(self.syllables)} | {', '.join(self.clues)} = "


@dataclass(frozen=True, kw_only=True, slots=True)
class Puzzle:
    """A question together with its level and its answer, one word a clue in the order of the clues."""

    level: int
    clues: tuple[str, ...]
    syllables: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def question(self) -> Question:
        """What is shown to the solver."""
        return Question(syllables=self.syllables, clues=self.clues)

    @property
    def prompt(self) -> str:
        """The question as text, e.g. ``"na rob ba in na | yellow fruit, red bird = "``."""
        return self.question.prompt

    @property
    def answer(self) -> str:
        """The right answer as text, e.g. ``"banana, robin"``."""
        return ", ".join(self.words)


def parse_prompt(text: str) -> Question:
    """Return the question that *text* asks; raises :class:`MalformedPrompt`.

    Whitespace around it does not count, because an input field or a chat template may trim it.
    """
    match = _PROMPT.fullmatch(text.strip())
    if match is None:
        raise MalformedPrompt(text)
    return Question(syllables=tuple(match["syllables"].split(" ")), clues=tuple(match["clues"].split(", ")))


def solve(asked: str | Question | Puzzle, lexicon: Iterable[Entry]) -> list[tuple[str, ...]]:
    """Return every right answer to *asked*: for each clue a word of *lexicon* that has this clue.

    The words must use up the syllables, each as often as it is shown. Only decoys may stay over: exactly as many as
    the level of a puzzle has or, where only the text is known, as many as a level with this number of clues has. A
    clue that *lexicon* does not hold has no answer. Raises :class:`MalformedPrompt` for text that is no prompt.
    """
    question = parse_prompt(asked) if isinstance(asked, str) else asked
    known: dict[str, list[Entry]] = {clue: [] for clue in question.clues}
    for entry in lexicon:
        if entry.clue in known:
            known[entry.clue].append(entry)
    choices = [known[clue] for clue in question.clues]
    return list(_combinations(choices, Counter(question.syllables), _decoys(question)))


def check(prompt: str, answer_text: str) -> bool:
    """Say whether *answer_text* is a right answer to *prompt* with the lexicon of this package.

    It must be the words in the order of the clues, separated by ``", "``; only whitespace around it is forgiven.
    Raises :class:`MalformedPrompt`.
    """
    return answer_text.strip() in {", ".join(words) for words in solve(prompt, load_lexicon())}


def _decoys(question: Question | Puzzle) -> frozenset[int]:
    if isinstance(question, Puzzle):
        return frozenset({find_level(question.level).decoys})
    return frozenset(level.decoys for level in LEVELS if level.words == len(question.clues)) or frozenset({0})


def _combinations(
    choices: Sequence[Sequence[Entry]], unused: Counter[str], decoys: frozenset[int]
) -> Iterator[tuple[str, ...]]:
    if not choices:
        if unused.total() in decoys:
            yield ()
        return
    for entry in choices[0]:
        needed = Counter(entry.syllables)
        if needed <= unused:
            for others in _combinations(choices[1:], unused - needed, decoys):
                yield (entry.word, *others)
