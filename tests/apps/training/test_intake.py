"""What is dropped is taken when it is complete, looked at in the background, and brought where it belongs."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.config import DaemonConfig
from thirdshift.apps.training.filenames import storable
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.inbox.intake import Intake
from thirdshift.apps.training.notices import FileAccepted, FileRefused, Notice, Remarked
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.signals import StopSignals
from thirdshift.host.waiting import LoopWait
from thirdshift.testing import run_until_idle

ROW = '{"prompt": "1 + 1 =", "completion": "2"}\n'


@pytest.fixture
def workspace(tmp_path: Path) -> TrainingWorkspace:
    workspace = TrainingWorkspace(tmp_path / "workspace")
    workspace.create()
    return workspace


@pytest.fixture
def take_all(intake: Intake, manager: BackgroundTaskManager) -> Callable[[], None]:
    """Do what the daemon does until nothing is left to do."""

    def take() -> None:
        while intake.size():
            intake.flatten()
            intake.tick()
            run_until_idle(manager)
            intake.tick()

    return take


def row_of(name: str) -> str:
    return json.dumps({"text": name})


def names(queue: TrainingQueue) -> list[str]:
    return [file.name for file in queue.queued()]


def report(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_name(f"{path.name}.report.json").read_bytes())
    return found


def test_only_what_will_be_taken_counts(
    workspace: TrainingWorkspace, intake: Intake, queue: TrainingQueue, take_all: Callable[[], None]
) -> None:
    """Not hidden files and folders, and other names; a file that is being checked still does."""
    inbox = workspace.inbox
    for folder in ("sub", ".hidden"):
        (inbox / folder).mkdir()
    for name in ("a.jsonl", "sub/b.jsonl", ".c.jsonl", "d.txt", ".hidden/e.jsonl"):
        (inbox / name).write_text(row_of(name))
    assert intake.size() == 2
    intake.flatten()
    intake.tick()
    assert intake.size() == 2
    assert queue.get_queue_status()["checking"] == ["a.jsonl", "b.jsonl"]
    take_all()
    assert names(queue) == ["a.jsonl", "b.jsonl"]


def test_a_file_waits_with_what_its_check_found(
    workspace: TrainingWorkspace, queue: TrainingQueue, told: list[Notice], take_all: Callable[[], None]
) -> None:
    """That lies beside it in the end: rows, hash, lengths in tokens of the model that will be trained."""
    (workspace.inbox / "a.jsonl").write_text(ROW * 3)
    take_all()
    assert told == [FileAccepted("a.jsonl", 3)]
    file = queue.get_next()
    assert file is not None
    archived = queue.mark_completed(file.name, {"steps": 1}, workspace.archive)
    found = report(archived)["validation"]
    assert (found["rows"], found["level"], found["lengths"]["rows"], found["lengths"]["longest"]) == (
        3,
        "standard",
        3,
        12,
    )


def test_a_bad_file_is_refused_with_a_report(
    workspace: TrainingWorkspace, told: list[Notice], take_all: Callable[[], None]
) -> None:
    """No attempt was made of it, and none will be."""
    (workspace.inbox / "bad.jsonl").write_text(f"{ROW}nonsense\n")
    take_all()
    failed = workspace.failed / "bad.jsonl"
    cause = "bad.jsonl:2: not JSON: Expecting value (column 1)"
    assert told == [FileRefused("bad.jsonl", cause, failed)]
    found = report(failed)
    assert (found["cause"], found["attempts"], found["final_failure"]) == (cause, 0, True)
    assert (found["rows"], found["problem_count"]) == (1, 1)


def test_rows_that_will_be_cut_are_told(
    workspace: TrainingWorkspace, told: list[Notice], take_all: Callable[[], None]
) -> None:
    """Their owner may want to know before hours of training."""
    (workspace.inbox / "long.jsonl").write_text(ROW + json.dumps({"prompt": "x" * 600, "completion": "y"}))
    take_all()
    text = "1 of 2 rows looked at are longer than the model's context of 512 tokens; their questions are cut"
    assert told == [FileAccepted("long.jsonl", 2), Remarked(f"long.jsonl: {text}")]


def test_the_same_bytes_again_are_archived_untrained(
    workspace: TrainingWorkspace, queue: TrainingQueue, told: list[Notice], take_all: Callable[[], None]
) -> None:
    """Whether the first still waits or was trained; unless the name forces it. What was given up is tried again."""
    inbox = workspace.inbox
    (inbox / "a.jsonl").write_text(ROW)
    take_all()
    (inbox / "b.jsonl").write_text(ROW)
    (inbox / "c.force.jsonl").write_text(ROW)
    take_all()
    assert names(queue) == ["a.jsonl", "c.force.jsonl"]
    found = report(workspace.archive / "b.jsonl")
    assert (found["cause"], found["trained"]) == ("duplicate of a.jsonl", False)
    for name in names(queue):
        file = queue.get_next()
        assert file is not None
        queue.mark_completed(name, {}, workspace.archive)
    (inbox / "a.jsonl").write_text(ROW)
    take_all()
    assert names(queue) == []
    assert report(workspace.archive / "a-1.jsonl")["cause"] == "duplicate of c.force.jsonl"
    assert isinstance(told[-1], Remarked)
    assert told[-1].text.endswith("thirdshift train add --force archive/a-1.jsonl")

    other = '{"prompt": "1 + 1 =", "completion": "3"}\n'
    (inbox / "d.jsonl").write_text(other)
    take_all()
    file = queue.get_next()
    assert file is not None
    queue.mark_failed(file.name, {"cause": "no luck", "attempts": 3})
    (inbox / "d.jsonl").write_text(other)
    take_all()
    assert names(queue) == ["d.jsonl"]
    (workspace.queue / "normal" / "d.jsonl").unlink()
    (inbox / "e.jsonl").write_text(other)
    take_all()
    assert names(queue) == ["e.jsonl"], "what is gone is not known"


def test_one_file_that_cannot_be_taken_does_not_hold_up_the_others(
    workspace: TrainingWorkspace,
    intake: Intake,
    queue: TrainingQueue,
    take_all: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its error is raised at the end, and it is tried again."""
    for name in ("a.jsonl", "b.jsonl"):
        (workspace.inbox / name).write_text(row_of(name))
    rename = os.rename

    def refuse(source: str, target: Path, **folders: int) -> None:
        if source == "a.jsonl":
            raise PermissionError(1, "Operation not permitted", source)
        rename(source, target, **folders)

    def tick_until_told() -> None:
        while True:
            intake.tick()

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(PermissionError):
            tick_until_told()
    assert queue.checking.names() == ["b.jsonl"]
    take_all()
    assert names(queue) == ["b.jsonl", "a.jsonl"]


