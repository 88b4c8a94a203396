"""Child processes: for work that must be killable or burns CPU. Each slot keeps one child and reuses it.

A child is a fresh interpreter that imports the task's module; it never runs the main script again and shares nothing
with this process but one socket. Between the two stands its guard (``guard``), which leaves nothing of it behind.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.errors import StepNotStored
from thirdshift.core.outcome import Ending, is_suspect
from thirdshift.core.recycling import RecyclingConfig
from thirdshift.core.reference import aliases
from thirdshift.core.retry import RetryPolicy
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind, TaskError, Traces
from thirdshift.runtime.attempt import OF_REASON, OVER_LIMIT
from thirdshift.runtime.context import StopReason, TaskContext
from thirdshift.runtime.lines import as_told
from thirdshift.runtime.pools.channel import Channel, facts_of_step
from thirdshift.runtime.pools.guard import STREAMS
from thirdshift.runtime.pools.slots import Runner, SlotPool

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from thirdshift.runtime.pools.guard import fork_below_guard; "
    "shown = json.loads(sys.argv[7]); "
    "ends = fork_below_guard(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], shown is not None); "
    "from thirdshift.runtime.pools.child import main; "
    "main(int(sys.argv[3]), ends, sys.argv[5], json.loads(sys.argv[6]), shown)"
)
_MOST_IDLE_DEATHS = 3
"""Children that may die in a row before they take an attempt. That harms nobody's attempt, until none stays alive."""
_LAST_WORDS_S = 10.0
"""How long a guard may take to kill what descends from its child. Then it is killed itself."""


class ProcessPool(SlotPool):
    """Runs attempts in child processes, one for each slot."""

    limits_begin_with_slot = False

    def __init__(self, slots: int, clock: Clock, recycling: RecyclingConfig | None = None) -> None:
        super().__init__(PoolKind.PROCESS, slots, clock)
        self._recycling = recycling or RecyclingConfig()

    def make_runner(self, number: int, registration: Registration) -> Runner:
        """Return a runner whose child holds the lock *number* of this worker."""
        return _ProcessRunner(registration.child_lock(number), self._clock, self._recycling)


class _Child:
    """A running child process with its guard, whose own child it is."""

    def __init__(self, lock_path: str) -> None:
        with contextlib.ExitStack() as unless_started, contextlib.ExitStack() as theirs:
            self.channel, channel = _socket_pair(unless_started, theirs)
            self._control, control = _socket_pair(unless_started, theirs)
            path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
            numbers = [str(channel), str(control)]
            self._guard = subprocess.Popen(
                [sys.executable, "-c", _BOOT, path, numbers[1], numbers[0], str(os.getpid()), lock_path, *_told()],
                pass_fds=[channel, control],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__ or subprocess.DEVNULL,  # results go over the socket, people's words to stderr
                start_new_session=True,
            )
            unless_started.pop_all()
        self.attempts = 0
        self.first_resident_bytes: int | None = None
        self.total_cpu_s: float | None = None
        """What it used so far; ``None`` before it is up."""
        self._poll = select.poll()
        for end in (self.channel, self._control):
            self._poll.register(end.fileno(), select.POLLIN)

    def receive(self) -> dict[str, Any] | None:
        """Return the child's next message, ``None`` when it is gone, whoever else holds its end of the socket."""
        while (message := self.channel.next()) is None:
            ready = [descriptor for descriptor, _ in self._poll.poll()]
            if self.channel.fileno() not in ready or not self.channel.fill():
                return None
        return message

    def is_up(self) -> bool:
        """Wait until the child is ready for calls; False when it died before."""
        if self.total_cpu_s is None and (message := self.receive()) is not None:
            self.total_cpu_s = message["cpu_s"]
        return self.total_cpu_s is not None

    def tell(self, kind: str) -> None:
        """Ask something of the guard, which may be gone, or have been stopped by a task."""
        with contextlib.suppress(OSError):
            self._control.send(kind)
            if kind != "collect":
                self._guard.send_signal(signal.SIGCONT)

    def collect(self) -> dict[str, Any]:
        """Return what was written since the last time."""
        self.tell("collect")
        return self._hear("traces")

    def end(self) -> dict[str, Any]:
        """Make sure that the child and all that descends from it is gone; returns what its guard knows of its death."""
        self.tell("kill")
        death = self._hear("died")
        if not death:  # it is gone, or stuck; with it the kernel kills the child
            self._guard.kill()
        self.channel.close()
        self._control.close()
        self._guard.wait()
        return death

    def _hear(self, kind: str) -> dict[str, Any]:
        """Return the guard's next message of that *kind*; nothing when it is gone or says nothing for long."""
        while True:
            message = self._control.next()
            if message is not None and message["kind"] in (kind, "died"):
                return message
            if message is None and not (self._is_heard(_LAST_WORDS_S) and self._control.fill()):
                return {}

    def _is_heard(self, wait_s: float) -> bool:
        return bool(select.select([self._control.fileno()], [], [], wait_s)[0])


