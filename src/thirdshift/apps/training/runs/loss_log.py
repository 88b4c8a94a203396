"""The loss of every step, at a place of its own in a file: a step that is done again writes the same number there."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_NOT_KNOWN = math.nan


class LossLog:
    """Writes the losses of *total_steps* steps to *path*; a reader sees those of the steps that were made."""

    def __init__(self, path: Path, total_steps: int) -> None:
        expected_bytes = total_steps * 8
        if not path.exists() or path.stat().st_size != expected_bytes:
            np.full(total_steps, _NOT_KNOWN, dtype="<f8").tofile(path)
        self._values = np.memmap(path, dtype="<f8", mode="r+") if total_steps else np.zeros(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self._values

    def note(self, step: int, loss: float) -> None:
        """Note the *loss* of *step* (from 0)."""
        self._values[step] = loss


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Mean, lowest and highest loss of some steps; ``step`` is the last of them, counted from 1."""

    step: int
    loss: float
    lowest: float
    highest: float


def curve(path: Path, points: int = 500) -> Iterator[CurvePoint]:
    """Yield the losses in *path* as at most *points* points, each of as many steps."""
    values = np.fromfile(path, dtype="<f8") if path.exists() else np.zeros(0)
    width = max(1, math.ceil(len(values) / points))
    for start in range(0, len(values), width):
        part = values[start : start + width]
        part = part[np.isfinite(part)]
        if len(part):
            low, high = float(part.min()), float(part.max())
            yield CurvePoint(step=min(start + width, len(values)), loss=float(part.mean()), lowest=low, highest=high)
