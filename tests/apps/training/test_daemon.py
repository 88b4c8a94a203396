"""The whole daemon as a person meets it: real processes on real workspaces, killed, stopped, paused and fed bad files.

Starting to train costs seconds (torch is imported by a fresh child process), so tests share runs where they can.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from thirdshift import BackgroundTask, BackgroundTaskManager, TaskStatus
from thirdshift.apps.training.files.sidecars import Sidecar, Sidecars
from thirdshift.apps.training.saving.checkpoints import Checkpoint, CheckpointFacts, CheckpointStore
from thirdshift.apps.training.saving.snapshots import SnapshotService
from thirdshift.apps.training.tasks import TRAINING_QUEUE, take_snapshot
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.engine import TaskFilter
from thirdshift.host.processes import descendants
from thirdshift.host.requests import ask
from thirdshift.storage.verified import hash_file
from thirdshift.testing.torture.room import can_mount, small_filesystem

T = TypeVar("T")

THIRDSHIFT = Path(sys.executable).with_name("thirdshift")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "THIRDSHIFT_WORKSPACE"}
CHECKPOINT_STEPS = 20
CONFIGURATION = """
training:
  poll_interval_s: 0.05
  settle_s: 0.1
  error_pause_s: 0.1
  retry_pause_s: 0.1
  disk: {{min_free_gb: {min_free_gb}, warn_free_gb: 0}}
  generator: {{enabled: {generator}, count: 40, min_queue_size: 1}}
  model: {{size: nano, path: {model}}}
  training:
    epochs: {epochs}
    batch_size: 4
    micro_batch_size: 4
    max_context: 48
    held_out_percent: 10
    threads: 1
    checkpoint_steps: 20
"""


def configure(
    root: Path, *, epochs: int = 1, min_free_gb: int = 0, generator: str = "false", model: str = "null", more: str = ""
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    text = CONFIGURATION.format(epochs=epochs, min_free_gb=min_free_gb, generator=generator, model=model)
    (root / "thirdshift.yaml").write_text(text + more)


def write_file(path: Path, rows: int, first: int = 0) -> Path:
    """Write questions whose answers a model can learn; the file appears as a whole."""
    lines = []
    for number in range(first, first + rows):
        asked = {"role": "user", "content": f"{number} {'abcdefgh'[number % 8]}"}
        said = {"role": "assistant", "content": "abcdefgh"[number % 8]}
        lines.append(json.dumps({"messages": [asked, said]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(".being-written")
    hidden.write_text("".join(f"{line}\n" for line in lines))
    return hidden.rename(path)


def wait_until(look: Callable[[], T], what: str, timeout_s: float = 240) -> T:
    """Look again and again until there is something; the one place where a test waits for time to pass."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.02)
    return found


def thirdshift(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(THIRDSHIFT), "--workspace", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, env=ENVIRONMENT)


class Daemon:
    """``thirdshift up`` on one workspace, started as often as a test likes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workspace = TrainingWorkspace(root)
        self._log = root.with_name(f"{root.name}.output")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> Self:
        with self._log.open("wb") as log:
            command = [str(THIRDSHIFT), "--workspace", str(self.root), "up", *arguments]
            self._processes.append(
                subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.root.parent, env=ENVIRONMENT
                )
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._processes[-1]

    @property
    def output(self) -> str:
        """What the newest start has said so far."""
        return self._log.read_text()

    @property
    def status(self) -> dict[str, Any]:
        """The status document of the newest start; empty before it wrote one."""
        with contextlib.suppress(FileNotFoundError):
            document: dict[str, Any] = json.loads(self.workspace.status_file.read_bytes())
            if document["pid"] == self.process.pid:
                return document
        return dict.fromkeys(["state", "reason", "last_error"]) | {"training": {}, "queue": {}}

    def wait_until(self, look: Callable[[], T], what: str) -> T:
        def alive() -> T:
            found = look()
            assert found or self.process.poll() is None, f"ended with {self.process.returncode}: {self.output}"
            return found

        try:
            return wait_until(alive, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}\n{json.dumps(self.status, indent=1)}") from None

    def wait_for_state(self, state: str) -> dict[str, Any]:
        return self.wait_until(lambda: self.status["state"] == state and self.status, f"the state is {state}")

    def wait_for_passes(self, count: int = 3) -> None:
        """Wait until the daemon has looked at everything *count* times more."""
        for _ in range(count):
            before = self.status.get("updated_at")
            self.wait_until(lambda before=before: self.status.get("updated_at") != before, "another pass")

    def wait_for_checkpoint(self) -> None:
        self.wait_until(self.checkpoints, "a checkpoint is saved")

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        return self.process.wait(timeout=120)

    def terminate(self) -> int:
        self.process.terminate()
        return self.end()

    def kill(self) -> None:
        """``kill -9``, and wait until its children, too, are gone."""
        children = self.children()
        self.process.kill()
        self.end()
        wait_until(lambda: not any(map(is_alive, children)), "the children of a killed daemon die with it")

    def children(self) -> list[int]:
        return [pid for pid, parent in processes() if parent == self.process.pid]

    def trainer(self) -> int | None:
        """The child that trains, once a checkpoint is saved: the one beneath which the writer of checkpoints is."""
        directory = os.fsencode(self.workspace.checkpoints)
        writers = (
            child
            for child in self.children()
            if any(directory in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(child))
        )
        return next(writers, None)

    @contextlib.contextmanager
    def training_held_up(self) -> Iterator[None]:
        """Stop the child that trains for the block, so that it does not reach its end while a command starts up."""
        child = self.wait_until(self.trainer, "the child that trains")
        os.kill(child, signal.SIGSTOP)
        yield
        os.kill(child, signal.SIGCONT)

    def checkpoints(self) -> list[Checkpoint]:
        directory = self.workspace.checkpoints
        return CheckpointStore(directory).list() if directory.is_dir() else []

    def report(self, name: str) -> dict[str, Any]:
        """The report beside an archived or failed file."""
        folder = next(f for f in (self.workspace.archive, self.workspace.failed) if (f / name).exists())
        document: dict[str, Any] = json.loads((folder / f"{name}.report.json").read_bytes())
        return document

    def trainings(self) -> list[BackgroundTask]:
        with BackgroundTaskManager(database=self.root / "thirdshift.db", start=False) as manager:
            return list(manager.find_tasks(TaskFilter(queue=TRAINING_QUEUE)))

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir() if not path.name.endswith((".report.json", ".tmp")))

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                children = self.children()
                process.kill()
                process.wait()
                for pid in filter(is_alive, children):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def processes() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])


def is_alive(pid: int) -> bool:
    return any(pid == each for each, _ in processes())


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on a workspace of its own, not started yet; whatever is left of it is killed at the end."""
    configure(tmp_path / "shift")
    daemon = Daemon(tmp_path / "shift")
    yield daemon
    daemon.close()


