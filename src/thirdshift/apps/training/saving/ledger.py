"""How often each row has been trained: counted where rows go through the model, kept in the checkpoint.

The plan says what is to be trained; the ledger what was. Both agree at the end when every row was trained exactly its
epochs, whatever happened on the way.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from thirdshift.core.errors import DamagedDirectory

LEDGER_FILE = "ledger.bin"


class RowLedger:
    """The times that each row was part of an optimizer step, as one 32-bit number a row."""

    def __init__(self, counts: "np.ndarray[Any, np.dtype[Any]]") -> None:
        self.counts = counts

    @classmethod
    def empty(cls, rows: int) -> Self:
        """Return the ledger of *rows* rows before the first step."""
        return cls(np.zeros(rows, dtype="<u4"))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the ledger of the checkpoint *folder*; raises ``DamagedDirectory`` when it has none."""
        path = folder / LEDGER_FILE
        if not path.is_file():
            raise DamagedDirectory(folder, [f"{LEDGER_FILE} is missing; an older version made this checkpoint"])
        return cls(np.frombuffer(path.read_bytes(), dtype="<u4").copy())

    def add(self, micro_batches: Iterable[Sequence[Sequence[int]]]) -> None:
        """Count the rows of one optimizer step."""
        for lines in micro_batches:
            for line in lines:
                np.add.at(self.counts, list(line), 1)

    def content(self) -> bytes:
        """Return the bytes of the ledger's file."""
        return self.counts.tobytes()
