"""Kills trainings at random moments, several times a file, until they end, and compares them with one left alone.

    python tests/apps/training/training_kills.py KILLS SEED kill|terminate

A process that has loaded torch, and never computes, forks a parent, which forks a trainer, which starts a writer. One
of them is killed when a phase drawn by chance has begun and a moment drawn by chance has passed. Prints what it did as
JSON; ends with an error at the first difference.
"""

import collections
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from thirdshift.apps.training.job import FileResult, Progress, TrainingJob
from thirdshift.apps.training.models.model import create_tiny_model
from thirdshift.apps.training.records.history import PUBLISHED, History
from thirdshift.apps.training.runs import file_training
from thirdshift.apps.training.saving import checkpoint_saver
from thirdshift.apps.training.settings import TrainingSettings
from thirdshift.host.processes import descendants, die_with_parent

ROWS, EPOCHS = 40, 3
SETTINGS = TrainingSettings(
    epochs=EPOCHS,
    batch_size=8,
    micro_batch_size=4,
    threads=1,
    checkpoint_steps=1,
    max_context=64,
    held_out_percent=10,
    evaluation_limit=8,
    worst_match_fall=100,
    worst_loss_growth=1e9,
)
PHASES = (
    "planning",
    "evaluating before",
    "loading",
    "training",
    "saving",
    "renaming",
    "evaluating after",
    "publishing",
)
VICTIMS = ("trainer", "trainer", "writer", "parent")
UNFINISHED = 3
COMPARED = ("model.safetensors", "optimizer.safetensors", "ledger.bin")


class Training:
    """One file, trained by as many attempts as it takes after what was trained in the folder *start*."""

    def __init__(self, folder: Path, start: Path, name: str = "file.jsonl") -> None:
        self.folder = folder
        for part in ("model", "history"):
            if (start / part).exists():
                shutil.copytree(start / part, folder / part)
        data = folder / name
        rows = [
            {"prompt": f"{name} {number} {'abcdefgh'[number % 8]}", "completion": "abcdefgh"[number % 8]}
            for number in range(ROWS)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.job = TrainingJob(
            data=data,
            current_model=folder / "model",
            checkpoints=folder / "checkpoints",
            work=folder / "work" / name,
            history=folder / "history",
            settings=SETTINGS,
        )

    def attempt(self, phase: str, victim: str, delay_s: float, sign: int) -> tuple[bool, bool]:
        """Train until the end or until *victim* is hit; returns (finished, hit)."""
        reading, writing = os.pipe()
        parent = os.fork()
        if parent == 0:
            os.close(reading)
            _be_parent(self.job, writing)
        os.close(writing)
        hit = self._watch(reading, parent, phase, victim, delay_s, sign)
        status = os.waitpid(parent, 0)[1]
        os.close(reading)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, UNFINISHED) and not (hit and sign == signal.SIGKILL):
            raise SystemExit(f"an attempt that nobody killed ended with {code}")
        return code == 0, hit

    def _watch(self, reading: int, parent: int, phase: str, victim: str, delay_s: float, sign: int) -> bool:
        trainer, seen, hit, text = 0, set(), False, b""
        while True:
            if select.select([reading], [], [], 0.0005)[0]:
                found = os.read(reading, 4096)
                if not found:
                    return hit
                text += found
                *lines, text = text.split(b"\n")
                for line in lines:
                    if line.isdigit():
                        trainer = int(line)
                    seen.add(line.decode())
            if not hit and trainer and (phase in seen or self._is_on_disk(phase)):
                time.sleep(delay_s)
                hit = _hit(victim, trainer, parent, sign)

    def _is_on_disk(self, phase: str) -> bool:
        pattern = {"saving": "ckpt-*.tmp-*", "renaming": "ckpt-*.tmp-*/manifest.json"}.get(phase)
        return pattern is not None and any(self.job.checkpoints.glob(pattern))

    def result(self) -> tuple[Path, FileResult]:
        """The last checkpoint and what came of the file."""
        result = FileResult.from_document(json.loads((self.job.work / "result.json").read_bytes()))
        return self.job.checkpoints / result.checkpoint, result

    def compare(self, expected: "Training") -> None:
        """End with an error unless both ended with the same bits, and every row was trained exactly its epochs."""
        (checkpoint, result), (other, wanted) = self.result(), expected.result()
        for name in COMPARED:
            if (checkpoint / name).read_bytes() != (other / name).read_bytes():
                raise SystemExit(f"{checkpoint / name} differs from that of the training left alone")
        if (self.folder / "model" / COMPARED[0]).read_bytes() != (checkpoint / COMPARED[0]).read_bytes():
            raise SystemExit("the published model is not that of the last checkpoint")
        examined = (result.after, result.earlier_before, result.earlier_after)
        if examined != (wanted.after, wanted.earlier_before, wanted.earlier_after):
            raise SystemExit(f"another result: {result} instead of {wanted}")
        if (result.last_loss, result.set_aside) != (wanted.last_loss, ()):
            raise SystemExit(f"another result: {result} instead of {wanted}")
        counts = np.frombuffer((checkpoint / "ledger.bin").read_bytes(), dtype="<u4").tolist()
        if counts != [EPOCHS] * result.rows + [1] * (result.replay_rows * EPOCHS) or not result.replay_rows:
            raise SystemExit(f"rows were trained {counts} times instead of {EPOCHS}, replayed ones of each epoch once")
        curves = [(one.folder / "history" / one.job.work.name / "loss.csv").read_bytes() for one in (self, expected)]
        if curves[0] != curves[1] or len(curves[0].splitlines()) != result.total_steps + 1:
            raise SystemExit(f"the losses in the history are others: {curves}")
        if (found := [record.outcome for record in History(self.folder / "history").records()]) != [PUBLISHED] * 2:
            raise SystemExit(f"the history holds {found}")
        if left := [*self.job.checkpoints.glob("*.tmp-*"), *self.job.checkpoints.glob("damaged/*")]:
            raise SystemExit(f"something was left: {left}")


