"""The place of a file is its state: the queue loses nothing and doubles nothing, whenever it is killed."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thirdshift.apps.training.files.queue import QueuedFile, TrainingQueue
from thirdshift.core.errors import FileNotQueued, UnsafePath, UsageError

# Runs the life of a few files in a child that kills itself at its nth file operation, for every n: Python reports each
# open, rename, link, remove and mkdir to audit hooks before it is carried out.
CRASHER = """
import os, signal, sys
from pathlib import Path
from thirdshift.apps.training.files.queue import TrainingQueue

def kill_at(deadly):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event == "open" or event.startswith("os."):
            seen += 1
            if seen == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

def live(workspace):
    queue = TrainingQueue(workspace / "queue")
    queue.add(workspace / "inbox" / "a.jsonl", "high")
    claimed = queue.checking.claim(workspace / "inbox" / "b.jsonl")
    queue.checking.accept(claimed.name, {"content_hash": "b"}, "low")
    (workspace / "inbox" / "b-again.jsonl").rename(workspace / "inbox" / "b.jsonl")
    queue.add(workspace / "inbox" / "b.jsonl", "low")
    queue.set_priority("b-1.jsonl", "normal")
    for name in ("a.jsonl", "b-1.jsonl", "b.jsonl"):
        assert queue.get_next().name == name
        queue.give_back(name)
        assert queue.get_next().name == name
        if name == "a.jsonl":
            queue.mark_completed(name, {"rows": 1}, workspace / "archive")
        else:
            queue.mark_failed(name, {"attempts": 1, "cause": "bad", "problems": [{"line": 3, "why": "not JSON"}]})
    queue.retry("b.jsonl")
    assert queue.get_next().name == "b.jsonl"
    queue.try_again("b.jsonl", "out of luck", 0)
    assert queue.get_next().name == "b.jsonl"
    queue.checking.refuse(queue.checking.claim(workspace / "inbox" / "c.jsonl").name, {"cause": "bad"})
    queue.checking.archive(
        queue.checking.claim(workspace / "inbox" / "d.jsonl").name, {"cause": "duplicate"}, workspace / "archive"
    )

for number in range(1, 10_000):
    workspace = Path(sys.argv[1]) / f"{number:04d}"
    (workspace / "inbox").mkdir(parents=True)
    for name in ("a", "b", "b-again", "c", "d"):
        (workspace / "inbox" / f"{name}.jsonl").write_text(f"content of {name}")
    child = os.fork()
    if child == 0:
        kill_at(number)
        live(workspace)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""

CONTENTS = [f"content of {name}" for name in ("a", "b", "b-again", "c", "d")]


class Clock:
    """Unix seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a killed process leaves the same there, and two hundred kills take 2 s."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=parent, prefix="thirdshift-test-") as folder:
        yield Path(folder)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> TrainingQueue:
    return TrainingQueue(tmp_path / "queue", clock=clock)


@pytest.fixture
def drop(tmp_path: Path) -> Callable[..., Path]:
    """Lay a file into the inbox."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()

    def lay(name: str, content: str = "{}") -> Path:
        (inbox / name).write_text(content)
        return inbox / name

    return lay


def take(queue: TrainingQueue) -> QueuedFile:
    file = queue.get_next()
    assert file is not None
    return file


def take_all(queue: TrainingQueue) -> list[str]:
    taken = []
    while file := queue.get_next():
        taken.append(file.name)
    return taken


def report_of(path: Path) -> dict[str, Any]:
    document = json.loads(path.with_name(f"{path.name}.report.json").read_bytes())
    assert isinstance(document, dict)
    return document


def contents(folder: Path) -> list[str]:
    """What all training files below *folder* hold, wherever they lie."""
    return sorted(path.read_text() for path in folder.rglob("*.jsonl") if path.is_file())


