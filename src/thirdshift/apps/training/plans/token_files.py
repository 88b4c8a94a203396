"""Tokens on their way to disk: arrays of unknown length, written as they come, so that no file is too large to plan."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from thirdshift.apps.training.data.batches import Integers
from thirdshift.apps.training.data.encoding import EncodedRow
from thirdshift.apps.training.plans.plan import ROW

_ROWS_AT_ONCE = 4096


class TokenFiles:
    """Writes ``tokens.npy``, ``loss_mask.npy`` and ``rows.npy`` of a plan into *folder*; holds a few thousand rows.

    The tokens of every row are kept, those of held-out rows too: ``rows.npy`` names the rows that are trained.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        token = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
        self._folder = folder
        self._closing = ExitStack()
        self._tokens = self._closing.enter_context(_GrowingArray(folder / "tokens.npy", token))
        self._mask = self._closing.enter_context(_GrowingArray(folder / "loss_mask.npy", np.dtype("u1")))
        self._rows = self._closing.enter_context(_GrowingArray(folder / "all_rows.npy", ROW))
        self.count = 0
        """Rows that were added."""
        self._waiting: list[EncodedRow] = []
        self._next_start = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.__exit__(kind, error, traceback)

    def add(self, row: EncodedRow) -> None:
        """Append *row*; its number is the count of those before it."""
        self.count += 1
        self._waiting.append(row)
        if len(self._waiting) >= _ROWS_AT_ONCE:
            self._write()

    def finish(self, own: int, left_out: Integers, replayed: Integers) -> Integers:
        """Write ``rows.npy``: the first *own* rows without those numbered *left_out*, then those numbered *replayed*.

        Returns it, memory-mapped.
        """
        self._write()
        self._closing.close()
        every = np.load(self._folder / "all_rows.npy", mmap_mode="r")
        with _GrowingArray(self._folder / "rows.npy", ROW) as kept:
            for start in range(0, own, _ROWS_AT_ONCE):
                numbers = np.arange(start, min(start + _ROWS_AT_ONCE, own))
                kept.append(every[numbers[~np.isin(numbers, left_out)]])
            for start in range(0, len(replayed), _ROWS_AT_ONCE):
                kept.append(every[replayed[start : start + _ROWS_AT_ONCE]])
        (self._folder / "all_rows.npy").unlink()
        rows: Integers = np.load(self._folder / "rows.npy", mmap_mode="r")
        return rows

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rows = np.zeros(len(waiting), dtype=ROW)
        rows["length"] = [len(row.ids) for row in waiting]
        rows["answer"] = [sum(row.trained) for row in waiting]
        rows["cut"] = [row.cut for row in waiting]
        ends = self._next_start + np.cumsum(rows["length"], dtype=np.int64)
        rows["start"] = ends - rows["length"]
        self._next_start = int(ends[-1])
        self._tokens.append(np.concatenate([np.asarray(row.ids, dtype=self._tokens.dtype) for row in waiting]))
        self._mask.append(np.concatenate([np.asarray(row.trained, dtype=np.uint8) for row in waiting]))
        self._rows.append(rows)


class _GrowingArray:
    """A ``.npy`` file of one dimension. Its header, written again at the end, has room for any length."""

    def __init__(self, path: Path, dtype: np.dtype[np.generic]) -> None:
        self.dtype = dtype
        self._path = path
        self._length = 0
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._write_header()
        self._begin = self._file.tell()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._begin, "numpy leaves room for 21 digits of length"
        self._file.close()

    def append(self, values: Integers) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self._length += len(values)

    def _write_header(self) -> None:
        facts = {"shape": (self._length,), "fortran_order": False, "descr": np.lib.format.dtype_to_descr(self.dtype)}
        np.lib.format.write_array_header_1_0(self._file, facts)
