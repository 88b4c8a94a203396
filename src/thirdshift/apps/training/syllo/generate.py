"""Puzzles without end from a seed, and the training files made of them.

The same arguments give the same bytes, on any machine and in any process: a result that depends on generated data can
be made again from its seed. Nothing else is random here.
"""

import contextlib
import functools
import json
import os
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from thirdshift.apps.training.syllo.held_out import is_held_out, syllable_orders
from thirdshift.apps.training.syllo.levels import Level, find_level
from thirdshift.apps.training.syllo.lexicon import Entry, load_lexicon, tier
from thirdshift.apps.training.syllo.puzzle import Puzzle, solve
from thirdshift.core.errors import UsageError
from thirdshift.host.files import sync_directory

_TRIES_FOR_A_NEW_PROMPT = 30


def generate(count: int, *, seed: int, levels: Sequence[int], held_out: bool = False) -> Iterator[Puzzle]:
    """Yield *count* puzzles, each with exactly one right answer, the level of each drawn evenly from *levels*.

    With ``held_out`` only puzzles that :func:`is_held_out` keeps out of training, without it only the others. A prompt
    comes twice only when a new one was not found in a bounded number of tries: level 1 has few. All prompts are
    remembered for that, about 200 bytes each.

    Raises :class:`UnknownLevel`, or :class:`UsageError` for no levels or a negative *count*, before the first puzzle.
    """
    if count < 0:
        raise UsageError(f"count is {count}; ask for 0 puzzles or more")
    if not levels:
        raise UsageError("levels is empty; name at least one, 1 to 10")
    rng = random.Random(seed)  # noqa: S311 puzzles must be repeatable and guard no secret
    return _distinct_puzzles(count, rng, [find_level(number) for number in levels], held_out=held_out)


def as_chat_row(puzzle: Puzzle) -> dict[str, Any]:
    """Return *puzzle* as a row of a chat training file: ``messages`` with the prompt and the answer, and ``level``."""
    return {
        "messages": [
            {"role": "user", "content": puzzle.prompt},
            {"role": "assistant", "content": puzzle.answer},
        ],
        "level": puzzle.level,
    }


def write_jsonl(path: Path, puzzles: Iterable[Puzzle], on_progress: Callable[[int], None] | None = None) -> int:
    """Write *puzzles* to *path* as JSON Lines (:func:`as_chat_row`) and return the number of rows.

    The file appears under its name only when it is whole and durable, replacing an older one; who watches the folder
    never sees a part of it. It is readable by its owner only (0600). *on_progress* is called after every row with the
    rows so far; what it raises ends the writing and leaves nothing behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    rows = 0
    try:
        with open(descriptor, "w", encoding="ascii", newline="\n") as file:
            for rows, puzzle in enumerate(puzzles, start=1):
                file.write(json.dumps(as_chat_row(puzzle)) + "\n")
                if on_progress is not None:
                    on_progress(rows)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)
    return rows


def _distinct_puzzles(count: int, rng: random.Random, levels: Sequence[Level], *, held_out: bool) -> Iterator[Puzzle]:
    seen: set[str] = set()
    for _ in range(count):
        level = rng.choice(levels)
        puzzle = _new_puzzle(rng, level, seen, held_out=held_out)
        while solve(puzzle, load_lexicon()) != [puzzle.words]:
            puzzle = _new_puzzle(rng, level, seen, held_out=held_out)
        seen.add(puzzle.prompt)
        yield puzzle


def _new_puzzle(rng: random.Random, level: Level, seen: AbstractSet[str], *, held_out: bool) -> Puzzle:
    for _ in range(_TRIES_FOR_A_NEW_PROMPT):
        puzzle = _puzzle(rng, level, held_out=held_out)
        if puzzle.prompt not in seen:
            break
    return puzzle


def _puzzle(rng: random.Random, level: Level, *, held_out: bool) -> Puzzle:
    entries = _entries(rng, level, held_out=held_out)
    return Puzzle(
        level=level.number,
        clues=tuple(entry.clue for entry in entries),
        syllables=_shuffled_syllables(rng, level, entries, held_out=held_out),
        words=tuple(entry.word for entry in entries),
    )


def _entries(rng: random.Random, level: Level, *, held_out: bool) -> list[Entry]:
    entries = tier(level.number)
    while True:
        chosen = rng.sample(entries, level.words)
        if level.words == 1 or is_held_out([entry.word for entry in chosen], level.number) == held_out:
            return chosen


def _shuffled_syllables(
    rng: random.Random, level: Level, entries: Sequence[Entry], *, held_out: bool
) -> tuple[str, ...]:
    if len(entries) == 1:
        return rng.choice(syllable_orders(entries[0], held_out=held_out))
    syllables = [syllable for entry in entries for syllable in entry.syllables]
    if level.decoys:
        belonging = set(syllables)
        strangers = [syllable for syllable in _all_syllables() if syllable not in belonging]
        syllables += rng.sample(strangers, level.decoys)
    rng.shuffle(syllables)
    return tuple(syllables)


@functools.cache
def _all_syllables() -> tuple[str, ...]:
    return tuple(sorted({syllable for entry in load_lexicon() for syllable in entry.syllables}))
