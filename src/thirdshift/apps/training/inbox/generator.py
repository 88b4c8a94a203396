"""Keeps the daemon busy: when people drop too little, puzzles are made for it."""

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from thirdshift.apps.training import syllo
from thirdshift.host.files import move_without_overwriting

DEFAULT_LEVELS = (1, 2, 3)


class DataGenerator:
    """Writes files of SYLLO puzzles into *output_dir*, which must exist. *clock* gives Unix seconds."""

    def __init__(self, output_dir: Path, min_queue_size: int = 2, *, clock: Callable[[], float] = time.time) -> None:
        self.output_dir = Path(output_dir)
        self.min_queue_size = min_queue_size
        self._clock = clock

    def should_generate(self, queue_size: int) -> bool:
        """Whether *queue_size* waiting files are too few."""
        return queue_size < self.min_queue_size

    def generate(self, count: int = 1000, *, seed: int | None = None, levels: Sequence[int] = DEFAULT_LEVELS) -> Path:
        """Write *count* puzzles to ``auto_gen_<YYYYmmdd_HHMMSS>.jsonl``, local time, and return its path.

        The file appears under that name when it is whole; a namesake is never overwritten (``-1``). The same *seed*,
        *count* and *levels* give the same bytes; ``None`` takes the clock's seconds, so that no two files are equal.
        """
        moment = self._clock()
        puzzles = syllo.generate(count, seed=int(moment) if seed is None else seed, levels=levels)
        hidden = self.output_dir / f".auto_gen.{secrets.token_hex(4)}.tmp"
        syllo.write_jsonl(hidden, puzzles)
        name = time.strftime("auto_gen_%Y%m%d_%H%M%S.jsonl", time.localtime(moment))
        return move_without_overwriting(hidden, self.output_dir, name)

    def sweep(self) -> list[Path]:
        """Remove what a killed generation left; only while none is at work. Returns what was removed."""
        left = sorted(self.output_dir.glob(".*auto_gen.*.tmp"))
        for path in left:
            path.unlink()
        return left

    @staticmethod
    def write_held_out(path: Path, count: int, *, seed: int = 0, levels: Sequence[int] = DEFAULT_LEVELS) -> Path:
        """Write *count* puzzles that no training file ever holds to *path*, replacing it, and return it."""
        syllo.write_jsonl(path, syllo.generate(count, seed=seed, levels=levels, held_out=True))
        return path
