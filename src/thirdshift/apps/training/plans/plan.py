"""The plan of a file: which rows are trained in which step, fixed before the first one.

A file is tokenised once. After that everything the trainer asks is a pure function of the plan and the number of the
optimizer step, so there is no loader state to save, nothing to fast-forward, and a resumed run reads exactly the rows
that an undisturbed one would have read. The method is that of MosaicML's StreamingDataset, carried to its end.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from blake3 import blake3

from thirdshift.apps.training.data.batches import Batch, Integers, pack_rows, pad_rows
from thirdshift.apps.training.data.replay import ReplaySource
from thirdshift.apps.training.data.row_files import read_row_file
from thirdshift.apps.training.data.rows import Row
from thirdshift.apps.training.plans.layout import MicroBatch
from thirdshift.apps.training.settings import PlanSettings
from thirdshift.storage.verified import verify

HELD_OUT = "held_out.jsonl"
FOR_REPLAY = "for_replay.jsonl"
"""Rows that later files may replay, in the order of their hashes."""

_ROUNDS = 8
_STEPS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFacts:
    """What ``plan.json`` says: the sources by hash, the settings, the counts, and one hash over all of it."""

    data_name: str
    data_hash: str
    base_hash: str
    tokenizer_hash: str
    seed: int
    context: int
    pad_id: int
    settings: PlanSettings
    rows: int = 0
    """Rows of the file that are trained, each in every epoch."""
    replay_rows: int = 0
    """Rows of earlier files that are trained beside them, others in each epoch."""
    replay: tuple[ReplaySource, ...] = ()
    """Where those come from."""
    replay_missing: tuple[str, ...] = ()
    """Earlier files that could not be replayed, and why."""
    held_out_rows: int = 0
    cut_rows: int = 0
    """Rows that lost the beginning of their question to the context's limit."""
    tokens: int = 0
    trained_tokens: int = 0
    steps_per_epoch: int = 0
    total_steps: int = 0
    plan_hash: str = ""


ROW = np.dtype([("start", "<i8"), ("length", "<i4"), ("answer", "<i4"), ("cut", "<i4")])
"""One trained row in ``rows.npy``: where its tokens begin, how many it has, is to predict, and has lost."""


