"""How fast the training daemon answers, and what the chores cost the training, while everything runs at once.

    python benchmarks/daemon_control.py [requests] [pairs]

It starts a daemon of its own on a temporary workspace, which trains a model. Periods of quiet training alternate with
periods in which snapshots are taken, puzzles are generated and dropped files are looked at in all their lines (DEEP)
without a pause, as the daemon's own chores: the share of its speed that the training keeps is the median of the pairs.
After each pair, the chores still running, requests go to its socket: status, the queue, and orders. It prints p50 and
p99 of the answers, and how long the daemon's loop did not look for news. The bars: p99 250 ms for both, 90 %.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from thirdshift import BackgroundTaskManager, TaskFilter, TaskStatus
from thirdshift.apps.training import syllo, tasks
from thirdshift.apps.training.inbox.check_task import INTAKE_QUEUE
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.requests import ask

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
CONFIGURATION = """
training:
  disk: {min_free_gb: 0, warn_free_gb: 0}
  generator: {enabled: false}
  model: {size: small}
  background: {max_workers: 3}
  validation: {level: deep}
  training: {epochs: 1000, batch_size: 8, micro_batch_size: 8, threads: 1, checkpoint_steps: 50, held_out_percent: 0,
             evaluation_limit: 1}
"""
QUEUES = (tasks.CHORES_QUEUE, INTAKE_QUEUE)
PERIOD_S = 15.0
SETTLE_S = 4.0
START_LIMIT_S = 300
REQUESTS = (
    {"order": "status"},
    {"order": "queue", "action": "list"},
    {"order": "status"},
    {"order": "resume"},
)


class Load:
    """Chores without a pause, while it is on."""

    def __init__(self, manager: BackgroundTaskManager, root: str) -> None:
        self._manager = manager
        self._root = root
        self._inbox = TrainingWorkspace(root).inbox
        puzzles = Path(root) / "puzzles.jsonl"
        syllo.write_jsonl(puzzles, syllo.generate(8000, seed=2, levels=(1, 2, 3)))
        self._content = puzzles.read_text()
        self._is_on = threading.Event()
        self._is_over = False
        self.done = 0
        self._thread = threading.Thread(target=self._feed)
        self._thread.start()

    def end(self) -> None:
        """Let nothing follow."""
        self._is_over = True
        self._is_on.set()
        self._thread.join()

    def switch(self, *, on: bool) -> None:
        """Begin, or end what runs."""
        if on:
            for queue in QUEUES:
                self._manager.resume_queue(queue)
            self._is_on.set()
            return
        self._is_on.clear()
        for queue in QUEUES:
            self._manager.pause_queue(queue)
            self._manager.cancel_tasks(TaskFilter(queue=queue))

    def _feed(self) -> None:
        unfinished = [status for status in TaskStatus if not status.is_finished]
        while not self._is_over:
            self._is_on.wait()
            waiting = self._manager.find_tasks(TaskFilter(queue=tasks.CHORES_QUEUE, statuses=frozenset(unfinished)))
            names = [task.name for task in waiting]
            if names.count("take_snapshot") < 3:
                self._manager.submit_task(tasks.take_snapshot, self._root, None)
                self.done += 1
            if names.count("generate_puzzles") < 2:
                self._manager.submit_task(tasks.generate_puzzles, f"{self._root}/elsewhere", 5000, self.done, (1, 2, 3))
                self.done += 1
            if not any(self._inbox.glob("*.jsonl")):
                hidden = self._inbox / ".being-written"
                another = json.dumps({"prompt": str(self.done), "completion": "new"})
                hidden.write_text(f"{self._content}{another}\n")
                hidden.rename(self._inbox / f"file-{self.done}.jsonl")
                self.done += 1
            time.sleep(0.2)


def main(requests: int, pairs: int) -> None:
    """Print what the docstring says."""
    with tempfile.TemporaryDirectory() as root:
        workspace = TrainingWorkspace(root)
        workspace.create()
        TrainingWorkspace(Path(root) / "elsewhere").create()
        (Path(root) / "thirdshift.yaml").write_text(CONFIGURATION)
        syllo.write_jsonl(workspace.inbox / "long.jsonl", syllo.generate(2000, seed=1, levels=(1, 2, 3)))
        daemon = subprocess.Popen([COMMAND, "--workspace", root, "up"], stderr=subprocess.DEVNULL)
        try:
            with BackgroundTaskManager(database=Path(root) / "thirdshift.db", start=False) as manager:
                wait_for_training(workspace)
                load = Load(manager, root)
                try:
                    answers_ms, gaps, kept, chores = measure(workspace, load, requests, pairs)
                finally:
                    load.end()
        finally:
            daemon.terminate()
            daemon.wait()
    answers_ms.sort()
    print(f"load average of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    p50, p99 = answers_ms[len(answers_ms) // 2], answers_ms[len(answers_ms) * 99 // 100]
    print(f"{len(answers_ms)} answers: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {answers_ms[-1]:.1f} ms")
    print(f"the loop did not look for: p50 {gaps['p50']} ms, p99 {gaps['p99']} ms, longest {gaps['longest']} ms")
    shares = ", ".join(f"{share:.0%}" for share in kept)
    print(f"training kept {statistics.median(kept):.0%} of its speed ({shares}) beside {chores} chores")


def measure(
    workspace: TrainingWorkspace, load: Load, requests: int, pairs: int
) -> tuple[list[float], dict[str, float], list[float], int]:
    """Alternate quiet and loud periods; returns the answers' times, the loop's gaps, the speeds kept, the chores."""
    answers_ms: list[float] = []
    kept = []
    for pair in range(pairs):
        load.switch(on=False)
        time.sleep(SETTLE_S)
        quiet = speed(workspace)
        load.switch(on=True)
        time.sleep(SETTLE_S)
        kept.append(speed(workspace) / quiet)
        answers_ms += ask_all(workspace, range(requests * pair // pairs, requests * (pair + 1) // pairs))
    status = ask(workspace.socket, {"order": "status"})["status"]
    return answers_ms, status["loop"]["gap_ms"], kept, load.done


def ask_all(workspace: TrainingWorkspace, numbers: range) -> list[float]:
    """Ask as many times; returns milliseconds."""
    found = []
    for number in numbers:
        began = time.perf_counter()
        answer = ask(workspace.socket, REQUESTS[number % len(REQUESTS)], timeout_s=60)
        found.append((time.perf_counter() - began) * 1000)
        assert answer["accepted"], answer
        time.sleep(0.02)
    return found


def speed(workspace: TrainingWorkspace) -> float:
    """Return the steps a second that the training makes in one period."""
    first, began = step(workspace)
    time.sleep(PERIOD_S)
    last, ended = step(workspace)
    return (last - first) / (ended - began)


def step(workspace: TrainingWorkspace) -> tuple[int, float]:
    """Wait for the next step; returns its number and the moment."""
    before = now = current(workspace)
    while now == before:
        time.sleep(0.005)
        now = current(workspace)
    return now, time.monotonic()


def current(workspace: TrainingWorkspace) -> int:
    """Return the number of the step that was made last."""
    return int(ask(workspace.socket, {"order": "status"})["status"]["training"].get("step", 0))


def wait_for_training(workspace: TrainingWorkspace) -> None:
    """Wait until steps are made and a checkpoint is there to be copied."""
    deadline = time.monotonic() + START_LIMIT_S
    while not (workspace.socket.exists() and any(workspace.checkpoints.glob("ckpt-*")) and current(workspace)):
        if time.monotonic() > deadline:
            raise SystemExit(f"no training within {START_LIMIT_S} s")
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, int(sys.argv[2]) if len(sys.argv) > 2 else 4)