@pytest.fixture
def long(daemon: Daemon) -> Daemon:
    """A daemon that will find one file which takes a thousand steps: long enough to meet it while it trains."""
    prepare_long_training(daemon)
    return daemon


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The same file, trained from start to end without any disturbance; ended."""
    daemon = Daemon(tmp_path_factory.mktemp("undisturbed") / "shift")
    prepare_long_training(daemon)
    daemon.start("--until-idle")
    assert daemon.end() == 0, daemon.output
    yield daemon
    daemon.close()


def prepare_long_training(daemon: Daemon) -> None:
    # So many checkpoints that the one of the file's end is there when its snapshot's turn comes, on a busy machine too.
    configure(daemon.root, epochs=80, more="    keep_checkpoints: 100\n")
    write_file(daemon.workspace.inbox / "long.jsonl", 56)


def weights(daemon: Daemon) -> str:
    return hash_file(daemon.workspace.current_model / "model.safetensors")


def assert_resumed(daemon: Daemon, undisturbed: Daemon, resumed_from: Checkpoint) -> None:
    """The file went on from *resumed_from* and ended in the same weights to the last bit; nothing is in hand."""
    assert daemon.names(daemon.workspace.processing) == []
    report = daemon.report("long.jsonl")
    steps, first_step = report["step"], resumed_from.facts.step
    assert 0 < first_step < steps == report["total_steps"]
    saved_since = -(-steps // CHECKPOINT_STEPS) - first_step // CHECKPOINT_STEPS
    sequence = int(report["checkpoint"].removeprefix("ckpt-"))  # of those due while one was being written not all came
    assert resumed_from.sequence < sequence <= resumed_from.sequence + saved_since
    (snapshot,) = daemon.workspace.snapshots.glob(f"{report['checkpoint']}_*")
    assert hash_file(snapshot / "model.safetensors") == weights(undisturbed)


def assert_trained_once(daemon: Daemon, undisturbed: Daemon, resumed_from: Checkpoint) -> None:
    """It resumed, was archived once, and the current model is that of an undisturbed run."""
    assert_resumed(daemon, undisturbed, resumed_from)
    assert daemon.names(daemon.workspace.archive) == ["long.jsonl"]
    assert daemon.status["queue"]["total_queued"] == 0
    assert weights(daemon) == weights(undisturbed)


# The way of a file


@pytest.mark.training
def test_a_dropped_file_becomes_a_better_model(undisturbed: Daemon) -> None:
    """It is archived with a report: loss and accuracy before and after, and where the checkpoint is."""
    report = undisturbed.report("long.jsonl")
    assert undisturbed.names(undisturbed.workspace.archive) == ["long.jsonl"]
    assert report["last_loss"] < report["first_loss"] / 2
    assert report["accuracy_before"] == 0
    assert report["after"]["this file"]["loss"] < report["before"]["this file"]["loss"]
    assert report["before"]["this file"]["asked"] > 0
    assert (undisturbed.workspace.checkpoints / report["checkpoint"]).is_dir()
    assert undisturbed.status["state"] == "stopped"
    assert undisturbed.status["training"]["last"]["accuracy_after"] == report["accuracy_after"]
    assert "exact match 0.0% -> " in undisturbed.output
    assert "\x1b" not in undisturbed.output


@pytest.mark.training
def test_every_finished_file_gets_a_verified_snapshot(undisturbed: Daemon) -> None:
    """Its weights are those of the checkpoint."""
    workspace = undisturbed.workspace
    service = SnapshotService(workspace.checkpoints, workspace.snapshots)
    (snapshot,) = service.list_snapshots()
    service.verify(snapshot.name)
    assert snapshot.checkpoint == undisturbed.report("long.jsonl")["checkpoint"]
    assert hash_file(snapshot.path / "model.safetensors") == weights(undisturbed)
    (chore,) = undisturbed.status["background_tasks"]["recent"]
    assert (chore["name"], chore["error"], chore["result"]) == ("take_snapshot", None, str(snapshot.path))


@pytest.mark.training
def test_transformers_alone_loads_the_current_model(undisturbed: Daemon) -> None:
    """A fresh process that never heard of Thirdshift opens it and lets it speak."""
    script = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
asked = [{"role": "user", "content": "3 d"}]
prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
model.generate(**prompt, max_new_tokens=2, do_sample=False)
assert "thirdshift" not in sys.modules
"""
    command = [sys.executable, "-c", script, str(undisturbed.workspace.current_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.mark.training
def test_a_day_of_good_and_bad_files(daemon: Daemon) -> None:
    """Bad files end in queue/failed with file, line and cause, good ones are trained, and nothing is deleted."""
    inbox, failed, archive = daemon.workspace.inbox, daemon.workspace.failed, daemon.workspace.archive
    rows = write_file(inbox / "mine" / "a.jsonl", 12).read_text().splitlines()
    write_file(inbox / "a.jsonl", 12, first=100)
    write_file(inbox / "mine" / "deep" / "b.jsonl", 12, first=200)
    write_file(Path(os.fsdecode(os.fsencode(inbox) + b"/caf\xe9.jsonl")), 12, first=300)
    (inbox / "broken.jsonl").write_text("\n".join([*rows[:2], "{not json", *rows[3:]]))
    (inbox / "empty.jsonl").touch()
    (inbox / "missing.jsonl").write_text(f'{rows[0]}\n{{"question": "3 d"}}\n')
    (inbox / "binary.jsonl").write_bytes(b"\x7fELF\0\0\1")
    (inbox / "latin.jsonl").write_bytes(f"{rows[0]}\n".encode() + '{"prompt": "caf\xe9"}\n'.encode("latin-1"))
    (inbox / "folder.jsonl").mkdir()
    (inbox / "folder.jsonl" / "inside.txt").write_text("mine")
    (inbox / "link.jsonl").symlink_to("/etc/hostname")
    os.mkfifo(inbox / "pipe.jsonl")

    no_files = ["folder.jsonl", "link.jsonl", "pipe.jsonl"]
    bad = sorted(["binary.jsonl", "broken.jsonl", "empty.jsonl", "latin.jsonl", "missing.jsonl", *no_files])
    daemon.start()
    daemon.wait_until(lambda: failed.is_dir() and daemon.names(failed) == bad, "all bad files are refused")
    causes = {name: daemon.report(name)["cause"] for name in bad}
    assert causes["broken.jsonl"].startswith("broken.jsonl:3: not JSON")
    assert causes["empty.jsonl"] == "empty.jsonl: is empty"
    assert causes["missing.jsonl"].startswith("missing.jsonl:2: ")
    assert causes["binary.jsonl"].startswith("binary.jsonl:1: holds a NUL byte")
    assert causes["latin.jsonl"].startswith("latin.jsonl:2: not UTF-8")
    assert causes["folder.jsonl"] == "folder.jsonl: is a directory; only a regular file can be trained"
    assert causes["link.jsonl"] == "link.jsonl: is a symbolic link; only a regular file can be trained"
    assert causes["pipe.jsonl"] == "pipe.jsonl: is a FIFO; only a regular file can be trained"
    assert (failed / "folder.jsonl" / "inside.txt").read_text() == "mine"

    good = ["a-1.jsonl", "a.jsonl", "b.jsonl", "caf\\xe9.jsonl"]
    daemon.wait_until(lambda: daemon.names(archive) == good, "what was good, in sub-folders too, is trained")
    write_file(inbox / "a.jsonl", 12, first=400)
    daemon.wait_until(lambda: len(daemon.names(archive)) == 5, "a file dropped afterwards is trained")
    assert daemon.names(archive) == ["a-1.jsonl", "a-2.jsonl", *good[1:]]
    first_rows = [(archive / name).read_text().splitlines()[0] for name in daemon.names(archive)]
    assert len(set(first_rows)) == 5, "each file is itself, none was written over"
    daemon.wait_until(lambda: daemon.status["state"] == "idle", "all is done")
    assert daemon.names(inbox) == []
    assert daemon.status["last_error"] is None

    before = daemon.names(daemon.workspace.snapshots)
    assert thirdshift(daemon.root, "train", "trigger", "snapshot").returncode == 0
    daemon.wait_until(lambda: len(daemon.names(daemon.workspace.snapshots)) > len(before), "a snapshot was asked for")
    assert daemon.terminate() == 0
    daemon.start("--until-idle")
    assert daemon.end() == 0


@pytest.mark.training
def test_generated_puzzles_are_trained_when_nobody_drops_files(daemon: Daemon) -> None:
    """With --until-idle the inbox is filled once; the held-out puzzles are examined before and after."""
    configure(daemon.root, generator="true")
    daemon.start("--until-idle")
    assert daemon.end() == 0, daemon.output
    (name,) = daemon.names(daemon.workspace.archive)
    assert name.startswith("auto_gen_")
    assert daemon.report(name)["before"]["syllo.jsonl"]["asked"] == 192


# Killed and stopped


@pytest.mark.training
def test_a_killed_daemon_goes_on_where_it_was(long: Daemon, undisturbed: Daemon) -> None:
    """kill -9 in the middle of training, and start again: the file goes on from its checkpoint, exactly."""
    long.start()
    long.wait_for_checkpoint()
    assert long.status["queue"]["processing"] == ["long.jsonl"]
    (long.workspace.control / ".trigger_snapshot").touch()
    with long.training_held_up():
        document = json.loads(thirdshift(long.root, "--json", "status").stdout)
    assert (document["daemon"], document["training"]["file"]) == ("running", "long.jsonl")
    assert document["training"]["step"] > 0, "status answers while a training and a snapshot run"
    long.kill()
    assert long.names(long.workspace.processing) == ["long.jsonl"]
    at_death = long.checkpoints()[-1]
    document = json.loads(thirdshift(long.root, "--json", "status").stdout)
    assert (document["daemon"], document["state"]) == ("stopped", "stopped")
    assert "ended while training" in document["reason"]

    long.start("--until-idle")
    assert long.end() == 0, long.output
    assert "recovered long.jsonl: it goes on where it was" in long.output
    assert_trained_once(long, undisturbed, at_death)
    (task,) = long.trainings()
    outcomes = [(attempt.outcome.value, attempt.error and attempt.error.type) for attempt in task.attempts]
    assert outcomes == [("interrupted", "WorkerDied"), ("completed", None)]
    assert task.failures == 0


@pytest.mark.training
def test_a_crash_before_the_archive_costs_nothing(daemon: Daemon, undisturbed: Daemon) -> None:
    """Trained, published, but still in hand when everything died: archived at the next start, not trained again."""
    shutil.copytree(undisturbed.root, daemon.root, dirs_exist_ok=True)
    workspace = daemon.workspace
    report = undisturbed.report("long.jsonl")
    (task,) = daemon.trainings()
    (_, name, key), _ = task.arguments
    arrived_at = datetime.strptime(key.removeprefix("long.")[:-4], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    moment = arrived_at.isoformat(timespec="microseconds")
    sidecar = Sidecar(priority="normal", arrived_at=moment, checked=report["validation"])
    Sidecars(workspace.queue / ".meta").write(name, sidecar)
    (workspace.archive / name).rename(workspace.processing / name)
    (workspace.archive / f"{name}.report.json").unlink()
    (workspace.work / key).mkdir()
    (workspace.work / key / "result.json").write_text(json.dumps(report))

    daemon.start("--until-idle")
    assert daemon.end() == 0, daemon.output
    assert {**daemon.report(name), "when": "", "task": ""} == {**report, "when": "", "task": ""}
    assert weights(daemon) == weights(undisturbed)
    assert daemon.names(workspace.snapshots) == undisturbed.names(undisturbed.workspace.snapshots)
    assert daemon.names(workspace.work) == []


@pytest.mark.training
def test_a_killed_training_is_tried_again(long: Daemon, undisturbed: Daemon) -> None:
    """The daemon survives the death of the process that trains and resumes; no retry is used up."""
    long.start("--until-idle")
    long.wait_for_checkpoint()
    child = long.wait_until(long.trainer, "the child that trains")
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not is_alive(child), "the child is gone")
    at_death = long.checkpoints()[-1]
    assert long.end() == 0, long.output
    assert_trained_once(long, undisturbed, at_death)
    (task,) = long.trainings()
    outcomes = [(attempt.outcome.value, attempt.error and attempt.error.type) for attempt in task.attempts]
    assert outcomes == [("interrupted", "ProcessDied"), ("completed", None)]


@pytest.mark.training
def test_sigterm_saves_a_checkpoint_and_the_next_start_goes_on(long: Daemon, undisturbed: Daemon) -> None:
    """Exit code 0; the file waits at the head of the line, before files of a higher priority."""
    long.start()
    long.wait_for_checkpoint()
    assert long.terminate() == 0, long.output
    assert "laid aside long.jsonl: a checkpoint is saved" in long.output
    assert long.names(long.workspace.processing) == []
    assert long.names(long.workspace.queue / "normal") == ["long.jsonl"]
    assert long.status["state"] == "stopped"
    (task,) = long.trainings()
    assert (task.status, task.failures) == (TaskStatus.PENDING, 0)
    at_stop = long.checkpoints()[-1]

    write_file(long.workspace.queue / "high" / "urgent.jsonl", 8)
    long.start("--until-idle")
    assert long.end() == 0, long.output
    assert_resumed(long, undisturbed, at_stop)
    assert long.names(long.workspace.archive) == ["long.jsonl", "urgent.jsonl"]
    assert long.report("long.jsonl")["when"] < long.report("urgent.jsonl")["when"]


@pytest.mark.training
def test_a_second_signal_ends_the_daemon_at_once(long: Daemon) -> None:
    """Exit code 143, while the first one still waits for the training; its children are gone and nothing is lost."""
    long.start()
    running = [TaskStatus.RUNNING]
    long.wait_until(lambda: [task.status for task in long.trainings()] == running, "the training begins")
    child = long.children()[-1]
    long.process.terminate()
    long.wait_for_state("stopping")
    assert long.terminate() == 143
    wait_until(lambda: not is_alive(child), "the training ends with the daemon")
    assert long.names(long.workspace.processing) == ["long.jsonl"]


@pytest.mark.training
def test_a_pause_lasts_until_it_is_ended(long: Daemon, undisturbed: Daemon) -> None:
    """Pause keeps a checkpoint and holds over a restart; resume goes on from there, exactly."""
    long.start()
    long.wait_for_checkpoint()
    with long.training_held_up():
        assert thirdshift(long.root, "train", "pause").returncode == 0
    long.wait_for_state("paused")
    long.wait_until(lambda: long.trainings()[0].status is TaskStatus.PENDING, "the training stops")
    at_pause = long.checkpoints()[-1]
    assert long.terminate() == 0
    assert long.names(long.workspace.queue / "normal") == ["long.jsonl"]

    long.start("--until-idle")
    status = long.wait_for_state("paused")
    assert status["reason"].startswith("paused since 20")
    long.wait_for_passes()
    assert long.names(long.workspace.processing) == []
    assert long.checkpoints()[-1] == at_pause
    assert "paused since" in thirdshift(long.root, "status").stdout
    assert thirdshift(long.root, "train", "resume").returncode == 0
    assert long.end() == 0, long.output
    assert_trained_once(long, undisturbed, at_pause)


@pytest.mark.training
def test_orders_at_the_socket(long: Daemon) -> None:
    """Each says whether it is accepted: skip, the three stops, the queue's; answered while a model is trained."""
    workspace = long.workspace
    write_file(workspace.inbox / "long.jsonl", 4000)  # never trained to its end here
    long.start()
    long.wait_for_checkpoint()
    write_file(workspace.inbox / "second.jsonl", 12, first=100)
    for _ in range(100):
        assert ask(workspace.socket, {"order": "status"})["status"]["state"] == "training"
    assert workspace.socket.stat().st_mode & 0o777 == 0o600

    assert thirdshift(long.root, "train", "skip").stdout == "accepted: the daemon skips the file in hand\n"
    long.wait_until(lambda: long.names(workspace.failed) == ["long.jsonl"], "the file in hand is given up")
    assert long.report("long.jsonl")["cause"] == "skipped by order"
    long.wait_until(lambda: long.names(workspace.archive) == ["second.jsonl"], "the next one is trained")
    assert thirdshift(long.root, "train", "queue", "retry", "long.jsonl").returncode == 0
    long.wait_until((workspace.processing / "long.jsonl").exists, "the file that was skipped is in hand again")
    (listed,) = json.loads(thirdshift(long.root, "--json", "train", "queue", "list").stdout)["processing"]
    assert listed == "long.jsonl"

    write_file(workspace.inbox / "third.jsonl", 12, first=200)
    long.wait_until(lambda: long.status["queue"].get("normal") == 1, "another file waits")
    assert "accepted" in thirdshift(long.root, "train", "stop", "--after-file").stdout
    long.wait_until(lambda: long.status["reason"] == "stops after the file in hand, by order", "the end is announced")
    child = long.wait_until(long.trainer, "the child that trains")
    assert "accepted" in thirdshift(long.root, "train", "stop", "--now").stdout
    assert long.end() == 0, long.output
    assert not is_alive(child)
    assert long.names(workspace.processing) == []
    assert long.status["state"] == "stopped"
    refused = thirdshift(long.root, "train", "skip")
    assert (refused.returncode, "no daemon is running" in refused.stderr) == (1, True)

    assert thirdshift(long.root, "train", "queue", "remove", "long.jsonl").returncode == 0
    write_file(workspace.inbox / "fourth.jsonl", 12, first=300)
    long.start()
    long.wait_until((workspace.processing / "third.jsonl").exists, "the next file is in hand")
    (workspace.control / ".stop_after_file").touch()
    assert long.end() == 0, long.output
    assert long.names(workspace.archive) == ["second.jsonl", "third.jsonl"]
    assert long.names(workspace.queue / "normal") == ["fourth.jsonl"]


def test_one_daemon_for_a_workspace(daemon: Daemon) -> None:
    """The second exits with 75 and names the first; once that is killed, a start works at once and says so."""
    workspace = daemon.workspace
    workspace.create()
    for word in (".stop", ".resume"):
        (workspace.control / word).touch()
    daemon.start()
    daemon.wait_for_state("idle")
    assert "dropped the order stop" in daemon.output, "an order to the last daemon does not end this one"

    second = thirdshift(daemon.root, "up")
    assert second.returncode == 75
    assert f"already running (process {daemon.process.pid})" in second.stderr
    assert "Traceback" not in second.stderr
    daemon.wait_for_passes()

    daemon.kill()
    daemon.start()
    status = daemon.wait_for_state("idle")
    assert status["reason"] == "Recovered from crash"
    assert thirdshift(daemon.root, "train", "stop").returncode == 0
    assert daemon.end() == 0
    assert daemon.status["state"] == "stopped"
    assert workspace.pid_file.read_bytes() == b""


# Trouble


def test_a_full_disk_makes_files_wait(daemon: Daemon) -> None:
    """Nothing is trained and no attempt is counted; the status says why, and SIGTERM ends an idle daemon with 0."""
    configure(daemon.root, min_free_gb=1_000_000)
    write_file(daemon.workspace.inbox / "waits.jsonl", 8)
    daemon.start()
    daemon.wait_until(lambda: daemon.status["queue"].get("normal") == 1, "the file is queued")
    daemon.wait_for_passes()
    assert daemon.status["reason"] == "less than 1e+06 GB free; files wait until there is space"
    assert daemon.status["disk"]["level"] == "full"
    assert daemon.trainings() == []
    assert daemon.terminate() == 0
    assert daemon.names(daemon.workspace.queue / "normal") == ["waits.jsonl"]


@pytest.mark.training
@pytest.mark.skipif(not can_mount(), reason="only root may mount a small file system")
def test_a_disk_that_runs_full_under_a_training(long: Daemon, undisturbed: Daemon) -> None:
    """Low on space it pauses with a checkpoint; with none left nothing is lost; both times it goes on by itself.

    The socket answers throughout, no attempt is counted, and the weights are those of an undisturbed run.
    """
    shutil.rmtree(long.root)
    long.root.mkdir()
    with small_filesystem(long.root, 400_000_000):
        prepare_long_training(long)
        configuration = long.root / "thirdshift.yaml"
        configuration.write_text(configuration.read_text().replace("min_free_gb: 0", "min_free_gb: 0.15"))
        long.start()
        long.wait_for_checkpoint()
        with filled(long.root, leaving_bytes=100_000_000):
            waits = "less than 0.15 GB free; files wait until there is space"
            long.wait_until(lambda: long.status["reason"] == waits, "the training waits")
            long.wait_until(lambda: long.trainings()[0].status is TaskStatus.PENDING, "the training stops")
            at_pause = long.checkpoints()[-1]
            assert long.status["disk"]["level"] == "full"
            assert "the disk is full: less than 0.15 GB are free" in long.output
            assert long.names(long.workspace.processing) == ["long.jsonl"]
        long.wait_until(lambda: long.checkpoints()[-1].sequence > at_pause.sequence, "the training goes on")

        before = long.checkpoints()[-1]
        with filled(long.root, leaving_bytes=0):
            for _ in range(20):  # for a second the disk is full, whatever the training does: no event marks its end
                document = ask(long.workspace.socket, {"order": "status"})["status"]
                time.sleep(0.05)
            assert document["disk"]["free_gb"] == 0
            assert document["last_error"] is None or "No space left" in document["last_error"]["error"]
        long.wait_until(lambda: long.names(long.workspace.archive) == ["long.jsonl"], "the file is trained")
        long.wait_until(lambda: long.status["background_tasks"]["recent"], "its snapshot is taken")
        assert long.terminate() == 0, long.output
        assert_trained_once(long, undisturbed, before)
        (task,) = long.trainings()
        assert task.failures == 0
        long.close()


@contextlib.contextmanager
def filled(folder: Path, leaving_bytes: int) -> Iterator[None]:
    """Let a file take what is free on the disk of *folder* while the block runs, but for so many bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        left = shutil.disk_usage(folder).free - leaving_bytes
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))
            file.flush()
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.training
def test_an_unforeseen_error_is_told_and_survived(daemon: Daemon) -> None:
    """The archive is gone: the status shows the traceback, all else goes on, and when it is back, so is the file."""
    archive, failed = daemon.workspace.archive, daemon.workspace.failed
    daemon.start()
    daemon.wait_for_state("idle")
    archive.rmdir()
    archive.symlink_to(daemon.root / "nowhere")
    write_file(daemon.workspace.inbox / "good.jsonl", 12)
    error = daemon.wait_until(lambda: daemon.status["last_error"], "the error is in the status")
    assert error["error"].startswith("FileExistsError: ")
    assert "mark_completed" in error["traceback"]
    assert "last error  FileExistsError" in thirdshift(daemon.root, "status").stdout

    (daemon.workspace.inbox / "bad.jsonl").touch()
    daemon.wait_until(lambda: daemon.names(failed) == ["bad.jsonl"], "other files are looked at all the same")
    archive.unlink()
    archive.mkdir()
    daemon.wait_until(lambda: daemon.names(archive) == ["good.jsonl"], "the daemon goes on after a pause")
    daemon.wait_until(lambda: daemon.status["background_tasks"]["recent"], "the snapshot is taken")
    assert len(daemon.names(daemon.workspace.snapshots)) == 1, "not one for each time that archiving was tried"

    write_file(daemon.workspace.inbox / "regretted.jsonl", 200)
    in_hand = daemon.workspace.processing / "regretted.jsonl"
    daemon.wait_until(in_hand.exists, "the next file is in hand")
    in_hand.unlink()
    daemon.wait_until(lambda: "taken out of queue/processing by hand" in daemon.output, "its training is cancelled")
    daemon.wait_until(lambda: daemon.trainings()[0].status.is_finished, "so is its task, unless it has failed before")
    assert daemon.terminate() == 0


@pytest.mark.training
def test_a_file_that_fails_three_times_is_given_up(daemon: Daemon) -> None:
    """It lies in queue/failed with the cause and the number of attempts; the daemon goes on."""
    broken = daemon.root / "broken model"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (broken / name).write_text("{}")
    configure(daemon.root, model="broken model")
    write_file(daemon.workspace.inbox / "good.jsonl", 8)
    daemon.start("--until-idle")
    assert daemon.end() == 0, daemon.output
    report = daemon.report("good.jsonl")
    assert daemon.names(daemon.workspace.failed) == ["good.jsonl"]
    assert report["cause"].startswith(f"NotAModel: {daemon.workspace.current_model} holds no model that can be loaded")
    assert (report["attempts"], report["final_failure"]) == (3, True)
    assert report["last_error"] == report["cause"]
    assert "good.jsonl failed (attempt 1 of 3): NotAModel: " in daemon.output
    assert "good.jsonl failed (attempt 2 of 3): NotAModel: " in daemon.output
    assert [(task.status, task.failures) for task in daemon.trainings()] == [(TaskStatus.FAILED, 1)] * 3
    assert daemon.names(daemon.workspace.work) == []


def test_a_daemon_goes_on_when_nobody_reads_its_story(daemon: Daemon) -> None:
    """`thirdshift up 2>&1 | head -1`, or a terminal that was closed."""
    command = [str(THIRDSHIFT), "--workspace", str(daemon.root), "up"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT)
    try:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        wait_until(daemon.workspace.status_file.exists, "the daemon runs")
        (daemon.workspace.inbox / "bad.jsonl").touch()
        wait_until(lambda: daemon.names(daemon.workspace.failed), "the daemon works")
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()


def test_a_damaged_database_ends_the_daemon(daemon: Daemon) -> None:
    """Its worker gives up; the daemon does not go on without it, exits with 69, and the status says why."""
    daemon.start()
    daemon.wait_for_state("idle")
    for name in ("thirdshift.db", "thirdshift.db-wal"):
        with (daemon.root / name).open("r+b") as file:  # in place: a file that is cut off gives other errors
            file.write(os.urandom((daemon.root / name).stat().st_size))
    (daemon.workspace.control / ".trigger_snapshot").touch()
    assert daemon.end() == 69, daemon.output
    assert "thirdshift.db is not a sound Thirdshift database" in daemon.output
    assert "Traceback" not in daemon.output
    assert daemon.status["last_error"]["error"].startswith("StoreDamaged: ")


def test_the_database_may_have_another_name(daemon: Daemon) -> None:
    """Worker, daemon and commands use the one that the configuration names; it says so in JSON lines, if asked to."""
    configure(daemon.root, more="database: tasks.db\n")
    daemon.start("--log-format", "json")
    daemon.wait_for_state("idle")
    assert daemon.terminate() == 0, daemon.output
    assert daemon.status["state"] == "stopped"
    assert (daemon.root / "tasks.db").exists()
    assert not (daemon.root / "thirdshift.db").exists()
    messages = [json.loads(line)["message"] for line in daemon.output.splitlines()]
    assert f"workspace {daemon.root}, database {daemon.root / 'tasks.db'}" in messages
    assert messages[-1] == "stopped"


# What a person configures


@pytest.mark.training
def test_a_model_of_ones_own_is_the_beginning(daemon: Daemon, undisturbed: Daemon) -> None:
    """A folder named in the configuration, relative to the workspace, is trained on; it stays as it is."""
    shutil.copytree(
        undisturbed.workspace.current_model, daemon.root / "my model", ignore=shutil.ignore_patterns("checkpoints")
    )
    configure(daemon.root, model="my model")
    shutil.copy(undisturbed.workspace.archive / "long.jsonl", write_file(daemon.workspace.inbox / "long.jsonl", 1))
    daemon.start("--until-idle")
    assert daemon.end() == 0, daemon.output
    left, found = undisturbed.report("long.jsonl")["after"], daemon.report("long.jsonl")["before"]
    assert found["this file"]["loss"] == pytest.approx(left["this file"]["loss"])
    assert hash_file(daemon.root / "my model" / "model.safetensors") == weights(undisturbed)
    assert weights(daemon) != weights(undisturbed)


def test_a_model_that_is_not_there_is_a_wrong_configuration(daemon: Daemon) -> None:
    """Exit code 78 before anything starts, and no file pays for it."""
    configure(daemon.root, model="missing-model")
    before = write_file(daemon.workspace.inbox / "good.jsonl", 8)
    (daemon.root / "incomplete").mkdir()
    done = thirdshift(daemon.root, "up")
    assert done.returncode == 78
    assert f"training.model.path: {daemon.root / 'missing-model'} has no config.json" in done.stderr
    (daemon.root / "missing-model").mkdir()
    (daemon.root / "missing-model" / "config.json").touch()
    assert "has no weights in safetensors files, no a tokenizer" in thirdshift(daemon.root, "up").stderr
    assert before.exists()
    assert not (daemon.root / "thirdshift.db").exists()


def test_a_wrong_configuration_starts_nothing(daemon: Daemon) -> None:
    """Exit code 78; all problems at once, each with file, line and column; no database and no folder is made."""
    path = daemon.root / "thirdshift.yaml"
    path.write_text("log_level: LOUD\ntraning: {}\ntraining:\n  max_attempts: two\n  generator: {cuont: 5}\n")
    done = thirdshift(daemon.root, "up")
    assert done.returncode == 78
    lines = done.stderr.removeprefix("thirdshift: ").splitlines()
    places = [line.removeprefix(f"{path}:").split(": ")[0] for line in lines]
    assert {"2:1", "4:17", "5:15"} <= set(places), lines
    assert "did you mean training?" in done.stderr
    assert [each.name for each in daemon.root.iterdir()] == ["thirdshift.yaml"]


def test_a_value_that_cannot_be_is_refused(daemon: Daemon) -> None:
    """Before a file pays for it."""
    (daemon.root / "thirdshift.yaml").write_text("training:\n  max_attempts: 0\n  poll_interval_s: .inf\n")
    done = thirdshift(daemon.root, "up")
    assert done.returncode == 78
    assert "thirdshift.yaml:2:3: max_attempts is 0; it must be 1 or more" in done.stderr
    assert "thirdshift.yaml:3:3: poll_interval_s is inf; it must be 0.01 or more" in done.stderr
    (daemon.root / "thirdshift.yaml").write_text("training:\n  model: {size: huge}\n")
    assert "2:11: size is 'huge'; it may be 'nano' or 'tiny' or 'small'" in thirdshift(daemon.root, "up").stderr


def test_a_folder_that_cannot_be_made_is_one_clear_message(daemon: Daemon) -> None:
    """A file lies where the inbox should be."""
    (daemon.root / "inbox").touch()
    done = thirdshift(daemon.root, "up")
    assert done.returncode == 1
    assert str(daemon.root / "inbox") in done.stderr
    assert "Traceback" not in done.stderr


# The chores


def test_a_snapshot_of_a_pruned_checkpoint_is_one_of_the_newest(tmp_path: Path) -> None:
    """The chores run when the machine has time; by then the checkpoint may have been pruned."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    facts = CheckpointFacts(
        plan_hash="", base_hash="", data_name="", step=1, total_steps=1, epoch=0, first_losses=(), last_losses=(),
        tokens=0, seconds=0.0, numerics={},
    )  # fmt: skip
    checkpoint = CheckpointStore(workspace.checkpoints).save(lambda folder: touch(folder / "config.json"), facts)
    with BackgroundTaskManager("process", 1, database=tmp_path / "thirdshift.db") as manager:
        taken = Path(manager.submit(take_snapshot, str(tmp_path), "ckpt-000099").result(timeout=120))
    assert taken.name.startswith(checkpoint.path.name)


def touch(path: Path) -> None:
    path.touch()


# The gate


@pytest.mark.training
def test_a_file_that_makes_an_earlier_one_worse_waits_for_a_person(daemon: Daemon) -> None:
    """It goes to ``queue/failed`` and its report says what it costs; the model stays; accepted, it is published."""
    configure(daemon.root, epochs=16, more="    learning_rate: 0.01\n    replay_percent: 0\n")
    write_file(daemon.workspace.inbox / "first.jsonl", 100)
    assert daemon.start("--until-idle").end() == 0, daemon.output
    assert daemon.report("first.jsonl")["accuracy_after"] > 0.9
    good = weights(daemon)
    rows = [
        json.dumps({"prompt": f"{number} {'abcdefgh'[number % 8]}", "completion": "efghabcd"[number % 8]})
        for number in range(1000, 1100)
    ]
    (daemon.workspace.inbox / "other.jsonl").write_text("".join(f"{row}\n" for row in rows))
    assert daemon.start("--until-idle").end() == 0, daemon.output
    report = daemon.report("other.jsonl")
    assert report["cause"].startswith("held back, for it makes earlier files worse: first.jsonl: exact match ")
    assert daemon.names(daemon.workspace.failed) == ["other.jsonl"]
    assert weights(daemon) == good
    assert "refused other.jsonl: held back" in daemon.output
    accepted = thirdshift(daemon.root, "train", "accept", "other.jsonl")
    assert "before all others, and is published this time" in accepted.stdout, accepted.stderr
    assert daemon.start("--until-idle").end() == 0, daemon.output
    assert daemon.names(daemon.workspace.archive) == ["first.jsonl", "other.jsonl"]
    assert daemon.report("other.jsonl")["is_accepted"]
    assert weights(daemon) != good
    told = json.loads(thirdshift(daemon.root, "--json", "train", "history").stdout)
    assert [record["outcome"] for record in told] == ["published", "held back", "published"]
    assert [len(record["attempts"]) for record in told] == [1, 1, 1]