def _socket_pair(unless_started: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[Channel, int]:
    """Return our end of a new conversation, and the number of the other end."""
    ours, other = socket.socketpair()
    unless_started.enter_context(ours)
    return Channel(ours), theirs.enter_context(other).fileno()


def _told() -> tuple[str, str]:
    """Return what a child must know of this process: functions that were moved, and how log lines are written."""
    return json.dumps(aliases()), json.dumps(as_told())


class _ProcessRunner:
    """Looks after the child of one slot."""

    def __init__(self, lock_path: str, clock: Clock, recycling: RecyclingConfig) -> None:
        self._lock_path = lock_path
        self._clock = clock
        self._recycling = recycling
        self._child: _Child | None = None
        self._was_told_to_end = False

    def run(self, claim: Claim, context: TaskContext, enter: Callable[[], None]) -> Ending:
        started_at = self._clock.now()
        for _ in range(_MOST_IDLE_DEATHS):
            try:
                if self._child is None or self._was_told_to_end or is_suspect(claim.crashes):
                    self._child = self._start()
                answer = self._call(self._child, claim, context, enter) if self._child.is_up() else None
            except OSError as error:  # no process or socket could be had, or the child died while we wrote to it
                if self._child is None:
                    return _failure(started_at, self._clock.now(), error)
                answer = None
            if answer is not None:
                if self._was_told_to_end:  # it has ended in time, but maybe not all that it has started
                    self.close()
                return answer
            ending, has_begun = self._bury(started_at, context)
            if has_begun or context.stop_reason is not None:
                break
        return ending

    def pass_on_stop(self, context: TaskContext) -> None:
        child = self._child
        if child is not None and context.stop_reason is not None:
            with contextlib.suppress(OSError):  # it is dying already
                child.channel.send("stop", id=context.id, attempt=context.attempt, reason=context.stop_reason.value)

    def end(self) -> bool:
        self._was_told_to_end = True  # the signal may come after the attempt: the child is used for no other one
        if self._child is not None:
            self._child.tell("end")
        return True

    def kill(self) -> None:
        if self._child is not None:
            self._child.tell("kill")

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _start(self) -> _Child:
        self.close()
        self._was_told_to_end = False
        return _Child(self._lock_path)

    def _call(self, child: _Child, claim: Claim, context: TaskContext, enter: Callable[[], None]) -> Ending | None:
        """Run the attempt in *child*, which is up; ``None`` when it died."""
        enter()
        context.begin()
        child.channel.send(
            "call",
            id=claim.id,
            name=claim.name,
            attempt=claim.attempt,
            queue=claim.queue,
            worker=claim.owner,
            schedule=claim.schedule,
            scheduled_for=None if claim.scheduled_for is None else claim.scheduled_for.isoformat(),
            function=claim.function,
            arguments=claim.arguments.decode("utf-8", "surrogatepass"),
        )
        if context.stop_reason is not None:  # asked before the child knew of the call
            self.pass_on_stop(context)
        while (message := child.receive()) is not None:
            if message["kind"] == "ended":
                return self._ending(child, message, context)
            _hear(child.channel, message, context)
        return None

    def _ending(self, child: _Child, message: dict[str, Any], context: TaskContext) -> Ending:
        written = child.collect() if message["has_written"] else {}
        child.total_cpu_s = message["total_cpu_s"]
        child.attempts += 1
        if child.first_resident_bytes is None:
            child.first_resident_bytes = message["resident_bytes"]
        if self._is_worn(child, message["resident_bytes"]):
            self.close()
        elif message.get("is_unknown"):
            self.close()  # a fresh one finds what is installed meanwhile
        traces = Traces(message["cpu_s"], message["peak_memory_bytes"], *_texts(written))
        return _ending(message, context, self._was_told_to_end)._replace(traces=traces)

    def _is_worn(self, child: _Child, resident_bytes: int | None) -> bool:
        growth = (resident_bytes or 0) - (child.first_resident_bytes or 0)
        return child.attempts >= self._recycling.after_tasks or growth > self._recycling.memory_growth_bytes

    def _bury(self, started_at: datetime, context: TaskContext) -> tuple[Ending, bool]:
        """Say how the attempt of a dead child ended, as it was told to or by its death; and whether it had begun."""
        child, self._child = self._child, None
        assert child is not None, "somebody has died"
        death = child.end()
        outcome, error = _ending_of_death(context.stop_reason, death.get("status"))
        has_progress = context.has_progress if context.stop_reason is None else None
        cpu_s = death.get("cpu_s")
        used_s = None if cpu_s is None else max(0.0, cpu_s - (child.total_cpu_s or 0.0))
        traces = Traces(used_s, death.get("peak_memory_bytes"), *_texts(death))
        ending = Ending(outcome, started_at, self._clock.now(), error=error, has_progress=has_progress, traces=traces)
        return ending, death.get("begun") != child.attempts  # a guard that was killed cannot tell


def _texts(written: dict[str, Any]) -> list[str | None]:
    return [written.get(stream) for stream in STREAMS]


def _ending_of_death(reason: StopReason | None, status: int | None) -> tuple[AttemptOutcome, TaskError]:
    if reason in OVER_LIMIT:
        return AttemptOutcome.TIMED_OUT, OVER_LIMIT[reason]
    if reason in OF_REASON:
        return OF_REASON[reason]
    error = TaskError(type="ProcessDied", message=f"the child process {_manner_of_death(status)}")
    return AttemptOutcome.INTERRUPTED, error


def _manner_of_death(status: int | None) -> str:
    if status is None:
        return "was ended by the death of its guard"
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


def _hear(channel: Channel, message: dict[str, Any], context: TaskContext) -> None:
    """Do what a running attempt asks for."""
    match message["kind"]:
        case "progress":
            context.progress(**message["facts"])
        case "alive":
            context.sign_of_life()
        case "began":
            context.begin()
        case "fence":
            channel.send("fence", fence=context.fence())
        case "committed" if (message["id"], message["attempt"]) == (context.id, context.attempt):
            context.note_commit()
        case "recall":
            channel.send("steps", steps=[facts_of_step(step) for step in context.load_steps()])
        case "keep":
            channel.send("kept", refusal=_keep_step(context, message))


def _keep_step(context: TaskContext, message: dict[str, Any]) -> str | None:
    """Store the step that the child has done; returns why it could not be."""
    try:
        context.keep_step(message["name"], message["inputs"], message["result"].encode("utf-8", "surrogatepass"))
    except StepNotStored as refusal:
        return refusal.why
    return None


def _ending(message: dict[str, Any], context: TaskContext, was_told_to_end: bool) -> Ending:
    outcome = AttemptOutcome(message["outcome"])
    error = message["error"]
    result = message["result"]
    has_failed = was_told_to_end and outcome is AttemptOutcome.FAILED  # by our SIGTERM, as the function saw it
    if context.stop_reason in OVER_LIMIT or (has_failed and context.stop_reason is not None):
        outcome, told = _ending_of_death(context.stop_reason, 0)
        error = [told.type, told.message, error and error[2], ()]
    backoff = message.get("backoff")
    return Ending(
        outcome=outcome,
        started_at=datetime.fromisoformat(message["started_at"]),
        finished_at=datetime.fromisoformat(message["finished_at"]),
        encoded_result=result.encode("utf-8", "surrogatepass") if outcome is AttemptOutcome.COMPLETED else None,
        error=error and TaskError(type=error[0], message=error[1], traceback=error[2], where=tuple(error[3])),
        after_s=message["after_s"],
        is_final=outcome is AttemptOutcome.FAILED and message.get("is_final", False),
        backoff=backoff and RetryPolicy(first_s=backoff[0], most_s=backoff[1]),
        is_unknown=message.get("is_unknown", False),
    )


def _failure(started_at: datetime, finished_at: datetime, error: OSError) -> Ending:
    return Ending(
        outcome=AttemptOutcome.FAILED,
        started_at=started_at,
        finished_at=finished_at,
        error=TaskError(type="NoProcess", message=f"no child process could be started: {error}"),
    )
