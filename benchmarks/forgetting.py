"""Five files of different kinds, one after the other: what the model still knows of each, with replay and without.

Run it alone: ``python benchmarks/forgetting.py [--rows 1000] [--percent 5]``. The same seed gives the same table, to
the digit. Every row of the table is the model after one more file; every column is the examination of a file (questions
that were never trained). Kept is the share of a file's exact match, as it was when its own training ended, that is
left after the last file.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

from thirdshift.apps.training.job import OWN_EXAMINATION, FileResult, TrainingJob
from thirdshift.apps.training.models.model import create_tiny_model
from thirdshift.apps.training.records.history import History
from thirdshift.apps.training.runs.train_file import train_file
from thirdshift.apps.training.settings import TrainingSettings

LETTERS = "abcdefghijklmnop"
KINDS = {"same": 0, "next": 1, "third": 3, "fifth": 5, "far": 8}
"""What is asked in each file, in their order: the letter that stands so many places further on. The same letters are
asked everywhere, so what is learnt for one kind is wrong for the others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--percent", type=float, default=TrainingSettings().replay_percent)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for percent in (given.percent, 0.0):
            room = Path(folder) / f"replay-{percent:g}"
            settings = TrainingSettings(
                epochs=given.epochs,
                learning_rate=given.rate,
                replay_percent=percent,
                worst_match_fall=100,
                worst_loss_growth=1e9,
            )
            began = time.monotonic()
            table = in_sequence(room, write_files(room, given.rows, given.seed), given.size, settings)
            print(f"\nreplay {percent:g} %, {time.monotonic() - began:.0f} s")
            show(table)


def write_files(room: Path, rows: int, seed: int) -> list[Path]:
    """Write the five files; no question comes twice."""
    chance = random.Random(seed)
    numbers = chance.sample(range(100, 10_000_000), rows * len(KINDS))
    paths = []
    for kind, places in KINDS.items():
        lines = []
        for _ in range(rows):
            place = chance.randrange(len(LETTERS))
            answer = LETTERS[(place + places) % len(LETTERS)]
            lines.append({"prompt": f"{numbers.pop()} {kind} {LETTERS[place]}", "completion": answer})
        path = room / "files" / f"{kind}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        paths.append(path)
    return paths


def in_sequence(room: Path, files: list[Path], size: str, settings: TrainingSettings) -> list[dict[str, float]]:
    """Train *files* one after the other; returns after each the exact match of all so far."""
    create_tiny_model(room / "model", size=size)
    table = []
    for path in files:
        result = train_file(
            TrainingJob(
                data=path,
                current_model=room / "model",
                checkpoints=room / "checkpoints",
                work=room / "work" / path.stem,
                history=room / "history",
                settings=settings,
            )
        )
        table.append(matches(path, result, History(room / "history")))
        shutil.rmtree(room / "work" / path.stem)
    return table


def matches(path: Path, result: FileResult, history: History) -> dict[str, float]:
    names = {record.key: record.file for record in history.records()}
    earlier = {names[key].removesuffix(".jsonl"): found.accuracy for key, found in result.earlier_after.items()}
    return {**earlier, path.stem: result.after[OWN_EXAMINATION].accuracy}


def show(table: list[dict[str, float]]) -> None:
    kinds = list(table[-1])
    print("| after | " + " | ".join(kinds) + " |")
    print("|---|" + "---|" * len(kinds))
    for row, name in zip(table, kinds, strict=True):
        print(f"| {name} | " + " | ".join(f"{row[kind]:.1%}" if kind in row else "" for kind in kinds) + " |")
    print(
        "| kept | "
        + " | ".join(f"{table[-1][kind] / max(table[n][kind], 1e-9):.1%}" for n, kind in enumerate(kinds))
        + " |"
    )


if __name__ == "__main__":
    main()
