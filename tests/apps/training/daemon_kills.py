"""Kills a daemon and its processes at random moments while it trains five files, and compares it with one left alone.

    python tests/apps/training/daemon_kills.py KILLS SEED

Nobody helps it: it is only started again, as systemd would do. Files are dropped into the inbox one after the other,
and trained in that order. The moment is drawn by chance: a file that was just dropped, is being checked or was just
queued, a phase of the training, a file that was just archived or a chore that runs, and some time after it; so is who
is killed: the daemon, one of its processes, or all of them. When five files are trained and kills are left, another set
begins. Prints what it did as JSON; ends with an error at the first difference.
"""

import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from thirdshift.apps.training.records.history import History
from thirdshift.apps.training.saving.snapshots import SnapshotService
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.processes import descendants, send_signal
from thirdshift.storage.temporaries import TEMPORARY_MARK
from thirdshift.storage.verified import hash_file

THIRDSHIFT = Path(sys.executable).with_name("thirdshift")
FILES, ROWS, EPOCHS = 5, 24, 2
CONFIGURATION = f"""
training:
  poll_interval_s: 0.02
  settle_s: 0
  error_pause_s: 0.1
  disk: {{min_free_gb: 0, warn_free_gb: 0}}
  generator: {{enabled: false}}
  model: {{size: nano}}
  training: {{epochs: {EPOCHS}, batch_size: 4, micro_batch_size: 4, max_context: 48, held_out_percent: 10,
             evaluation_limit: 4, threads: 1, checkpoint_steps: 1, keep_checkpoints: 1000}}
"""
ARRIVALS = ("dropped", "checking", "queued")
MOMENTS = ("start", "planning", "evaluating before", "training", "training", "evaluating after", "archived", "chore")
VICTIMS = ("daemon", "daemon", "all", "all", "process")
LOOK_S = 0.002
"""Between two looks at a daemon's files: nobody tells of them, for it is watched from outside, as it is killed."""
PATIENCE_S = 60.0
"""How long a moment is waited for; then the kill comes without it."""
LIMIT_S = 600.0
"""How long a daemon that nobody kills may take."""


