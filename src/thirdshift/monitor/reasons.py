"""Reasons as sentences for people: the edge where the data of ``core/reason.py`` becomes text."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from thirdshift.core.reason import Reason, ReasonCode
from thirdshift.core.words import ago, duration

_END_OF_OVERRUN = {
    "thread": "a thread ends only when its function returns",
    "process": "it is being ended",
    "async": "it is cancelled, and ends when it lets go",
}

_CHANGE_LIMITS = "`thirdshift queues limit` changes that"

_MOST_TASKS = 3


def sentence(reason: Reason, now: datetime) -> str:  # noqa: C901, PLR0912  # a table: one line for each code
    """Return *reason* in words, as of *now*."""
    facts = reason.facts
    match reason.code:
        case ReasonCode.FINISHED:
            return _finished(facts, now)
        case ReasonCode.RUNNING:
            return f"it is running: attempt {facts['attempt']}, on worker {facts['worker']}, {_since(facts, now)}"
        case ReasonCode.CANCEL_REQUESTED:
            return f"its worker was told to stop it {ago(facts['since'], now)}; it ends as cancelled"
        case ReasonCode.OVERRUN:
            limit = duration(timedelta(seconds=facts["timeout_s"]))
            return f"its time limit of {limit} passed {ago(facts['since'], now)}; {_END_OF_OVERRUN[facts['pool']]}"
        case ReasonCode.WORKER_DIED:
            return f"its worker {facts['worker']} died; the next live worker gives it back to the line"
        case ReasonCode.NOT_DUE:
            return f"it is not due before {_at(facts['due_at'], now)}"
        case ReasonCode.RETRYING:
            return _retrying(facts, now)
        case ReasonCode.WAITING:
            return _waiting(facts)
        case ReasonCode.QUEUE_PAUSED:
            return f"its queue {facts['queue']} is paused {_since(facts, now)}; `thirdshift queues resume` ends that"
        case ReasonCode.NO_WORKER:
            return "no worker is alive on this database; `thirdshift worker` or `up` starts one"
        case ReasonCode.NO_WORKER_FOR_QUEUE:
            return f"no worker takes its queue {facts['queue']}: {_alive(facts['workers'])} for other queues only"
        case ReasonCode.NO_WORKER_FOR_POOL:
            pool, queue = facts["pool"], facts["queue"]
            return f"no worker of its queue {queue} has {pool} slots: {_alive(facts['workers'])} with other pools only"
        case ReasonCode.KEY_LIMITED:
            return _key_limited(facts)
        case ReasonCode.QUEUE_LIMITED:
            most = _number(facts["concurrency"], "task")
            return f"its queue {facts['queue']} may run {most} at once, and so many run; {_CHANGE_LIMITS}"
        case ReasonCode.RATE_LIMITED:
            rate = f"{facts['rate']:g} starts a second"
            free_at = _at(facts["free_at"], now)
            return f"its queue {facts['queue']} is limited to {rate}; the next is free at {free_at}; {_CHANGE_LIMITS}"
        case ReasonCode.UNKNOWN_FUNCTION:
            return _unknown(facts)
        case ReasonCode.SCHEDULE:
            return _schedule(facts, now)
        case ReasonCode.SLOTS_BUSY:
            return _busy(facts["slots"], facts["pool"])
        case ReasonCode.TASKS_BEFORE:
            least = "" if facts["is_all"] else "at least "
            comes = "comes" if facts["count"] == 1 else "come"
            return f"{least}{_number(facts['count'], 'task')} {comes} before it"
        case ReasonCode.NEXT:
            return "nothing holds it back: a worker is about to take it"


def _finished(facts: Any, now: datetime) -> str:
    attempts = _number(facts["attempts"], "attempt") if facts["attempts"] else "no attempt"
    verb = {"completed": "completed", "failed": "failed for good", "cancelled": "was cancelled"}[facts["status"]]
    words = f"it {verb} {ago(facts['at'], now)}, after {attempts}"
    cause = facts.get("cause")
    if cause is not None:
        end = {"failed": "failed for good", "cancelled": "was cancelled"}.get(cause["status"], "has failed")
        return f"{words}: task {cause['id']}{_named(cause)}, which it needed, {end}; retry that one"
    return words if facts["error"] is None else f"{words}: {_first_line(facts['error'])}"


def _waiting(facts: Any) -> str:
    named = ", ".join(f"{each['id']} ({each['name']}, {each['status']})" for each in facts["parents"])
    more = facts["count"] - len(facts["parents"])
    return f"it waits for {_number(facts['count'], 'task')} to end: {named}{f' and {more:,} more' if more else ''}"


def _named(cause: Any) -> str:
    return "" if cause["name"] is None else f" ({cause['name']})"


def _retrying(facts: Any, now: datetime) -> str:
    left = facts["max_retries"] - facts["failures"]
    words = f"it failed ({_first_line(facts['error'])}) and is tried again" if facts["error"] else "it is tried again"
    return f"{words} at {_at(facts['due_at'], now)}; {_number(left + 1, 'attempt')} left"


def _key_limited(facts: Any) -> str:
    tasks = facts["tasks"]
    more = f" and {len(tasks) - _MOST_TASKS:,} more" if len(tasks) > _MOST_TASKS else ""
    named = f"task{'' if len(tasks) == 1 else 's'} {', '.join(tasks[:_MOST_TASKS])}{more}"
    key, most = facts["key"], facts["concurrency"]
    return f"its key {key} runs {len(tasks):,} of {most:,}: {named}; `thirdshift queues limit-key` changes that"


def _unknown(facts: Any) -> str:
    hows = ", ".join(f"worker {each['worker']} ({_first_line(each['error'])})" for each in facts["workers"])
    words = f"its function {facts['function']} cannot be found by {hows}"
    if facts["others"]:
        return f"{words}; it waits for another one"
    return f"{words}, and no other worker takes it; install it there, or start a worker that has it"


def _busy(slots: int, pool: str) -> str:
    one = f"the one {pool} slot that could take it is busy"
    return one if slots == 1 else f"all {slots:,} {pool} slots that could take it are busy"


def _since(facts: Any, now: datetime) -> str:
    since = facts["since"]
    return f"since {since:%Y-%m-%d %H:%M:%S} UTC ({duration(max(now - since, timedelta(0)))})"


def _at(moment: datetime, now: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({ago(moment, now)})"


def _alive(workers: int) -> str:
    return f"{_number(workers, 'worker')} {'is' if workers == 1 else 'are'} alive,"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]


def _schedule(facts: Mapping[str, Any], now: datetime) -> str:
    said = f"it is the schedule {facts['name']} ({facts['words']})"
    last = "" if facts["last_at"] is None else f"; it fired last {ago(facts['last_at'], now)}"
    match facts["state"]:
        case "paused":
            return f"{said}, which is paused; `thirdshift schedules resume` ends that{last}"
        case "ended" | "over":
            return f"{said}, which makes no more tasks{last}"
    if facts["is_late"]:
        return f"{said}, which was due {ago(facts['next_at'], now)}: no worker makes the tasks of schedules{last}"
    return f"{said}, which fires next {ago(facts['next_at'], now)}{last}"
