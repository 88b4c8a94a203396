"""The history checker: does what a store says agree with what everybody was told? It shares no code with the engine.

It reads the file by plain SQL, as any program may, and knows the rules from ARCHITECTURE.md alone: each violation names
the number of the invariant that is broken. There are two ways to use it:

- :class:`Watcher` looks at the file after every event of a history in which one thing happens after another, and knows
  what that event may change. What it may not change, must be as it was.
- :func:`judge_promises` looks at a file once, after a fault, with a log of calls that were answered, refused, or never
  came back.

An event is a dictionary; ``op`` says what was done, the other keys who did it, to what, and what he was told. The
simulation and the victims write them; the words are those of :class:`Watcher` 's methods.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from thirdshift.testing.torture import checker_fires, checker_ties

Event = Mapping[str, Any]

_LEGAL = {
    "pending": {"running", "cancelled", "scheduled", "waiting"},
    "scheduled": {"pending", "cancelled", "waiting"},
    "waiting": {"pending", "scheduled", "cancelled"},
    "retrying": {"pending", "cancelled", "scheduled", "waiting"},
    "running": {"completed", "failed", "cancelled", "retrying", "scheduled", "pending"},
    "completed": {"pending", "waiting"},
    "failed": {"pending", "waiting"},
    "cancelled": {"pending", "waiting"},
}
_FINISHED = ("completed", "failed", "cancelled")
_WAITING = ("scheduled", "retrying")
_COUNTED = ("failed", "timed_out")
_RIPPLES = (
    "submit",
    "exchange",
    "give_back",
    "recover",
    "rescue",
    "cancel",
    "retry",
    "cancel_all",
    "retry_all",
    "tick",
    "run_now",
)
"""Events that may finish a task or open it again, and so change what waits for it."""
_MOST_WORKER_DEATHS = 10
_MOST_CHANGES = 3
"""One pass of a worker may settle, promote and claim the same task."""


class Violation(NamedTuple):
    """One broken invariant."""

    invariant: str
    text: str


class Task(NamedTuple):
    """One task as the file has it."""

    seq: int
    id: str
    status: str
    attempt: int
    failures: int
    crashes: int
    queue: str
    pool: str
    priority: int
    due_us: int
    owner: str | None
    is_cancelling: bool
    finished_us: int | None
    key: str | None
    limit_key: str | None
    schedule: str | None
    attempts: tuple[tuple[int, str, str, str], ...] = ()
    """(number, outcome, worker, result in hexadecimal digits), oldest first."""
    steps: tuple[tuple[str, str, str], ...] = ()
    """(name, inputs, result in hexadecimal digits)."""

    @property
    def is_finished(self) -> bool:
        """Whether it is over."""
        return self.status in _FINISHED

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sort as claims must: priority, due time, order of submission."""
        return -self.priority, self.due_us, self.seq


class Snapshot(NamedTuple):
    """All that matters of a file at one moment."""

    tasks: Mapping[str, Task]
    paused: frozenset[str]
    concurrency: Mapping[str, int]
    key_limits: Mapping[str, int]
    """Of the limit keys of which another number than one may run."""
    key_lines: frozenset[tuple[str, str, str, int]]
    """(limit key, queue, pool, number of the most urgent pending task)."""
    events: frozenset[tuple[str, str]]
    """(task, kind)."""
    ties: frozenset[checker_ties.Tie] = frozenset()
    schedules: Mapping[str, checker_fires.Plan] = {}
    fires: frozenset[checker_fires.Fire] = frozenset()


_TASKS = """
SELECT seq, id, status, attempt, failures, crashes, queue, pool, priority, due_at, owner,
       cancel_requested_at IS NOT NULL, finished_at, unique_key, limit_key, schedule
FROM task
"""


