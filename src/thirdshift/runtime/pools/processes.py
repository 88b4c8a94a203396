"""Child processes: for work that must be killable or burns CPU. Each slot keeps one child and reuses it.

A child is a fresh interpreter that imports the task's module; it never runs the main script again and shares nothing
with this process but one socket.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import datetime
from typing import Any

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Registration
from thirdshift.core.outcome import Ending, is_suspect
from thirdshift.core.reference import aliases
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind, TaskError
from thirdshift.runtime.attempt import TIMED_OUT
from thirdshift.runtime.context import StopReason, TaskContext
from thirdshift.runtime.pools.channel import Channel
from thirdshift.runtime.pools.slots import Runner, SlotPool

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from thirdshift.runtime.pools.child import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5]))"
)


class ProcessPool(SlotPool):
    """Runs attempts in child processes, one for each slot."""

    def __init__(self, slots: int, clock: Clock) -> None:
        super().__init__(PoolKind.PROCESS, slots, clock)

    def make_runner(self, number: int, registration: Registration) -> Runner:
        """Return a runner whose child holds the lock *number* of this worker."""
        return _ProcessRunner(registration.child_lock(number), self._clock)


class _Child:
    """A running child process, leader of its own process group."""

    def __init__(self, lock_path: str) -> None:
        ours, theirs = socket.socketpair()
        path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
        moved = json.dumps(aliases())
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, path, str(theirs.fileno()), str(os.getpid()), lock_path, moved],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.__stderr__ or subprocess.DEVNULL,  # results go over the socket, people's words to stderr
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        self.channel = Channel(ours)

    def signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Make sure that the child and its group are gone; returns its exit status as Popen gives it."""
        self.signal_group(signal.SIGKILL)
        self.channel.close()
        return self.process.wait()


class _ProcessRunner:
    """Looks after the child of one slot. The slot's thread starts it, so the child dies with that thread."""

    def __init__(self, lock_path: str, clock: Clock) -> None:
        self._lock_path = lock_path
        self._clock = clock
        self._child: _Child | None = None
        self._was_told_to_end = False

    def run(self, claim: Claim, context: TaskContext) -> Ending:
        started_at = self._clock.now()
        try:
            if self._child is None or self._must_not_go_on(self._child, claim):
                self._child = self._start()
            answer = self._call(self._child, claim, context)
        except OSError as error:  # no process or socket could be had, or the child died while we wrote to it
            answer = None if self._child is not None else _failure(started_at, self._clock.now(), error)
        if answer is None:
            answer = self._bury(started_at, context)
        return answer

    def _must_not_go_on(self, child: _Child, claim: Claim) -> bool:
        """Whether *child* is dead or dying, or *claim* needs a process that nothing else has touched."""
        return self._was_told_to_end or child.process.poll() is not None or is_suspect(claim.crashes)

    def pass_on_stop(self, context: TaskContext) -> None:
        child = self._child
        if child is not None and context.stop_reason is not None:
            with contextlib.suppress(OSError):  # it is dying already
                child.channel.send("stop", id=context.id, attempt=context.attempt, reason=context.stop_reason.value)

    def end(self) -> bool:
        self._was_told_to_end = True  # the signal may come after the attempt: the child is used for no other one
        if self._child is not None:
            self._child.signal_group(signal.SIGTERM)
        return True

    def kill(self) -> None:
        if self._child is not None:
            self._child.signal_group(signal.SIGKILL)

    def close(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def _start(self) -> _Child:
        self.close()
        self._was_told_to_end = False
        return _Child(self._lock_path)

    def _call(self, child: _Child, claim: Claim, context: TaskContext) -> Ending | None:
        """Run the attempt in *child*; ``None`` when the child died."""
        child.channel.send(
            "call",
            id=claim.id,
            name=claim.name,
            attempt=claim.attempt,
            function=claim.function,
            arguments=claim.arguments.decode("utf-8", "surrogatepass"),
        )
        if context.stop_reason is not None:  # asked before the child knew of the call
            self.pass_on_stop(context)
        while (message := child.channel.receive()) is not None:
            if message["kind"] == "progress":
                context.progress(**message["facts"])
            elif message["kind"] == "ended":
                return _ending(message, context, self._was_told_to_end)
        return None

    def _bury(self, started_at: datetime, context: TaskContext) -> Ending:
        """Say how the attempt of a dead child ended: as it was told to, or by its own death."""
        child, self._child = self._child, None
        status = child.end() if child is not None else 0
        outcome, error = _ending_of_death(context.stop_reason, status)
        has_progress = context.has_progress if context.stop_reason is None else None
        return Ending(outcome, started_at, self._clock.now(), error=error, has_progress=has_progress)


def _ending_of_death(reason: StopReason | None, status: int) -> tuple[AttemptOutcome, TaskError]:
    match reason:
        case StopReason.TIMED_OUT:
            return AttemptOutcome.TIMED_OUT, TIMED_OUT
        case StopReason.CANCELLED:
            return AttemptOutcome.CANCELLED, TaskError(type="Cancelled", message="the task was cancelled while it ran")
        case StopReason.SHUTDOWN:
            return AttemptOutcome.INTERRUPTED, TaskError(type="Interrupted", message="the worker was shut down")
        case None:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
            return AttemptOutcome.INTERRUPTED, TaskError(type="ProcessDied", message=f"the child process {how}")


def _ending(message: dict[str, Any], context: TaskContext, was_told_to_end: bool) -> Ending:
    outcome = AttemptOutcome(message["outcome"])
    error = message["error"]
    result = message["result"]
    has_failed = was_told_to_end and outcome is AttemptOutcome.FAILED  # by our SIGTERM, as the function saw it
    if context.stop_reason is StopReason.TIMED_OUT or (has_failed and context.stop_reason is not None):
        outcome, told = _ending_of_death(context.stop_reason, 0)
        error = [told.type, told.message, error and error[2]]
    return Ending(
        outcome=outcome,
        started_at=datetime.fromisoformat(message["started_at"]),
        finished_at=datetime.fromisoformat(message["finished_at"]),
        encoded_result=result.encode("utf-8", "surrogatepass") if outcome is AttemptOutcome.COMPLETED else None,
        error=None if error is None else TaskError(type=error[0], message=error[1], traceback=error[2]),
        after_s=message["after_s"],
    )


def _failure(started_at: datetime, finished_at: datetime, error: OSError) -> Ending:
    return Ending(
        outcome=AttemptOutcome.FAILED,
        started_at=started_at,
        finished_at=finished_at,
        error=TaskError(type="NoProcess", message=f"no child process could be started: {error}"),
    )