def _hit(victim: str, trainer: int, parent: int, sign: int) -> bool:
    try:
        pid = {"trainer": trainer, "parent": parent}.get(victim) or descendants(trainer)[-1]
        os.kill(pid, sign)
    except (IndexError, ProcessLookupError):
        return False  # no writer now, or just gone
    return True


def _be_parent(job: TrainingJob, writing: int) -> None:
    trainer = os.fork()
    if trainer == 0:
        _be_trainer(job, writing)
    os.write(writing, f"{trainer}\n".encode())
    os.close(writing)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(trainer, 0)[1]) & 0x7F)


def _be_trainer(job: TrainingJob, writing: int) -> None:
    code = 1
    try:
        die_with_parent(os.getppid())
        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
        checkpoint_saver.PATIENCE_S = 0.1  # on a busy machine an idle writer may not come to an end

        def report(progress: Progress) -> None:
            phase = "loading" if progress.phase == "training" and not progress.step else progress.phase
            os.write(writing, f"{phase}\n".encode())

        code = 0 if file_training.run(job, report, lambda: bool(stop)).finished else UNFINISHED
    except BaseException:  # noqa: BLE001  # a fork must not return into the harness
        traceback.print_exc()
    os._exit(code)


def _in_child(work: "collections.abc.Callable[[], object]") -> None:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def main(kills: int, seed: int, how: str) -> None:
    """Run trainings until *kills* hits were made; *how* is "kill" or "terminate"."""
    chance = random.Random(seed)
    sign = signal.SIGKILL if how == "kill" else signal.SIGTERM
    tally: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as root:
        _in_child(lambda: create_tiny_model(Path(root) / "model", seed=1, size="nano"))
        earlier = Training(Path(root) / "earlier", Path(root), "earlier.jsonl")
        assert earlier.attempt("never", "trainer", 0, sign) == (True, False)
        alone = Training(Path(root) / "alone", earlier.folder)
        assert alone.attempt("never", "trainer", 0, sign) == (True, False)
        alone.compare(alone)
        files = hits = 0
        while hits < kills:
            files += 1
            training = Training(Path(root) / f"file-{files}", earlier.folder)
            wanted = min(chance.randint(3, 9), kills - hits)
            finished = False
            while not finished:
                phase = chance.choice(PHASES) if wanted else "never"
                victim = "trainer" if how == "terminate" else chance.choice(VICTIMS)
                finished, hit = training.attempt(phase, victim, chance.random() ** 2 * 0.1, sign)
                if hit:
                    tally[f"{victim} {phase}"] += 1
                    wanted -= 1
                    hits += 1
            training.compare(alone)
            shutil.rmtree(training.folder)
    print(json.dumps({"hits": hits, "files": files, "seed": seed, "tally": dict(sorted(tally.items()))}))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