def read(connection: sqlite3.Connection, *, with_events: bool = True) -> Snapshot:
    """Return what the file says now, all of one moment."""
    connection.execute("BEGIN")
    try:
        rows = connection.execute(_TASKS).fetchall()
        attempts: dict[int, list[tuple[int, str, str, str]]] = {}
        for seq, *attempt in connection.execute(
            "SELECT task, number, outcome, worker, hex(result) FROM attempt ORDER BY task, number"
        ):
            attempts.setdefault(seq, []).append(tuple(attempt))
        steps: dict[int, list[tuple[str, str, str]]] = {}
        for seq, *step in connection.execute("SELECT task, name, inputs, hex(result) FROM step ORDER BY task, name"):
            steps.setdefault(seq, []).append(tuple(step))
        queues = connection.execute("SELECT name, paused_at IS NOT NULL, concurrency FROM queue").fetchall()
        key_limits = connection.execute("SELECT limit_key, concurrency FROM key_limit").fetchall()
        key_lines = connection.execute("SELECT limit_key, queue, pool, seq FROM key_line").fetchall()
        events = (
            connection.execute("SELECT id, kind FROM event JOIN task ON task.seq = event.task") if with_events else ()
        )
        return Snapshot(
            {row[1]: Task._make((*row, tuple(attempts.get(row[0], ())), tuple(steps.get(row[0], ())))) for row in rows},
            frozenset(name for name, is_paused, _ in queues if is_paused),
            {name: most for name, _, most in queues if most is not None},
            dict(key_limits),
            frozenset(key_lines),
            frozenset(events),
            frozenset(map(checker_ties.Tie._make, connection.execute(checker_ties.QUERY))),
            *checker_fires.read(connection),
        )
    finally:
        connection.execute("COMMIT")


def look(path: Path) -> tuple[Snapshot | None, list[Violation]]:
    """Open *path* as any other program would; returns what it says, and what is wrong with the file itself."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            checks = [line for (line,) in connection.execute("PRAGMA integrity_check")]
            orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
            if checks != ["ok"] or orphans:
                return None, [Violation("file", f"integrity_check: {checks[:3]}, foreign_key_check: {orphans[:3]}")]
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                return Snapshot({}, frozenset(), {}, {}, frozenset(), frozenset()), []  # it was never opened to its end
            found = read(connection)
    except sqlite3.DatabaseError as error:
        return None, [Violation("file", f"SQLite: {error}")]
    return found, [violation for task in found.tasks.values() for violation in contradictions(task)]


def contradictions(task: Task) -> Iterator[Violation]:
    """Yield where a task's row and its attempts do not tell one story."""
    numbers = [number for number, *_ in task.attempts]
    outcomes = [outcome for _, outcome, *_ in task.attempts]
    if numbers and numbers[-1] > task.attempt:
        yield Violation("I3", f"{task.id} has the attempt {numbers[-1]}, which was never claimed")
    if task.status == "running" and task.attempt in numbers:
        yield Violation("I2", f"{task.id} runs attempt {task.attempt}, which has ended")
    if sum(outcome in _COUNTED for outcome in outcomes) < task.failures:
        yield Violation("I6", f"{task.id} counts {task.failures} failures, and has {outcomes}")
    if task.status in ("completed", "failed") and (not outcomes or outcomes[-1] not in _ends_of(task.status)):
        yield Violation("I2", f"{task.id} is {task.status} and its attempts ended as {outcomes}")


def _ends_of(status: str) -> tuple[str, ...]:
    return _COUNTED if status == "failed" else (status,)


