"""`thirdshift why`: the reasons in sentences, and as data."""

from datetime import UTC, datetime, timedelta

import pytest

from thirdshift.core.reason import Reason, ReasonCode
from thirdshift.monitor.reasons import sentence

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
AGO = NOW - timedelta(minutes=3)
NOBODY = "no worker is alive on this database; `thirdshift worker` or `up` starts one"
LATER = NOW + timedelta(minutes=3)
SENTENCES = [
    (
        ReasonCode.FINISHED,
        {"status": "completed", "at": AGO, "attempts": 1, "error": None},
        "it completed 3 min ago, after 1 attempt",
    ),
    (
        ReasonCode.FINISHED,
        {"status": "failed", "at": AGO, "attempts": 4, "error": "ValueError: boom\nmore"},
        "it failed for good 3 min ago, after 4 attempts: ValueError: boom",
    ),
    (
        ReasonCode.FINISHED,
        {"status": "cancelled", "at": AGO, "attempts": 0, "error": None},
        "it was cancelled 3 min ago, after no attempt",
    ),
    (
        ReasonCode.RUNNING,
        {"worker": "w", "attempt": 2, "since": AGO},
        "it is running: attempt 2, on worker w, since 2030-01-01 11:57:00 UTC (3 min)",
    ),
    (ReasonCode.CANCEL_REQUESTED, {"since": AGO}, "its worker was told to stop it 3 min ago; it ends as cancelled"),
    (
        ReasonCode.OVERRUN,
        {"timeout_s": 30.0, "since": AGO, "pool": "thread"},
        "its time limit of 30 s passed 3 min ago; a thread ends only when its function returns",
    ),
    (
        ReasonCode.OVERRUN,
        {"timeout_s": 30.0, "since": AGO, "pool": "process"},
        "its time limit of 30 s passed 3 min ago; it is being ended",
    ),
    (
        ReasonCode.OVERRUN,
        {"timeout_s": 30.0, "since": AGO, "pool": "async"},
        "its time limit of 30 s passed 3 min ago; it is cancelled, and ends when it lets go",
    ),
    (ReasonCode.WORKER_DIED, {"worker": "w"}, "its worker w died; the next live worker gives it back to the line"),
    (ReasonCode.NOT_DUE, {"due_at": LATER}, "it is not due before 2030-01-01 12:03:00 UTC (in 3 min)"),
    (
        ReasonCode.RETRYING,
        {"due_at": LATER, "failures": 1, "max_retries": 3, "error": "ValueError: boom"},
        "it failed (ValueError: boom) and is tried again at 2030-01-01 12:03:00 UTC (in 3 min); 3 attempts left",
    ),
    (
        ReasonCode.FINISHED,
        {
            "status": "cancelled",
            "at": AGO,
            "attempts": 0,
            "error": None,
            "cause": {"id": "b0", "name": "fetch", "status": "cancelled"},
        },
        "it was cancelled 3 min ago, after no attempt: task b0 (fetch), which it needed, was cancelled; retry that one",
    ),
    (
        ReasonCode.WAITING,
        {"count": 1, "parents": [{"id": "a0", "name": "fetch", "status": "running"}]},
        "it waits for 1 task to end: a0 (fetch, running)",
    ),
    (
        ReasonCode.WAITING,
        {"count": 1_200, "parents": [{"id": "a0", "name": "fetch", "status": "pending"}]},
        "it waits for 1,200 tasks to end: a0 (fetch, pending) and 1,199 more",
    ),
    (
        ReasonCode.QUEUE_PAUSED,
        {"queue": "mail", "since": AGO},
        "its queue mail is paused since 2030-01-01 11:57:00 UTC (3 min); `thirdshift queues resume` ends that",
    ),
    (ReasonCode.NO_WORKER, {}, NOBODY),
    (
        ReasonCode.NO_WORKER_FOR_QUEUE,
        {"queue": "mail", "workers": 1},
        "no worker takes its queue mail: 1 worker is alive, for other queues only",
    ),
    (
        ReasonCode.NO_WORKER_FOR_POOL,
        {"queue": "mail", "pool": "async", "workers": 2},
        "no worker of its queue mail has async slots: 2 workers are alive, with other pools only",
    ),
    (
        ReasonCode.UNKNOWN_FUNCTION,
        {
            "function": "shop:send",
            "workers": [{"worker": "w", "error": "ModuleNotFoundError: No…", "at": AGO}],
            "others": 0,
        },
        (
            "its function shop:send cannot be found by worker w (ModuleNotFoundError: No…), and no other worker takes "
            "it; install it there, or start a worker that has it"
        ),
    ),
    (
        ReasonCode.UNKNOWN_FUNCTION,
        {"function": "shop:send", "workers": [{"worker": w, "error": "E: no", "at": AGO} for w in "ab"], "others": 1},
        "its function shop:send cannot be found by worker a (E: no), worker b (E: no); it waits for another one",
    ),
    (
        ReasonCode.KEY_LIMITED,
        {"key": "customer-7", "concurrency": 1, "tasks": ["a"]},
        "its key customer-7 runs 1 of 1: task a; `thirdshift queues limit-key` changes that",
    ),
    (
        ReasonCode.KEY_LIMITED,
        {"key": "customer-7", "concurrency": 5, "tasks": list("abcde")},
        "its key customer-7 runs 5 of 5: tasks a, b, c and 2 more; `thirdshift queues limit-key` changes that",
    ),
    (
        ReasonCode.QUEUE_LIMITED,
        {"queue": "mail", "concurrency": 4},
        "its queue mail may run 4 tasks at once, and so many run; `thirdshift queues limit` changes that",
    ),
    (
        ReasonCode.RATE_LIMITED,
        {"queue": "mail", "rate": 0.5, "free_at": LATER},
        (
            "its queue mail is limited to 0.5 starts a second; the next is free at 2030-01-01 12:03:00 UTC (in 3 min); "
            "`thirdshift queues limit` changes that"
        ),
    ),
    (ReasonCode.SLOTS_BUSY, {"pool": "thread", "slots": 4}, "all 4 thread slots that could take it are busy"),
    (ReasonCode.SLOTS_BUSY, {"pool": "thread", "slots": 1}, "the one thread slot that could take it is busy"),
    (ReasonCode.TASKS_BEFORE, {"count": 1, "is_all": True}, "1 task comes before it"),
    (ReasonCode.TASKS_BEFORE, {"count": 10_000, "is_all": False}, "at least 10,000 tasks come before it"),
    (
        ReasonCode.SCHEDULE,
        {"name": "s", "words": "Every hour", "state": "ended", "next_at": None, "last_at": None, "is_late": False},
        "it is the schedule s (Every hour), which makes no more tasks",
    ),
    (ReasonCode.NEXT, {}, "nothing holds it back: a worker is about to take it"),
]


