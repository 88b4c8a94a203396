"""The worker: one thread that records what ended, claims what is due and gives it to the pools.

Its pass, :meth:`Worker.tick`, does all of that in one transaction and returns the seconds until it is needed again;
in between it sleeps until somebody wakes it: a pool whose attempt ended, or a submitter.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thirdshift.core.clock import Clock
from thirdshift.core.engine import ClaimRequest, Exchange, Registration, WorkerEngine
from thirdshift.core.errors import OutcomeUnknown, StoreDamaged, StoreError
from thirdshift.core.events import (
    AttemptClaimed,
    AttemptLost,
    AttemptOverran,
    AttemptSettled,
    Event,
    Observer,
    StoreUnavailable,
    TaskRescued,
    WorkerFailed,
    WorkerStarted,
    WorkerStopped,
)
from thirdshift.core.outcome import Report, Settlement, settle
from thirdshift.core.retry import RetryPolicy
from thirdshift.core.task import Claim, PoolKind
from thirdshift.runtime.context import StopReason
from thirdshift.runtime.pools.slots import SlotPool

_logger = logging.getLogger("thirdshift.worker")

SAFETY_INTERVAL_S = 1.0
"""Longest sleep: finds what a lost wake missed, and dead workers."""

_PROGRESS_INTERVAL_S = 0.25
_STORE_PAUSE_S = 0.5
_KILL_WAIT_S = 5.0


class Worker:
    """Claims tasks of one engine and runs them in its pools. Start it once; stop it once."""

    def __init__(
        self,
        engine: WorkerEngine,
        pools: Sequence[SlotPool],
        *,
        clock: Clock,
        random: Callable[[], float],
        observe: Observer,
        queues: frozenset[str] | None = None,
        excluded: frozenset[str] = frozenset(),
        retry: RetryPolicy | None = None,
    ) -> None:
        self._engine = engine
        self._pools: Mapping[PoolKind, SlotPool] = {pool.kind: pool for pool in pools}
        self._queues = queues
        self._excluded = excluded
        self._clock = clock
        self._random = random
        self._observe = observe
        self._retry = retry or RetryPolicy()
        self._registration: Registration | None = None
        self._unlisten: Callable[[], None] | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="thirdshift-worker", daemon=True)
        self._reports: deque[Report] = deque()
        self._unrecorded: list[Settlement] = []
        self._returned: list[Claim] = []
        self._progress: dict[int, tuple[Claim, Mapping[str, Any]]] = {}
        self._progress_mutex = threading.Lock()
        self._progress_due = 0.0
        self._rescue_due = 0.0
        self._is_draining = threading.Event()
        self._is_over = threading.Event()
        self.failure: Exception | None = None
        """Why the worker gave up, if it did: the store is damaged, or a commit's outcome is unknown."""

    @property
    def slots(self) -> int:
        """How many attempts can run at once."""
        return sum(pool.slots for pool in self._pools.values())

    def start(self) -> None:
        """Register, take over what dead workers left, and start claiming."""
        registration = self._registration = self._engine.register(slots=self.slots)
        self._unlisten = self._engine.on_work(self._wake.set)
        for pool in self._pools.values():
            pool.start(registration, self._ended, self._progressed)
        self._announce(WorkerStarted(registration.id, self.slots))
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop claiming, give back what has not started, and let running attempts end.

        Running functions see ``should_stop`` at once. What still runs after *timeout_s* seconds is ended where that is
        possible and runs again at the next start; a thread cannot be ended: then ``False`` is returned, the worker
        keeps its tasks until the function returns or the process ends, and nobody else runs them meanwhile.
        """
        self._is_draining.set()
        for pool in self._pools.values():
            pool.hold()
            pool.ask_to_stop(StopReason.SHUTDOWN)
        self._wake.set()
        if not self._is_over.wait(timeout_s):
            is_ending = False
            for pool in self._pools.values():
                is_ending |= pool.end(StopReason.SHUTDOWN)
            self._wake.set()
            self._is_over.wait(_KILL_WAIT_S if is_ending else 0.0)
        return self._is_over.is_set()

    def wait_until_over(self) -> None:
        """Wait for the last attempt of a worker that :meth:`stop` had to leave behind."""
        self._is_over.wait()

    def busy(self) -> list[Claim]:
        """Return the attempts that run now."""
        return [claim for pool in self._pools.values() for claim in pool.busy()]

    def tick(self) -> float:
        """Make one pass; returns the seconds until the next one is due."""
        self._unrecorded += self._settlements()
        request = self._request()
        exchange = self._engine.exchange(self._unrecorded, request)
        settled, self._unrecorded = self._unrecorded, []
        self._hand_out(exchange)
        for settlement, is_recorded in zip(settled, exchange.recorded, strict=True):
            self._announce(AttemptSettled(settlement) if is_recorded else AttemptLost(settlement))
        self._stop_cancelled()
        self._rescue()
        waits = [SAFETY_INTERVAL_S, self._record_progress(), self._look_at_pools()]
        if request is not None and exchange.next_due is not None:  # without a free slot, its end is what counts
            waits.append((exchange.next_due - self._clock.now()).total_seconds())
        return max(0.0, min(waits))

    # The thread

    def _run(self) -> None:
        while True:
            try:
                wait_s = self.tick()
                if self._is_finished():
                    break
            except (StoreError, OSError) as error:
                if isinstance(error, OutcomeUnknown | StoreDamaged):
                    self.failure = error
                    break
                wait_s = _STORE_PAUSE_S  # busy, full or out of descriptors: outcomes wait in memory
                self._announce(StoreUnavailable(error, wait_s))
            except Exception as error:  # noqa: BLE001  # a fault of ours: stop, and say so, rather than go on blindly
                self.failure = error
                break
            self._wake.wait(wait_s)
            self._wake.clear()
        self._end()

    def _is_finished(self) -> bool:
        if not self._is_draining.is_set():
            return False
        self._give_back()
        return not (self.busy() or self._reports or self._unrecorded or self._returned)

    def _end(self) -> None:
        if self._unlisten is not None:
            self._unlisten()
        if self.failure is not None:
            self._announce(WorkerFailed(self.failure))
        self._announce(WorkerStopped(self._owner, len(self.busy())))
        for pool in self._pools.values():
            pool.close()
        if self.failure is None:
            for pool in self._pools.values():
                pool.join()
            self._deregister()
        self._is_over.set()

    def _deregister(self) -> None:
        if self._registration is not None:
            with contextlib.suppress(StoreError):  # its lock is free all the same: others find it gone and forget it
                self._registration.close()

    # Parts of a pass

    def _settlements(self) -> list[Settlement]:
        settlements: list[Settlement] = []
        while self._reports:
            report = self._reports.popleft()
            backoff_s = self._retry.wait_s(report.claim.failures, self._random())
            settlements.append(settle(report, backoff_s))
        return settlements

    def _request(self) -> ClaimRequest | None:
        if self._is_draining.is_set():
            return None
        free = {kind: room for kind, pool in self._pools.items() if (room := pool.room())}
        if not free:
            return None
        return ClaimRequest(owner=self._owner, free=free, queues=self._queues, excluded=self._excluded)

    def _hand_out(self, exchange: Exchange) -> None:
        for claim in exchange.claims:
            self._announce(AttemptClaimed(claim))
        for kind, pool in self._pools.items():
            claims = [claim for claim in exchange.claims if claim.pool is kind]
            if claims:
                pool.give(claims)

    def _give_back(self) -> None:
        self._returned += [claim for pool in self._pools.values() for claim in pool.take_back()]
        if self._returned:
            self._engine.give_back(self._returned)
            self._returned = []

    def _stop_cancelled(self) -> None:
        if not self.busy():
            return
        for task_id in self._engine.cancel_requests(self._owner):
            for pool in self._pools.values():
                pool.end(StopReason.CANCELLED, task_id=task_id)

    def _rescue(self) -> None:
        now = self._clock.monotonic()
        if now < self._rescue_due:
            return
        self._rescue_due = now + SAFETY_INTERVAL_S
        for rescue in self._engine.rescue(self._owner):
            self._announce(TaskRescued(rescue))

    def _look_at_pools(self) -> float:
        due_s = SAFETY_INTERVAL_S
        for pool in self._pools.values():
            overrun, next_look_s = pool.look()
            for claim in overrun:
                if pool.kind is PoolKind.THREAD:
                    self._announce(AttemptOverran(claim))
            if next_look_s is not None:
                due_s = min(due_s, next_look_s)
        return due_s

    def _record_progress(self) -> float:
        """Store the newest progress, not more often than the interval; returns the seconds until it is due."""
        if not self._progress:
            return SAFETY_INTERVAL_S
        now = self._clock.monotonic()
        if now < self._progress_due:
            return self._progress_due - now
        self._progress_due = now + _PROGRESS_INTERVAL_S
        with self._progress_mutex:
            progress, self._progress = self._progress, {}
        self._engine.record_progress(list(progress.values()))
        return SAFETY_INTERVAL_S

    # Called from the pools' threads

    def _ended(self, report: Report) -> None:
        self._reports.append(report)
        self._wake.set()

    def _progressed(self, claim: Claim, facts: Mapping[str, Any]) -> None:
        with self._progress_mutex:
            is_first = not self._progress
            self._progress[claim.seq] = claim, facts
        if is_first:
            self._wake.set()

    @property
    def _owner(self) -> str:
        assert self._registration is not None, "the worker is started"
        return self._registration.id

    def _announce(self, event: Event) -> None:
        try:
            self._observe(event)
        except Exception:  # who only listens must not stop the work
            _logger.exception("observer.failed")