class Watcher:
    """Follows a history event by event; one connection of its own reads the file in between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
        self._before = read(self._connection, with_events=False)
        self._now = self._before
        self._promised: set[str] = set()
        """The tasks whose submit was answered, and whose deletion nobody asked for."""
        self._dead: set[str] = set()
        self._alive: set[str] = set()
        self.checks: Counter[str] = Counter()
        """How often each invariant was looked at."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks as they were seen last."""
        return self._now.tasks

    def after(self, event: Event) -> list[Violation]:
        """Look at the file after *event*, and judge it and what was answered."""
        self._before, self._now = self._now, read(self._connection, with_events=False)
        self._note_workers(event)
        touched = set(self._may_touch(event))
        if event["op"] in _RIPPLES:
            touched |= checker_ties.below(touched, self._before, self._now)
        found = [violation for task in self._ids() for violation in self._judge_task(task, event, task in touched)]
        found += [*self._judge_keys(), *self._judge_key_lines()]
        self.checks.update({"I30": len(self._now.ties), "I36": len(self._now.fires)})
        found += [Violation("I30", text) for text in checker_ties.judge(self._before, self._now, event)]
        found += [Violation("I36", text) for text in checker_fires.judge(self._before, self._now, event)]
        judge = getattr(self, f"_judge_{event['op']}", None)
        if judge is not None:
            found += judge(event)
        self._note_promises(event)
        return found

    def end(self) -> list[Violation]:
        """Judge the file when all work is said to be done."""
        snapshot, found = look(self._path)
        if snapshot is None:
            return found
        self.checks.update(("I1", "I7", "I19"))
        lost = sorted(self._promised - snapshot.tasks.keys())
        found += [Violation("I1", f"{task} was acknowledged, never deleted, and is not there") for task in lost]
        left = [task for task in snapshot.tasks.values() if not task.is_finished]
        return found + [Violation("I19", f"{task.id} stays {task.status}, held by {task.owner}") for task in left]

    # What an event may change

    def _ids(self) -> list[str]:
        return [*self._before.tasks, *(task for task in self._now.tasks if task not in self._before.tasks)]

    def _may_touch(self, event: Event) -> Iterable[str]:
        op = event["op"]
        if op == "submit":
            return [*event["wanted"], *event["ids"]]
        if op == "exchange":
            promoted = [
                task.id
                for task in self._before.tasks.values()
                if task.status in _WAITING and task.due_us <= event["now_us"]
            ]
            return [*promoted, *(task for task, *_ in [*event["settled"], *event["claims"]])]
        if op in ("give_back", "recover", "rescue"):
            return [task for task, *_ in event["tasks"]]
        if op in ("cancel", "retry", "delete", "step"):
            return [event["task"]]
        if op in ("tick", "run_now"):
            tasks = [*self._before.tasks.values(), *self._now.tasks.values()]
            return [task.id for task in tasks if task.schedule is not None]
        if op in ("cancel_all", "retry_all", "delete_all", "prune", "delete_finished"):
            wants_finished = op != "cancel_all"
            return [task.id for task in self._before.tasks.values() if task.is_finished is wants_finished]
        return ()

    def _judge_task(self, task: str, event: Event, is_touched: bool) -> Iterator[Violation]:
        before, now = self._before.tasks.get(task), self._now.tasks.get(task)
        if before == now:
            return
        op = event["op"]
        if not is_touched:
            if now is None:
                invariant = "I16" if before is not None and not before.is_finished else "I1"
            else:
                invariant = "I7" if op == "rescue" else "I2"
            yield Violation(invariant, f"{op} has changed {task}: {before} to {now}")
        elif before is not None and now is None:
            yield from self._judge_deleted(before, op)
        elif now is not None and before is not None:
            yield from self._judge_changed(before, now, event)
        if now is not None:
            yield from contradictions(now)

    def _judge_deleted(self, before: Task, op: str) -> Iterator[Violation]:
        self.checks["I16"] += 1
        if not before.is_finished:
            yield Violation("I16", f"{op} has deleted {before.id}, which was {before.status}")
        if op not in ("delete", "delete_all", "prune", "delete_finished"):
            yield Violation("I1", f"{op} has deleted {before.id}")

    def _judge_changed(self, before: Task, now: Task, event: Event) -> Iterator[Violation]:
        self.checks.update(("I2", "I3", "I4", "I6"))
        op = event["op"]
        if not _leads_to(before.status, now.status, _MOST_CHANGES if op == "exchange" else 1):
            yield Violation("I4", f"{op}: {before.id} was {before.status} and is {now.status}")
        claimed = op == "exchange" and any(task == now.id for task, _ in event["claims"])
        if now.attempt != before.attempt + claimed:
            yield Violation("I3", f"{op}: {before.id} had attempt {before.attempt} and has {now.attempt}")
        if now.attempts[: len(before.attempts)] != before.attempts:
            yield Violation("I2", f"{op} has changed ended attempts of {before.id}: {before.attempts}, {now.attempts}")
        if len(now.attempts) > len(before.attempts) and op not in ("exchange", "rescue"):
            yield Violation("I2", f"{op} has ended an attempt of {before.id}")
        started_over = op in ("retry", "retry_all") or (op == "submit" and before.key is not None)
        ends = [outcome for _, outcome, *_ in now.attempts[len(before.attempts) :]]
        failures = 0 if started_over else before.failures + sum(end in _COUNTED for end in ends)
        if now.failures != failures:
            yield Violation(
                "I6", f"{op}: {before.id} counts {now.failures} failures after {before.failures} and {ends}"
            )
        if not started_over and op != "step" and not set(before.steps) <= set(now.steps):
            yield Violation("I24", f"{op}: {before.id} has lost steps: {before.steps}, {now.steps}")

    def _judge_keys(self) -> Iterator[Violation]:
        self.checks["I28"] += 1
        live = Counter(task.key for task in self._now.tasks.values() if task.key is not None and not task.is_finished)
        for key, count in live.items():
            if count > 1:
                yield Violation("I28", f"{count} unfinished tasks have the key {key}")

    def _judge_key_lines(self) -> Iterator[Violation]:
        self.checks["I34"] += 1
        first: dict[tuple[str, str, str], Task] = {}
        for task in self._now.tasks.values():
            if task.limit_key is not None and task.status == "pending":
                line = task.limit_key, task.queue, task.pool
                first[line] = min(task, first.get(line, task), key=lambda each: each.rank)
        if {(*line, task.seq) for line, task in first.items()} != self._now.key_lines:
            yield Violation("I34", f"the lines of the limit keys are {self._now.key_lines} and should begin by {first}")

    # What an event was told

    def _judge_submit(self, event: Event) -> Iterator[Violation]:
        self.checks["I1"] += 1
        for task in event["ids"]:
            if task not in self._now.tasks and task not in event["held"]:
                yield Violation("I1", f"the submit of {task} was acknowledged, and it is not there")
        if event["error"] is not None:
            for task in event["wanted"]:
                if (task in self._now.tasks) is not (task in self._before.tasks):
                    yield Violation("I1", f"the submit of {task} was refused ({event['error']}), and it is there")
        for key, wanted, task in event["keys"]:
            if task != wanted and key not in event["held_keys"] and self._holder(key) not in (task, None):
                yield Violation("I28", f"the submit of {key} led to {task}, and {self._holder(key)} has it")

    def _holder(self, key: str) -> str | None:
        return next((task.id for task in self._now.tasks.values() if task.key == key and not task.is_finished), None)

    def _judge_exchange(self, event: Event) -> Iterator[Violation]:
        for task, attempt, outcome, result, is_recorded in event["settled"]:
            yield from self._judge_settled(event["owner"], task, attempt, outcome, result, is_recorded)
        yield from self._judge_claims(event)

    def _judge_settled(
        self, owner: str, task: str, attempt: int, outcome: str, result: str, is_recorded: bool
    ) -> Iterator[Violation]:
        self.checks["I2"] += 1
        before, now = self._before.tasks.get(task), self._now.tasks.get(task)
        is_held = before is not None and (before.status, before.attempt, before.owner) == ("running", attempt, owner)
        if is_held is not is_recorded:
            yield Violation("I2", f"{owner} ended attempt {attempt} of {task}; recorded: {is_recorded}, held: {before}")
        if before is None or now is None or not is_recorded:
            return
        if before.is_cancelling and outcome != "interrupted":
            outcome, result = "cancelled", ""
        if (attempt, outcome, owner, result) not in now.attempts:
            yield Violation("I2", f"{task}: attempt {attempt} ended as {outcome} and the file has {now.attempts}")

    def _judge_claims(self, event: Event) -> Iterator[Violation]:
        claims = dict(event["claims"])
        waiting: dict[tuple[str, str], list[Task]] = {}
        for task in self._now.tasks.values():
            if task.status == "pending":
                waiting.setdefault((task.queue, task.pool), []).append(task)
        claimed: Counter[str] = Counter()
        for task_id, attempt in claims.items():
            self.checks.update(("I3", "I5"))
            task = self._now.tasks[task_id]
            claimed[task.pool] += 1
            if (task.status, task.attempt, task.owner) != ("running", attempt, event["owner"]):
                yield Violation("I3", f"{event['owner']} was given attempt {attempt} of {task}")
            if task.queue in self._now.paused:
                yield Violation("I5", f"{task_id} was started in the paused queue {task.queue}")
            line = waiting.get((task.queue, task.pool), ())
            earlier = [each.id for each in line if each.rank < task.rank and self._has_room(each.limit_key)]
            if earlier:
                yield Violation("I5", f"{task_id} was claimed before {earlier}")
        for pool, count in claimed.items():
            if count > event["free"].get(pool, 0):
                yield Violation("I5", f"{count} tasks were claimed for {event['free']}")
        yield from self._judge_limits({self._now.tasks[task].queue for task in claims})
        yield from self._judge_key_limits({self._now.tasks[task].limit_key for task in claims})

    def _judge_key_limits(self, keys: set[str | None]) -> Iterator[Violation]:
        for key in keys - {None}:
            if self._running_of(key) > self._now.key_limits.get(str(key), 1):
                yield Violation("I34", f"{self._running_of(key)} tasks of the limit key {key} run")

    def _running_of(self, limit_key: str | None) -> int:
        return sum(task.status == "running" and task.limit_key == limit_key for task in self._now.tasks.values())

    def _has_room(self, limit_key: str | None) -> bool:
        return limit_key is None or self._running_of(limit_key) < self._now.key_limits.get(limit_key, 1)

    def _judge_limits(self, queues: set[str]) -> Iterator[Violation]:
        for queue in sorted(queues & self._now.concurrency.keys()):
            self.checks["I25"] += 1
            running = sum(task.status == "running" and task.queue == queue for task in self._now.tasks.values())
            if running > self._now.concurrency[queue]:
                yield Violation("I25", f"{queue} runs {running} tasks of {self._now.concurrency[queue]}")

    def _judge_rescue(self, event: Event) -> Iterator[Violation]:
        stood = {(task, attempt): has_progress for task, attempt, has_progress in event["stood"]}
        for task, attempt, owner, is_given_up in event["tasks"]:
            self.checks.update(("I7", "I18"))
            before, now = self._before.tasks[task], self._now.tasks[task]
            if owner not in self._dead:
                yield Violation("I7", f"{task} was taken from {owner}, which lives")
            if (before.status, before.attempt, before.owner) != ("running", attempt, owner):
                yield Violation("I2", f"the rescue of attempt {attempt} of {before}")
            has_progress = stood.get((task, attempt))
            crashes = before.crashes if has_progress is None else 0 if has_progress else before.crashes + 1
            if now.crashes != crashes or is_given_up is not (crashes >= _MOST_WORKER_DEATHS):
                yield Violation(
                    "I18", f"{task}: {before.crashes} crashes became {now.crashes}, given up: {is_given_up}"
                )
        for task_now in self._now.tasks.values():
            if task_now.status == "running" and task_now.owner in event["must_be_free"]:
                yield Violation("I7", f"{task_now.id} is left to {task_now.owner}, which is dead")

    def _judge_step(self, event: Event) -> Iterator[Violation]:
        self.checks["I24"] += 1
        task = self._now.tasks.get(event["task"])
        is_held = task is not None and (task.status, task.attempt, task.owner) == (
            "running",
            event["attempt"],
            event["owner"],
        )
        if event["told"] is not is_held:
            yield Violation("I24", f"a step of {task} by {event['owner']} was answered by {event['told']}")
        if event["told"] and task is not None and tuple(event["step"]) not in task.steps:
            yield Violation("I24", f"the step {event['step']} of {event['task']} is not there: {task.steps}")

    def _judge_cancel(self, event: Event) -> Iterator[Violation]:
        self.checks["I4"] += 1
        before, now = self._before.tasks.get(event["task"]), self._now.tasks.get(event["task"])
        is_open = before is not None and not before.is_finished
        if event["told"] is not is_open:
            yield Violation("I4", f"the cancellation of {before} was answered by {event['told']}")
        if event["told"] and (now is None or not (now.is_cancelling or now.status == "cancelled")):
            yield Violation("I4", f"{now} does not know that it is cancelled")

    def _judge_retry(self, event: Event) -> Iterator[Violation]:
        self.checks["I4"] += 1
        before, now = self._before.tasks.get(event["task"]), self._now.tasks.get(event["task"])
        is_over = before is not None and before.is_finished
        if event["told"] is True and (not is_over or now is None or now.status not in ("pending", "waiting")):
            yield Violation("I4", f"the retry of {before} has led to {now}")
        if event["told"] is False and is_over:
            yield Violation("I4", f"{before} was not retried")

    def _judge_delete(self, event: Event) -> Iterator[Violation]:
        before, now = self._before.tasks.get(event["task"]), self._now.tasks.get(event["task"])
        was_over = before is not None and before.is_finished
        if event["told"] is None:  # refused: it is still needed
            if not any(
                tie.parent == event["task"] and not self._now.tasks[tie.child].is_finished for tie in self._now.ties
            ):
                yield Violation("I30", f"the deletion of {before} was refused, and nothing unfinished needs it")
        elif event["told"] is not was_over or (was_over and now is not None):
            yield Violation("I16", f"the deletion of {before} was answered by {event['told']} and has left {now}")

    # What is known from the history alone

    def _note_workers(self, event: Event) -> None:
        op = event["op"]
        if op == "register":
            self._alive.add(event["worker"])
        elif op in ("kill", "close"):
            gone = set(event["workers"])
            self._alive -= gone
            self._dead |= gone

    def _note_promises(self, event: Event) -> None:
        op = event["op"]
        if op == "submit" and event["error"] is None:
            self._promised |= {task for task in event["ids"] if task not in event["held"]}
        elif op == "delete" and event["told"]:
            self._promised.discard(event["task"])
        elif op in ("delete_all", "prune", "delete_finished"):
            gone = [task for task in self._before.tasks if task not in self._now.tasks]
            if len(gone) == event["told"]:
                self._promised -= set(gone)