class Site:
    """A workspace, five files that are dropped there one after the other, and the daemon on it."""

    def __init__(self, root: Path) -> None:
        self.workspace = TrainingWorkspace(root)
        self.workspace.create()
        (root / "thirdshift.yaml").write_text(CONFIGURATION)
        self.to_drop: list[Path] = []
        for number in range(FILES):
            rows = [
                {"prompt": f"{number} {row} {'abcdefgh'[row % 8]}", "completion": "abcdefgh"[(row + number) % 8]}
                for row in range(ROWS)
            ]
            path = root / f"file-{number}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            self.to_drop.append(path)
        self.drop()
        self.daemon = self.start()

    def start(self) -> "subprocess.Popen[str]":
        command = [str(THIRDSHIFT), "--workspace", str(self.workspace.root), "up", "--until-idle"]
        log = (self.workspace.logs / "output.log").open("a")
        return subprocess.Popen(command, stdout=log, stderr=log, text=True)

    def drop(self) -> Path:
        """Drop the next file, as a whole."""
        path = self.to_drop.pop(0)
        return path.rename(self.workspace.inbox / path.name)

    def finish(self) -> None:
        """Drop what is left, and wait for the end of a daemon that nobody kills any more."""
        while self.to_drop:
            self.drop()
        self._wait_for_end()
        if any(self.workspace.inbox.iterdir()):  # dropped in the moment in which it found nothing left to do
            self.daemon = self.start()
            self._wait_for_end()

    def _wait_for_end(self) -> None:
        try:
            code = self.daemon.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.fail(f"the daemon is not done after {LIMIT_S:g} s")
        if code != 0:
            self.fail(f"the daemon ended with {code}")

    def status(self) -> dict[str, Any]:
        """The newest status of this start; empty before it wrote one."""
        try:
            found: dict[str, Any] = json.loads(self.workspace.status_file.read_bytes())
        except FileNotFoundError:
            return {}
        return found if found["pid"] == self.daemon.pid else {}

    def archived(self) -> list[str]:
        return sorted(path.name for path in self.workspace.archive.glob("*.jsonl"))

    def drop_and_wait_for(self, moment: str) -> None:
        """Drop a file in front of a daemon that watches, and wait for *moment* in its way to the queue."""
        if self.daemon.poll() is not None:  # all that was dropped so far is trained
            self.daemon = self.start()
        until = time.monotonic() + PATIENCE_S
        while not self.status() and time.monotonic() < until:
            time.sleep(LOOK_S)
        dropped = self.drop()
        checked = self.workspace.checking / dropped.name
        while time.monotonic() < until:
            if moment == "dropped" or (not dropped.exists() and (moment == "checking" or not checked.exists())):
                return
            time.sleep(LOOK_S / 4)  # a check takes a few milliseconds

    def wait_for(self, moment: str) -> bool:
        """Wait for *moment*; False when the daemon ended before."""
        archived, until = self.archived(), time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if self.daemon.poll() is not None:
                return False
            if moment == "start" or (moment == "archived" and self.archived() != archived):
                return True
            status = self.status()
            if status and moment in ((status["training"] or {}).get("phase"), self._chore(status)):
                return True
            time.sleep(LOOK_S)
        return True

    def _chore(self, status: dict[str, Any]) -> str:
        return "chore" if (status["background_tasks"] or {}).get("running") else ""

    def hit(self, victim: str, chance: random.Random) -> bool:
        """Kill; whether there was somebody to kill. A dead daemon is started again at once."""
        others = descendants(self.daemon.pid)
        pids = {"daemon": [self.daemon.pid], "all": [self.daemon.pid, *others]}.get(victim)
        if pids is None:
            pids = [chance.choice(others)] if others else []
        if not pids or self.daemon.poll() is not None:
            return False
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        if victim != "process":
            self.daemon.wait()
            self.daemon = self.start()
        return True

    def report(self, name: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.workspace.archive / f"{name}.report.json").read_bytes())
        return report

    def compare(self, expected: "Site") -> None:
        """End with an error unless each file was trained exactly once, to the same bits and with the same results."""
        workspace = self.workspace
        names = [f"file-{number}.jsonl" for number in range(FILES)]
        if self.archived() != names:
            self.fail(f"archived are {self.archived()}")
        trained = [record.file for record in History(workspace.history).records()]
        if trained != names:
            self.fail(f"trained were, in this order, {trained}")
        for folder in (
            workspace.inbox,
            workspace.checking,
            workspace.processing,
            workspace.failed,
            workspace.queue / "low",
        ):
            if left := [path.name for path in folder.iterdir()]:
                self.fail(f"{folder} holds {left}")
        for name in names:
            self._compare_file(name, expected)
        if self.weights() != expected.weights():
            self.fail("the model is another than that of the daemon left alone")
        if left := [*workspace.root.glob(f"**/*{TEMPORARY_MARK}*")]:
            self.fail(f"half made is {left}")
        if any((workspace.checkpoints / "damaged").glob("*")):
            self.fail("a checkpoint was found damaged")

    def _compare_file(self, name: str, expected: "Site") -> None:
        report, wanted = self.report(name), expected.report(name)
        for key in ("after", "before", "last_loss", "step", "rows"):
            if report[key] != wanted[key]:
                self.fail(f"{name}: {key} is {report[key]} instead of {wanted[key]}")
        counts, wanted_counts = self.counts(report), expected.counts(wanted)
        if counts != wanted_counts:
            self.fail(f"{name}: rows were trained {counts} times instead of {wanted_counts}")
        if name == "file-0.jsonl" and set(counts) != {EPOCHS}:  # later ones repeat some rows of earlier ones, once
            self.fail(f"{name}: rows were trained {counts} times instead of {EPOCHS}")
        service = SnapshotService(self.workspace.checkpoints, self.workspace.snapshots)
        snapshots = [one.name for one in service.list_snapshots() if one.checkpoint == report["checkpoint"]]
        if len(snapshots) != 1:
            self.fail(f"{name}: its snapshots are {snapshots}")
        service.verify(snapshots[0])

    def counts(self, report: dict[str, Any]) -> list[int]:
        """How often each row was trained, by the ledger of the checkpoint that *report* names."""
        ledger = self.workspace.checkpoints / report["checkpoint"] / "ledger.bin"
        found: list[int] = np.frombuffer(ledger.read_bytes(), dtype="<u4").tolist()
        return found

    def weights(self) -> str:
        return hash_file(self.workspace.current_model / "model.safetensors")

    def fail(self, why: str) -> None:
        send_signal(self.daemon.pid, signal.SIGKILL)
        raise SystemExit(f"{self.workspace.root}: {why}\n{(self.workspace.logs / 'output.log').read_text()[-6000:]}")


def main(kills: int, seed: int) -> None:
    """Train sets of five files until *kills* hits were made."""
    chance = random.Random(seed)
    tally: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        alone = Site(Path(folder) / "alone")
        alone.finish()
        alone.compare(alone)
        sets = hits = 0
        while hits < kills:
            sets += 1
            site = Site(Path(folder) / f"set-{sets}")
            wanted = min(chance.randint(15, 25), kills - hits)
            victim = ""
            while wanted:
                arrives = bool(site.to_drop) and chance.random() < 0.5
                moment = chance.choice(ARRIVALS if arrives else MOMENTS)
                # A process that dies several times in a row without any progress is given up, which is right.
                victim = chance.choice(VICTIMS[:-1] if victim == "process" else VICTIMS)
                if arrives:
                    site.drop_and_wait_for(moment)
                elif not site.wait_for(moment):
                    if not site.to_drop:
                        break
                    continue
                time.sleep(
                    chance.random() ** 2 * (0.05 if arrives else 1)
                )  # so the kill falls anywhere, not at a moment's edge
                if site.hit(victim, chance):
                    tally[f"{victim}, {moment}"] += 1
                    wanted -= 1
                    hits += 1
            site.finish()
            site.compare(alone)
            shutil.rmtree(site.workspace.root)
    print(json.dumps({"hits": hits, "sets": sets, "seed": seed, "tally": dict(sorted(tally.items()))}))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