@pytest.mark.parametrize(("code", "facts", "words"), SENTENCES, ids=[code.value for code, _, _ in SENTENCES])
def test_every_reason_has_a_sentence(code: ReasonCode, facts: dict[str, object], words: str) -> None:
    """With its facts, as people say them."""
    assert sentence(Reason(code=code, facts=facts), NOW) == words


def test_no_reason_is_without_a_sentence() -> None:
    """The table above is whole."""
    assert {code for code, _, _ in SENTENCES} == set(ReasonCode)


def test_why_nothing_happens(shell, work) -> None:
    """From nobody there to done, one line for each reason."""
    task_id = shell.submit("functions:fail", "no way", "--max-retries", "0", "--queue", "mail")
    assert shell("why", task_id).stdout == f"{NOBODY}\n"
    shell("queues", "pause", "mail")
    paused, alone = shell("why", task_id).stdout.splitlines()
    assert paused.startswith("its queue mail is paused since ")
    assert alone == NOBODY
    manager = work()
    shell("queues", "resume", "mail")
    manager.handle(task_id).wait(timeout=120)
    done = shell("why", task_id)
    assert done.returncode == 0
    assert done.stdout.startswith("it failed for good ")
    assert done.stdout.endswith(", after 1 attempt: ValueError: no way\n")


def test_why_as_json(shell) -> None:
    """Code, facts and sentence of each reason."""
    task_id = shell.submit("functions:add", "1")
    assert shell.json("why", task_id) == {
        "id": task_id,
        "reasons": [{"code": "no_worker", "facts": {}, "sentence": NOBODY}],
    }


def test_why_of_a_task_that_does_not_exist(shell) -> None:
    """As with the other commands: exit code 1 and its id in the message."""
    done = shell("why", "0" * 32)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no task has the id '{'0' * 32}'" in done.stderr