def _leads_to(old: str, new: str, changes: int) -> bool:
    reached = {old}
    for _ in range(changes):
        reached |= {after for status in reached for after in _LEGAL[status]}
    return new in reached


# After a fault


class Call(NamedTuple):
    """One call of a log, and how it was answered."""

    number: int
    what: str
    facts: Mapping[str, Any]
    answer: str
    """``done``; ``no``: there was nothing to do; ``refused``: by an error that says that nothing was done; ``unknown``:
    by one that says that nobody knows; ``open``: there was no answer."""


def calls_of(lines: Sequence[Event]) -> list[Call]:
    """Return the calls of a log, whose lines are written before (``begin``) and after (``answer``) each."""
    answers = {line["answer"]: line["how"] for line in lines if "answer" in line}
    return [
        Call(line["begin"], line["what"], line["facts"], answers.get(line["begin"], "open"))
        for line in lines
        if "begin" in line
    ]


def judge_promises(calls: Sequence[Call], snapshot: Snapshot) -> list[Violation]:
    """Judge what every call was told; the calls come in the order in which they were made."""
    deleted = {task for call in calls if call.what == "delete" for task in call.facts["tasks"]}
    judges = {
        "submit": _judge_submitted,
        "settle": _judge_outcome,
        "cancel": _judge_event,
        "retry": _judge_event,
        "step": _judge_done_step,
        "pause": _judge_paused,
    }
    found: list[Violation] = []
    for call in calls:
        judge = judges.get(call.what)
        if judge is not None:
            found += judge(call, snapshot, deleted)
        if call.what == "delete" and call.answer == "done":
            left = [task for task in call.facts["tasks"] if task in snapshot.tasks]
            found += [Violation("I1", f"{task} was deleted and is there") for task in left]
    wanted = {
        task
        for call in calls
        if call.what == "submit"
        for task in [*call.facts["tasks"], *call.facts.get("perhaps", ())]
    }
    found += [Violation("I1", f"{task} was never asked for") for task in snapshot.tasks.keys() - wanted]
    return found