def test_a_file_that_is_still_written_to_after_it_was_claimed_is_looked_at_again(
    workspace: TrainingWorkspace, intake: Intake, manager: BackgroundTaskManager, queue: TrainingQueue
) -> None:
    """A writer that opened it in that very moment goes on writing to it wherever it lies."""
    path = workspace.inbox / "a.jsonl"
    path.write_text(ROW)
    intake.tick()
    with (workspace.checking / "a.jsonl").open("a") as file:
        run_until_idle(manager)
        intake.tick()
        assert names(queue) == []
        file.write("nonsense\n")
    assert queue.checking.names() == ["a.jsonl"]


def test_many_files_are_taken_in_several_ticks(
    workspace: TrainingWorkspace, queue: TrainingQueue, manager: BackgroundTaskManager
) -> None:
    """Each costs a while on a busy disk; the loop is woken for the next tick, and does other things before."""
    now = itertools.count(0, 0.02)
    intake = Intake(workspace, queue, manager, DaemonConfig(settle_s=0), lambda _notice: None, clock=lambda: next(now))
    for number in range(5):
        (workspace.inbox / f"{number}.jsonl").write_text(row_of(str(number)))
        os.utime(workspace.inbox / f"{number}.jsonl", (number, number))
    ticks = []
    with StopSignals() as signals, LoopWait(signals) as sleep:
        for source in intake.sources:
            sleep.add(source)
        intake.tick()
        while len(queue.checking.names()) < 5:
            ticks.append(queue.checking.names())
            sleep.wait(60)
            intake.tick()
    assert len(ticks) > 1
    intake.close()


