"""The plan of a file: which rows are trained in which step, fixed before the first one.

A file is tokenised once. After that everything the trainer asks is a pure function of the plan and the number of the
optimizer step, so there is no loader state to save, nothing to fast-forward, and a resumed run reads exactly the rows
that an undisturbed one would have read. The method is that of MosaicML's StreamingDataset, carried to its end.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from blake3 import blake3

from thirdshift.apps.training.batches import Batch, Integers, pad_rows
from thirdshift.apps.training.rows import Message, Row
from thirdshift.apps.training.settings import PlanSettings
from thirdshift.storage.verified import verify


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
    rows: int
    held_out_rows: int
    cut_rows: int
    tokens: int
    trained_tokens: int
    steps_per_epoch: int
    total_steps: int
    plan_hash: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """All rows of a file, end to end: row ``i`` has the tokens ``offsets[i]:offsets[i + 1]``."""

    ids: Integers
    trained: Integers
    offsets: Integers


class Plan:
    """A finished plan, its tokens memory-mapped from its directory."""

    def __init__(self, directory: Path, facts: PlanFacts, tokens: Tokens) -> None:
        self.directory = directory
        self.facts = facts
        self._tokens = tokens
        self._lengths = np.diff(tokens.offsets)
        self._answer_tokens = np.add.reduceat(tokens.trained, tokens.offsets[:-1], dtype=np.int64)
        self._epoch: tuple[int, list[Integers]] = (-1, [])

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Verify every byte of *directory* and return its plan; raises ``DamagedDirectory``."""
        verify(directory)
        document = json.loads((directory / "plan.json").read_bytes())
        settings = PlanSettings(**document.pop("settings"))
        parts = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in ("tokens", "loss_mask", "offsets")}
        tokens = Tokens(ids=parts["tokens"], trained=parts["loss_mask"], offsets=parts["offsets"])
        return cls(directory, PlanFacts(**document, settings=settings), tokens)

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

    def epoch_of_step(self, step: int) -> int:
        """Return the epoch that *step* belongs to, from 0."""
        return step // self.facts.steps_per_epoch

    def rows_of_step(self, step: int) -> list[list[int]]:
        """Return the row numbers of optimizer step *step* (from 0), one list a micro-batch."""
        epoch, place = divmod(step, self.facts.steps_per_epoch)
        size = self.settings.micro_batch_size
        rows = [int(row) for row in self._batches_of_epoch(epoch)[place]]
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def answer_tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that are predicted in *step*: what its loss is divided by."""
        return sum(int(self._answer_tokens[rows].sum()) for rows in self.rows_of_step(step))

    def tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that are read in *step*, padding not counted."""
        return sum(int(self._lengths[rows].sum()) for rows in self.rows_of_step(step))

    def learning_rate_of_step(self, step: int) -> float:
        """Return the learning rate of *step*: a linear warm-up, then the decay that the settings name."""
        settings = self.settings
        warmup = min(settings.warmup_steps, self.total_steps // 10)
        if step < warmup:
            return settings.learning_rate * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, self.total_steps - warmup)
        left = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[settings.schedule]
        return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * left)

    def batch(self, row_numbers: list[int]) -> Batch:
        """Return the rows as arrays of shape ``(batch, time)``; labels are -100 where nothing is to be predicted."""
        tokens, bounds = self._tokens, [slice(*self._tokens.offsets[row : row + 2]) for row in row_numbers]
        return pad_rows([(tokens.ids[row], tokens.trained[row]) for row in bounds], self.facts.pad_id)

    def held_out(self) -> list[Row]:
        """Return the rows of the file that are never trained: its own examination."""
        return list(_read_held_out(self.directory / "held_out.jsonl"))

    def _batches_of_epoch(self, epoch: int) -> list[Integers]:
        if self._epoch[0] != epoch:
            self._epoch = epoch, order_of_epoch(self.hash, epoch, self._lengths, self.settings.batch_size)
        return self._epoch[1]


def order_of_epoch(plan_hash: str, epoch: int, lengths: Integers, batch_size: int) -> list[Integers]:
    """Return the batches of *epoch*: every row once, drawn at random; within a batch the shortest row comes first.

    So micro-batches hold rows of like length and need little padding, while every optimizer step sees the whole
    mixture: steps of one length each learn SYLLO half as well from the same number of rows. Only the raw stream of
    PCG64 is used: numpy promises that it stays the same, and does not promise so of ``permutation``.
    """
    seed = blake3(f"{plan_hash} epoch {epoch}".encode()).digest()
    random = np.random.PCG64(int.from_bytes(seed[:16], "little"))
    shuffled = np.argsort(random.random_raw(len(lengths)), kind="stable")
    batches = (shuffled[start : start + batch_size] for start in range(0, len(shuffled), batch_size))
    return [batch[np.argsort(lengths[batch], kind="stable")] for batch in batches]


def _read_held_out(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        messages = tuple(Message(**message) for message in document.pop("messages"))
        yield Row(**document, messages=messages)