def _judge_submitted(call: Call, snapshot: Snapshot, deleted: set[str]) -> Iterator[Violation]:
    tasks = set(call.facts["tasks"]) - deleted
    there = tasks & snapshot.tasks.keys()
    if call.answer == "done" and there != tasks:
        yield Violation("I1", f"the submit of {sorted(tasks)} was acknowledged; {sorted(tasks - there)} are lost")
    if call.answer == "refused" and there:
        yield Violation("I1", f"the submit of {sorted(tasks)} was refused; {sorted(there)} are there")
    if there and there != tasks:
        yield Violation("I1", f"of {sorted(tasks)}, submitted together, only {sorted(there)} are there")


def _judge_outcome(call: Call, snapshot: Snapshot, deleted: set[str]) -> Iterator[Violation]:
    for task_id, attempt, outcome in call.facts["ended"]:
        if task_id in deleted:
            continue
        task = snapshot.tasks.get(task_id)
        there = [end for number, end, *_ in task.attempts if number == attempt] if task is not None else []
        if call.answer == "done" and there != [outcome]:
            yield Violation("I2", f"{task_id} was recorded as {outcome}; attempt {attempt} has {there}: {task}")
        if call.answer == "refused" and outcome in there:
            yield Violation("I2", f"the outcome {outcome} of {task_id} was refused; the file has it")