def test_an_older_file_is_trained_first_though_its_check_takes_longer(
    workspace: TrainingWorkspace, queue: TrainingQueue, manager: BackgroundTaskManager
) -> None:
    """For a minute, also by the next daemon; what goes before it anyway does not wait, and then nobody does."""
    now = [0.0]
    first, second = (
        Intake(workspace, queue, manager, DaemonConfig(settle_s=0), lambda _notice: None, clock=lambda: now[0])
        for _ in range(2)
    )
    for number, name in enumerate(("older.jsonl", "newer.jsonl", "urgent.jsonl")):
        (workspace.inbox / name).write_text(row_of(name))
        os.utime(workspace.inbox / name, (number, number))
    first.tick()
    with (workspace.checking / "older.jsonl").open("a"):  # its check comes to no end
        run_until_idle(manager)
        first.tick()
        queue.set_priority("urgent.jsonl", "high")
        assert (names(queue), queue.checking.names()) == (["urgent.jsonl", "newer.jsonl"], ["older.jsonl"])
        urgent = queue.get_next(first.awaited())
        assert urgent is not None
        assert urgent.name == "urgent.jsonl"
        assert queue.get_next(first.awaited()) is None
        second.recover()
        now[0] = 59.0
        assert queue.get_next(second.awaited()) is None
        now[0] = 60.0
        newer = queue.get_next(second.awaited())
        assert newer is not None
        assert newer.name == "newer.jsonl"
    first.close()
    second.close()


def test_what_a_dead_daemon_was_checking_is_checked_again(
    workspace: TrainingWorkspace, intake: Intake, queue: TrainingQueue, manager: BackgroundTaskManager
) -> None:
    """Once, by the next one; what lies there is the truth, whatever tasks there are."""
    (workspace.inbox / "a.jsonl").write_text(ROW)
    intake.tick()
    (workspace.checking / "by-hand.jsonl").write_text(row_of("by-hand"))
    later = Intake(workspace, queue, manager, DaemonConfig(settle_s=0), lambda _notice: None)
    assert queue.recover_orphans() == []
    later.recover()
    later.tick()
    assert len(run_until_idle(manager)) == 2
    later.tick()
    later.close()
    assert sorted(names(queue)) == ["a.jsonl", "by-hand.jsonl"]


def test_a_file_that_somebody_takes_out_is_let_go(
    workspace: TrainingWorkspace, intake: Intake, manager: BackgroundTaskManager, told: list[Notice]
) -> None:
    """Its check is cancelled; the name is free again."""
    (workspace.inbox / "a.jsonl").write_text(ROW)
    intake.tick()
    (workspace.checking / "a.jsonl").rename(workspace.root / "mine")
    intake.tick()
    assert run_until_idle(manager) == []
    assert intake.size() == 0
    assert told == [Remarked("a.jsonl was taken out of queue/checking by hand; it is not checked")]


def test_names_become_names_that_every_place_takes() -> None:
    """Foreign bytes are spelled out and control characters replaced; a good name stays as it is."""
    assert storable("größe 日本.jsonl") == "größe 日本.jsonl"
    assert storable(os.fsdecode(b"caf\xe9.jsonl")) == "caf\\xe9.jsonl"
    assert storable("a\nb\x1b[31m.jsonl") == "a_b_[31m.jsonl"
    assert len(storable("ä" * 200 + ".jsonl").encode()) <= 200