class Plan:
    """A finished plan; its tokens, its loss mask and its rows are memory-mapped and never read as a whole."""

    def __init__(self, directory: Path, facts: PlanFacts) -> None:
        self.directory = directory
        self.facts = facts
        parts = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in ("tokens", "loss_mask", "rows")}
        self._ids, self._trained, self._rows = parts["tokens"], parts["loss_mask"], parts["rows"]
        self._newest: tuple[tuple[int, int], list[Integers]] = ((-1, -1), [])

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Verify every byte of *directory* and return its plan; raises ``DamagedDirectory``."""
        verify(directory)
        document = json.loads((directory / "plan.json").read_bytes())
        settings = PlanSettings(**document.pop("settings"))
        replay = tuple(ReplaySource(**source) for source in document.pop("replay"))
        missing = tuple(document.pop("replay_missing"))
        return cls(directory, PlanFacts(**document, settings=settings, replay=replay, replay_missing=missing))

    @property
    def hash(self) -> str:
        """The plan's own name: a hash over its sources, settings and tokens."""
        return self.facts.plan_hash

    @property
    def settings(self) -> PlanSettings:
        """The settings frozen in this plan."""
        return self.facts.settings

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole file, all epochs."""
        return self.facts.total_steps

    @property
    def row_count(self) -> int:
        """All rows that have a number: first those of the file, then the replayed ones of each epoch in turn."""
        return self.facts.rows + self.facts.replay_rows * self.settings.epochs

    def epoch_of_step(self, step: int) -> int:
        """Return the epoch that *step* belongs to, from 0."""
        return step // self.facts.steps_per_epoch

    def rows_of_step(self, step: int) -> list[int]:
        """Return the row numbers of optimizer step *step* (from 0), the shortest row first."""
        return [int(row) for row in self._in_step(step)]

    def length_of_row(self, row: int) -> int:
        """Return the number of tokens of *row*."""
        return int(self._rows["length"][row])

    def answer_tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that are predicted in *step*: what its loss is divided by."""
        return int(self._rows["answer"][self._in_step(step)].sum(dtype=np.int64))

    def tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that are read in *step*, padding not counted."""
        return int(self._rows["length"][self._in_step(step)].sum(dtype=np.int64))

    def learning_rate_of_step(self, step: int) -> float:
        """Return the learning rate of *step*: a linear warm-up, then the decay that the settings name."""
        settings = self.settings
        warmup = min(settings.warmup_steps, self.total_steps // 10)
        if step < warmup:
            return settings.learning_rate * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, self.total_steps - warmup)
        left = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[settings.schedule]
        return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * left)

    def tokens_of_row(self, row: int) -> tuple[Integers, Integers]:
        """Return the tokens of *row*, and 1 for each that is to be predicted."""
        start = int(self._rows["start"][row])
        place = slice(start, start + self.length_of_row(row))
        return self._ids[place], self._trained[place]

    def batch(self, micro_batch: MicroBatch) -> Batch:
        """Return the rows as arrays of shape ``(lines, time)``; labels are -100 where nothing is to be predicted."""
        lines = [[self.tokens_of_row(row) for row in line] for line in micro_batch]
        if all(len(line) == 1 for line in lines):
            return pad_rows([line[0] for line in lines], self.facts.pad_id)
        return pack_rows(lines, self.facts.pad_id)

    def held_out(self) -> list[Row]:
        """Return the rows of the file that are never trained: its own examination."""
        return list(read_row_file(self.directory / HELD_OUT))

    def _in_step(self, step: int) -> Integers:
        """Return the rows of *step*, the shortest first; orders are computed for many steps of an epoch at once."""
        epoch, place = divmod(step, self.facts.steps_per_epoch)
        block, number = divmod(place, _STEPS_AT_ONCE)
        if self._newest[0] != (epoch, block):
            self._newest = (epoch, block), self._rows_of_block(epoch, block)
        return self._newest[1][number]

    def _rows_of_block(self, epoch: int, block: int) -> list[Integers]:
        size = self.settings.batch_size
        first = block * _STEPS_AT_ONCE * size
        in_epoch = self.facts.rows + self.facts.replay_rows
        places = np.arange(first, min(first + _STEPS_AT_ONCE * size, in_epoch))
        rows = shuffled(places, in_epoch, f"{self.hash} epoch {epoch}")
        rows[rows >= self.facts.rows] += epoch * self.facts.replay_rows
        lengths = self._rows["length"][rows]
        steps = [slice(start, start + size) for start in range(0, len(rows), size)]
        return [rows[step][np.argsort(lengths[step], kind="stable")] for step in steps]


def shuffled(places: Integers, count: int, key: str) -> Integers:
    """Return which of *count* things stand at *places* of the order called *key*: a shuffle that is never written down.

    Each place is ciphered on its own, by a Feistel network over the next power of four, until the result is smaller
    than *count* (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). So a step of a file with a
    billion rows is known without the order of the others, in no time and no memory.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    keys = np.frombuffer(blake3(key.encode()).digest(length=8 * _ROUNDS), dtype="<u8")
    found = _ciphered(places.astype(np.uint64), half, keys)
    while (is_outside := found >= count).any():
        found[is_outside] = _ciphered(found[is_outside], half, keys)
    return found.astype(np.int64)


def _ciphered(places: Integers, half: np.uint64, keys: Integers) -> Integers:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = places >> half, places & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << half) | right


def _mixed(values: Integers) -> Integers:
    """Return *values* with every bit depending on all (the finalizer of SplitMix64: Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Integers = values ^ (values >> np.uint64(31))
    return mixed