def test_high_comes_before_normal_before_low_and_equals_in_order_of_arrival(
    queue: TrainingQueue, drop: Callable[..., Path]
) -> None:
    """Whatever the names are, and though the clock stands still."""
    for name, priority in [("z", "low"), ("y", "normal"), ("x", "high"), ("c", "high"), ("b", "normal"), ("a", "low")]:
        queue.add(drop(f"{name}.jsonl"), priority)
    assert [file.name for file in queue.queued()] == [f"{name}.jsonl" for name in "xcybza"]
    assert take_all(queue) == [f"{name}.jsonl" for name in "xcybza"]
    assert queue.get_next() is None


def test_a_taken_file_lies_in_processing_and_says_what_it_is(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """It left the inbox and its line, with its name and content as they were."""
    queued = queue.add(drop("my data.jsonl", "content"), "high")
    assert queued == tmp_path / "queue" / "high" / "my data.jsonl"
    file = take(queue)
    assert file.path == tmp_path / "queue" / "processing" / "my data.jsonl"
    assert (file.priority, file.goes_first, file.arrived_at.timestamp()) == ("high", False, 1_800_000_000)
    assert contents(tmp_path) == ["content"]
    assert file.path.read_text() == "content"


def test_the_status_counts_every_place(queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path) -> None:
    """Plain data, under the promised names."""
    for number in range(6):
        queue.add(drop(f"{number}.jsonl"), ("high", "high", "normal", "low", "low", "low")[number])
    take(queue)
    queue.mark_failed(take(queue).name, {"cause": "bad"})
    take(queue)
    assert queue.get_queue_status() == {
        "total_queued": 3,
        "high": 0,
        "normal": 0,
        "low": 3,
        "checking": [],
        "processing": ["0.jsonl", "2.jsonl"],
        "failed": 1,
    }
    assert queue.size() == 3


def test_a_namesake_gets_a_number_and_keeps_its_content(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """Names are unique in the queue, across priorities and processing."""
    queue.add(drop("x.jsonl", "one"), "low")
    take(queue)
    assert queue.add(drop("x.jsonl", "two"), "high").name == "x-1.jsonl"
    assert queue.add(drop("x.jsonl", "three"), "normal").name == "x-2.jsonl"
    assert contents(tmp_path) == ["one", "three", "two"]


def test_threads_and_processes_that_add_at_once_never_overwrite(
    queue: TrainingQueue, tmp_path: Path, clock: Clock
) -> None:
    """Eight writers add twelve files of one name to all priorities: all ninety-six arrive."""

    def add_all(writer: int) -> None:
        mine = TrainingQueue(tmp_path / "queue", clock=clock)
        for number in range(12):
            path = tmp_path / str(writer) / "same.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{writer} {number}")
            mine.add(path, ("high", "normal", "low")[number % 3])

    writers = [threading.Thread(target=add_all, args=(writer,)) for writer in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(contents(tmp_path / "queue"))) == 96
    assert len(take_all(queue)) == 96


def test_a_completed_file_is_archived_with_its_report(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """The second of one name does not overwrite the first, nor its report."""
    archive = tmp_path / "archive"
    for number, content in enumerate(("one", "two")):
        queue.add(drop("x.jsonl", content))
        target = queue.mark_completed(take(queue).name, {"loss": 0.5, "bad": float("nan")}, archive)
        assert target == archive / ("x.jsonl", "x-1.jsonl")[number]
        assert target.read_text() == content
        assert report_of(target) == {
            "file": "x.jsonl",
            "when": "2027-01-15T08:00:00.000000+00:00",
            "loss": 0.5,
            "bad": "nan",
        }
    assert list((tmp_path / "queue" / ".meta").iterdir()) == []


def test_a_failed_file_lies_beside_the_reason(queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path) -> None:
    """File, when, attempts, cause and the lines; a namesake fails beside it."""
    facts = {"attempts": 3, "cause": "x.jsonl:2: not JSON", "problems": [{"line": 2, "why": "not JSON"}]}
    for name in ("x.jsonl", "x-1.jsonl"):
        queue.add(drop("x.jsonl"))
        target = queue.mark_failed(take(queue).name, facts)
        assert target == tmp_path / "queue" / "failed" / name
        assert report_of(target) == {"file": "x.jsonl", "when": "2027-01-15T08:00:00.000000+00:00", **facts}


def test_a_directory_that_never_was_a_file_is_rejected_with_a_report(queue: TrainingQueue, tmp_path: Path) -> None:
    """It moves to failed as it is."""
    (tmp_path / "x.jsonl" / "inner").mkdir(parents=True)
    target = queue.reject(tmp_path / "x.jsonl", {"cause": "is a directory"})
    assert target == tmp_path / "queue" / "failed" / "x.jsonl"
    assert (target / "inner").is_dir()
    assert report_of(target)["cause"] == "is a directory"


def test_a_file_given_back_keeps_its_priority_and_its_place(queue: TrainingQueue, drop: Callable[..., Path]) -> None:
    """It arrived before the others of its priority, so it is still the first of them; never before a higher one."""
    for name in ("a", "b"):
        queue.add(drop(f"{name}.jsonl"), "normal")
    first = take(queue)
    queue.add(drop("urgent.jsonl"), "high")
    assert queue.give_back(first.name).parent.name == "normal"
    assert [file.name for file in queue.queued()] == ["urgent.jsonl", "a.jsonl", "b.jsonl"]
    assert {file.name: file.arrived_at for file in queue.queued()}["a.jsonl"] == first.arrived_at


def test_a_file_can_be_given_back_at_another_priority_or_as_the_very_next(
    queue: TrainingQueue, drop: Callable[..., Path]
) -> None:
    """A failed attempt goes on at low priority, an interrupted one before everything else."""
    for name in ("a", "b", "c"):
        queue.add(drop(f"{name}.jsonl"), "high")
    take(queue)
    queue.give_back("a.jsonl", priority="low")
    take(queue)
    queue.give_back("b.jsonl", goes_first=True)
    queue.add(drop("urgent.jsonl"), "high")
    assert take_all(queue) == ["b.jsonl", "c.jsonl", "urgent.jsonl", "a.jsonl"]
    queue.give_back("b.jsonl")
    assert not take(queue).goes_first


def test_a_file_that_failed_is_tried_again_later_behind_all_others(
    queue: TrainingQueue, drop: Callable[..., Path], clock: Clock
) -> None:
    """At low priority, with what is known of its failures; also after a restart and after an interruption."""
    for name in ("hard.jsonl", "easy.jsonl"):
        queue.add(drop(name), "high")
    assert take(queue).name == "hard.jsonl"
    queue.try_again("hard.jsonl", "out of luck", 60)
    assert [file.priority for file in queue.queued()] == ["high", "low"]
    assert take_all(queue) == ["easy.jsonl"]
    clock.seconds += 59
    assert queue.get_next() is None
    clock.seconds += 1
    queue = TrainingQueue(queue._places.queue_dir, clock=clock)
    queue.recover_orphans()
    queue.remove("easy.jsonl")
    file = take(queue)
    assert (file.name, file.attempts, file.last_error) == ("hard.jsonl", 1, "out of luck")
    queue.give_back("hard.jsonl", goes_first=True)
    assert take(queue).attempts == 1, "an interruption is no attempt"
    queue.try_again("hard.jsonl", "again", 60)
    assert queue.queued()[0].attempts == 2


def test_after_a_crash_processing_goes_back_with_its_own_priority_and_first(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    """The next start finds everything in the files; it says what it found."""
    queue.add(drop("slow.jsonl"), "low")
    take(queue)
    queue.add(drop("urgent.jsonl"), "high")
    restarted = TrainingQueue(tmp_path / "queue", clock=clock)
    recovered = restarted.recover_orphans()
    assert [(file.name, file.path.parent.name, file.finished) for file in recovered] == [("slow.jsonl", "low", False)]
    assert restarted.recover_orphans() == []
    assert [(file.name, file.priority) for file in restarted.queued()] == [
        ("slow.jsonl", "low"),
        ("urgent.jsonl", "high"),
    ]


def test_the_order_of_arrival_survives_a_restart_and_a_clock_set_back(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    """What comes later is later, whatever the clock says."""
    queue.add(drop("b.jsonl"))
    clock.seconds -= 5000
    restarted = TrainingQueue(tmp_path / "queue", clock=clock)
    restarted.add(drop("a.jsonl"))
    assert take_all(restarted) == ["b.jsonl", "a.jsonl"]


@pytest.mark.parametrize("sidecar", [None, b"", b"{", b"[]", b'{"priority": "urgent", "arrived_at": "soon"}', b"\xff"])
def test_a_missing_or_damaged_sidecar_means_normal(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path, sidecar: bytes | None
) -> None:
    """The file itself is never lost."""
    queue.add(drop("a.jsonl"), "high")
    take(queue)
    path = tmp_path / "queue" / ".meta" / "a.jsonl.json"
    path.unlink()
    if sidecar is not None:
        path.write_bytes(sidecar)
    restarted = TrainingQueue(tmp_path / "queue")
    assert [file.path.parent.name for file in restarted.recover_orphans()] == ["normal"]
    assert take(restarted).name == "a.jsonl"


def test_what_a_person_lays_or_moves_by_hand_counts(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """The folder is the priority; a file that was never added is as old as its content."""
    queue.add(drop("a.jsonl"), "low")
    (tmp_path / "queue" / "low" / "a.jsonl").rename(tmp_path / "queue" / "high" / "a.jsonl")
    by_hand = tmp_path / "queue" / "high" / "by-hand.jsonl"
    drop("by-hand.jsonl").rename(by_hand)
    os.utime(by_hand, (1000, 1000))
    assert take_all(queue) == ["by-hand.jsonl", "a.jsonl"]
    assert [file.path.parent.name for file in queue.recover_orphans()] == ["high", "high"]


def test_a_namesake_laid_by_hand_does_not_overwrite_the_one_in_processing(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """It is taken under a number, and goes back to its own priority."""
    queue.add(drop("a.jsonl", "first"), "high")
    take(queue)
    drop("a.jsonl", "second").rename(tmp_path / "queue" / "low" / "a.jsonl")
    assert take(queue).name == "a-1.jsonl"
    assert contents(tmp_path) == ["first", "second"]
    assert [file.path.parent.name for file in queue.recover_orphans()] == ["low", "high"]


def test_a_priority_can_be_changed_while_a_file_waits(queue: TrainingQueue, drop: Callable[..., Path]) -> None:
    """It keeps its time of arrival; in processing it has no priority to change."""
    queue.add(drop("a.jsonl"), "low")
    queue.add(drop("b.jsonl"), "high")
    queue.set_priority("a.jsonl", "high")
    assert [file.name for file in queue.queued()] == ["a.jsonl", "b.jsonl"]
    queue.set_priority("a.jsonl", "high")
    take(queue)
    with pytest.raises(FileNotQueued, match=r"a\.jsonl.*waiting"):
        queue.set_priority("a.jsonl", "low")


def test_a_failed_file_is_tried_again_on_request(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """At low priority unless told otherwise; the old report goes."""
    queue.add(drop("a.jsonl"), "high")
    queue.mark_failed(take(queue).name, {"cause": "bad"})
    assert queue.retry("a.jsonl") == tmp_path / "queue" / "low" / "a.jsonl"
    assert list((tmp_path / "queue" / "failed").iterdir()) == []
    queue.mark_failed(take(queue).name, {"cause": "bad"})
    queue.add(drop("a.jsonl"))
    assert queue.retry("a.jsonl", "high").name == "a-1.jsonl"


def test_waiting_and_failed_files_can_be_removed(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """With everything that was written about them; what is processed cannot."""
    queue.add(drop("a.jsonl"))
    queue.mark_failed(take(queue).name, {})
    queue.add(drop("b.jsonl"))
    queue.remove("a.jsonl")
    queue.remove("b.jsonl")
    assert [path for path in (tmp_path / "queue").rglob("*") if path.is_file()] == []
    queue.add(drop("c.jsonl"))
    take(queue)
    with pytest.raises(FileNotQueued):
        queue.remove("c.jsonl")


@pytest.mark.parametrize("name", ["", ".", "..", "../a.jsonl", "/etc/passwd", "a/b.jsonl", ".meta", "a\0b", "no.jsonl"])
def test_names_that_lead_elsewhere_are_refused(queue: TrainingQueue, name: str) -> None:
    """By every call that takes a name; an unknown one is not found."""
    error = FileNotQueued if name == "no.jsonl" else UnsafePath
    calls: list[Callable[[], object]] = [
        lambda: queue.mark_failed(name, {}),
        lambda: queue.mark_completed(name, {}, Path("/nowhere")),
        lambda: queue.give_back(name),
        lambda: queue.set_priority(name, "high"),
        lambda: queue.retry(name),
        lambda: queue.remove(name),
    ]
    for call in calls:
        with pytest.raises(error):
            call()


def test_only_regular_files_are_added(queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path) -> None:
    """Links, directories, FIFOs, hidden files and reports stay where they are."""
    (tmp_path / "link.jsonl").symlink_to(drop("target.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "fifo.jsonl")
    paths = [tmp_path / name for name in ("link.jsonl", "folder.jsonl", "fifo.jsonl", "missing.jsonl")]
    for path in [*paths, drop(".hidden.jsonl"), drop("a.jsonl.report.json")]:
        with pytest.raises(UnsafePath):
            queue.add(path)
    with pytest.raises(UsageError, match="'urgent' is no priority; known are high, normal, low"):
        queue.add(drop("a.jsonl"), "urgent")
    assert queue.size() == 0


def test_the_longest_and_strangest_names_pass_through(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """A name as long as the system allows is cut; bytes that are no text, line ends and quotes stay."""
    names = ["x" * 249 + ".jsonl", "ü" * 120 + ".jsonl", os.fsdecode(b"\xff\xfe.jsonl"), 'a\n"b.jsonl', "-rf.jsonl"]
    for name in names:
        queue.add(drop(name, name.encode(errors="replace").decode()))
        target = queue.mark_failed(take(queue).name, {"cause": "bad"})
        assert report_of(target)["cause"] == "bad"
        assert target.name == name or len(os.fsencode(target.name)) <= 200


def test_a_refused_move_takes_the_decision_back(
    queue: TrainingQueue, drop: Callable[..., Path], tmp_path: Path
) -> None:
    """When the archive cannot be moved to, the file is still in processing and goes back after a restart."""
    queue.add(drop("a.jsonl"))
    name = take(queue).name
    with pytest.raises(OSError, match="No such file"):
        queue.mark_completed(name, {}, Path("/proc/self"))
    assert queue.get_queue_status()["processing"] == ["a.jsonl"]
    assert [file.finished for file in queue.recover_orphans()] == [False]


def test_killed_at_any_file_operation_nothing_is_lost_doubled_or_left_half_done(quick_folder: Path) -> None:
    """After the next start every content is there once, every end has its report, and the queue can be emptied."""
    subprocess.run([sys.executable, "-c", CRASHER, str(quick_folder)], check=True)
    workspaces = sorted(quick_folder.iterdir())
    assert len(workspaces) > 100
    finished_by_recovery = 0
    for workspace in workspaces:
        queue = TrainingQueue(workspace / "queue")
        finished_by_recovery += sum(file.finished for file in queue.recover_orphans())
        assert contents(workspace) == CONTENTS
        assert queue.get_queue_status()["processing"] == []
        for folder in (workspace / "archive", workspace / "queue" / "failed"):
            for path in folder.glob("*.jsonl"):
                assert report_of(path)["file"] == path.name
        waiting = {file.name for file in queue.queued()} | set(queue.checking.names())
        assert {path.name.removesuffix(".json") for path in (workspace / "queue" / ".meta").iterdir()} == waiting
        for name in queue.checking.names():
            queue.checking.accept(name, {})
        while file := queue.get_next():
            queue.mark_completed(file.name, {}, workspace / "archive")
        assert not any((workspace / "queue" / ".meta").iterdir())
        assert contents(workspace) == CONTENTS
    assert finished_by_recovery >= 3