def _judge_event(call: Call, snapshot: Snapshot, deleted: set[str]) -> Iterator[Violation]:
    for task in call.facts["tasks"]:
        if task in deleted:
            continue
        is_there = any((task, kind) in snapshot.events for kind in call.facts["kinds"])
        if call.answer == "done" and not is_there:
            yield Violation("I4", f"the {call.what} of {task} was acknowledged and is lost")
        if call.answer == "refused" and is_there:
            yield Violation("I4", f"the {call.what} of {task} was refused and is there")


def _judge_done_step(call: Call, snapshot: Snapshot, deleted: set[str]) -> Iterator[Violation]:
    task = snapshot.tasks.get(call.facts["task"])
    is_there = task is not None and any(name == call.facts["name"] for name, *_ in task.steps)
    if call.answer == "done" and not is_there and call.facts["task"] not in deleted:
        yield Violation("I24", f"the step {call.facts['name']} of {task} was acknowledged and is lost")


def _judge_paused(call: Call, snapshot: Snapshot, _deleted: set[str]) -> Iterator[Violation]:
    is_there = call.facts["queue"] in snapshot.paused
    if call.answer == "done" and not is_there:
        yield Violation("I1", f"the pause of {call.facts['queue']} was acknowledged and is lost")


def judge_end(path: Path, before: Snapshot) -> list[Violation]:
    """After the next worker has gone on: all is finished, and what was finished before is as it was."""
    snapshot, found = look(path)
    if snapshot is None:
        return found
    for task_id, was in before.tasks.items():
        task = snapshot.tasks.get(task_id)
        if task is None:
            found.append(Violation("I1", f"{task_id} was there after the fault and is lost"))
        elif was.is_finished and task != was:
            found.append(Violation("I2", f"{task_id} was finished and is changed: {was} to {task}"))
    left = [task for task in snapshot.tasks.values() if not task.is_finished]
    return found + [Violation("I19", f"{task.id} stays {task.status}") for task in left]
