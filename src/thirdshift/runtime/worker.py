"""The worker: one thread that records what ended, claims what is due and gives it to the pools.

Its pass, :meth:`Worker.tick`, does all of that in one transaction and returns the seconds until it is needed again;
in between it sleeps until somebody wakes it: a pool whose attempt ended, or a submitter.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from thirdshift.core.clock import Clock
from thirdshift.core.engine import Announced, ClaimRequest, Exchange, Registration, Seat, WorkerEngine
from thirdshift.core.errors import NotSupported, OutcomeUnknown, StepNotStored, StoreDamaged, StoreError
from thirdshift.core.events import (
    AttemptLost,
    AttemptsClaimed,
    AttemptsSettled,
    EndedAfterCommit,
    Event,
    FunctionUnknown,
    Observer,
    StoreUnavailable,
    TaskRescued,
    WakesLost,
    WorkerFailed,
    WorkerStarted,
    WorkerStopped,
)
from thirdshift.core.outcome import Ending, Settlement, is_suspect, settle
from thirdshift.core.retry import RetryPolicy
from thirdshift.core.task import AttemptOutcome, Claim, Fence, PoolKind, Step, TaskError
from thirdshift.runtime.context import StopReason
from thirdshift.runtime.pools.pool import Pool
from thirdshift.runtime.unknown import UnknownFunctions
from thirdshift.runtime.wakes import WakeWatch

_logger = logging.getLogger("thirdshift.worker")

UNKNOWN_AFTER = timedelta(hours=24)
"""A task fails when no worker could find its function for so long."""

SAFETY_INTERVAL_S = 1.0
"""Longest sleep: finds what a lost wake missed, and dead workers."""

_PROGRESS_INTERVAL_S = 0.25
_GATHER_S = 0.005
"""How long ends are gathered for one commit while the slots have enough to do."""
_STORE_PAUSE_S = 0.5
_KILL_WAIT_S = 5.0


class Worker:
    """Claims tasks of one engine and runs them in its pools. Start it once; stop it once."""

    def __init__(
        self,
        engine: WorkerEngine,
        pools: Sequence[Pool],
        *,
        clock: Clock,
        random: Callable[[], float],
        observe: Observer,
        queues: frozenset[str] | None = None,
        excluded: frozenset[str] = frozenset(),
        retry: RetryPolicy | None = None,
        name: str | None = None,
        unknown_after: timedelta = UNKNOWN_AFTER,
    ) -> None:
        self._engine = engine
        self._pools: Mapping[PoolKind, Pool] = {pool.kind: pool for pool in pools}
        self._queues = queues
        self._excluded = excluded
        self._clock = clock
        self._random = random
        self._observe = observe
        self._retry = retry or RetryPolicy()
        self._name = name
        self._unknown_after = unknown_after
        self._unknown = UnknownFunctions(clock)
        self._wakes = WakeWatch(clock)
        self._registration: Registration | None = None
        self._unlisten: list[Callable[[], None]] = []
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="thirdshift-worker", daemon=True)
        self._passing = threading.Lock()
        """Held by the one thread that makes a pass: the worker's, or one that has just made a slot free."""
        self._reports: deque[tuple[Claim, Ending]] = deque()
        self._unrecorded: list[Settlement] = []
        self._returned: list[Claim] = []
        self._committed: set[tuple[int, int]] = set()
        """(seq, attempt) of those that have recorded their own end and are not reported yet."""
        self._declined: list[tuple[Claim, TaskError]] = []
        self._found: set[str] = set()
        self._progress: dict[int, tuple[Claim, Mapping[str, Any]]] = {}
        self._progress_mutex = threading.Lock()
        self._progress_due = 0.0
        self._safety_due = 0.0
        self._has_news = False
        self._is_draining = threading.Event()
        self._waits_in_vain = threading.Event()
        """Nothing is left to wait for, or only functions of a stuck pool, which may never return."""
        self._is_over = threading.Event()
        self.failure: Exception | None = None
        """Why the worker gave up, if it did: the store is damaged, or a commit's outcome is unknown."""

    @property
    def slots(self) -> int:
        """How many attempts can run at once."""
        return sum(pool.slots for pool in self._pools.values())

    def start(self) -> None:
        """Register, take over what dead workers left, and start claiming."""
        self.enlist()
        self._unlisten = [
            self._engine.on_work(self._hear, self._hear_of_others, self._look_for_strangers),
            self._engine.on_submit(self._reserve),
            self._engine.on_death(self._hear_of_death),
        ]
        self._thread.start()

    def enlist(self) -> None:
        """Register and set up the pools, no thread: for who calls :meth:`tick` himself, and ends by :meth:`leave`."""
        registration = self._registration = self._engine.register(
            slots=self.slots,
            spare_slots=sum(pool.spare_slots for pool in self._pools.values()),
            queues=self._queues,
            excluded=self._excluded,
            pools={kind: pool.slots for kind, pool in self._pools.items()},
            name=self._name,
        )
        first_slot = 0
        for pool in self._pools.values():
            pool.start(registration, self, first_slot)
            first_slot += pool.slots + pool.spare_slots
        self.announce(WorkerStarted(registration.id, self.slots))

    def hold(self) -> None:
        """Begin nothing more; what runs goes on, until :meth:`stop` follows."""
        self._is_draining.set()
        for pool in self._pools.values():
            pool.hold()

    def leave(self) -> None:
        """End a worker that only enlisted; what it claimed and did not run is given back."""
        self.hold()
        self._is_finished()
        self._end()

    def stop(self, timeout_s: float) -> bool:
        """Stop claiming, give back what has not started, and let running attempts end.

        Running functions see ``should_stop`` at once. What still runs after *timeout_s* seconds is ended where that is
        possible and runs again at the next start; a thread cannot be ended: then ``False`` is returned, the worker
        keeps its tasks until the function returns or the process ends, and nobody else runs them meanwhile. That is
        returned at once when nothing is left but such threads of a stuck pool.
        """
        self.hold()
        for pool in self._pools.values():
            pool.ask_to_stop(StopReason.SHUTDOWN)
        self._wake.set()
        if not self._waits_in_vain.wait(timeout_s):
            is_ending = False
            for pool in self._pools.values():
                is_ending |= pool.end(StopReason.SHUTDOWN)
            self._wake.set()
            self._waits_in_vain.wait(_KILL_WAIT_S if is_ending else 0.0)
        if not self._is_over.is_set():
            self._close_idle_pools()
        return self._is_over.is_set()

    def wait_until_over(self) -> None:
        """Wait for the last attempt of a worker that :meth:`stop` had to leave behind."""
        self._is_over.wait()

    def busy(self) -> list[Claim]:
        """Return the attempts that run now."""
        return [claim for pool in self._pools.values() for claim in pool.busy()]

    @property
    def has_claims(self) -> bool:
        """Whether it holds claims whose end is not reported."""
        return any(pool.has_claims for pool in self._pools.values())

    @property
    def unknown_functions(self) -> frozenset[str]:
        """The functions that it cannot find: their tasks are left to others."""
        return self._unknown.all

    def tick(self, *, is_by_timer: bool = False) -> float:
        """Make one pass; returns the seconds until the next one is due. *is_by_timer*: nobody asked for it."""
        is_unannounced = self._wakes.is_unannounced() and is_by_timer
        with self._passing:
            next_due = self._pass(is_unannounced=is_unannounced)
        if self._declined or self._found:
            self._report_functions()
        self._look_for_lost_wakes()
        if self._clock.monotonic() >= self._safety_due:
            self._safety_due = self._clock.monotonic() + SAFETY_INTERVAL_S
            self._has_news = True
            self._rescue()
            self._try_again()
        if self._has_news:
            self._has_news = False
            self._obey()
        waits = [SAFETY_INTERVAL_S, self._record_progress(), self._look_at_pools()]
        if next_due is not None:
            waits.append((next_due - self._clock.now()).total_seconds())
        return max(0.0, min(waits))

    # The thread

    def _run(self) -> None:
        is_by_timer = False
        while True:
            try:
                wait_s = self.tick(is_by_timer=is_by_timer)
                if self._is_finished():
                    break
                if self._is_draining.is_set() and self._has_only_endless_work():
                    self._waits_in_vain.set()
            except (StoreError, OSError) as error:
                if isinstance(error, OutcomeUnknown | StoreDamaged):
                    self.failure = error
                    break
                wait_s = _STORE_PAUSE_S  # busy, full or out of descriptors: outcomes wait in memory
                self.announce(StoreUnavailable(error, wait_s))
            except Exception as error:  # noqa: BLE001  # a fault of ours: stop, and say so, rather than go on blindly
                self.failure = error
                break
            is_by_timer = not self._wake.wait(wait_s)
            if any(pool.is_supplied for pool in self._pools.values()):
                self._is_draining.wait(_GATHER_S)
            self._wake.clear()
        self._end()

    def _is_finished(self) -> bool:
        if not self._is_draining.is_set():
            return False
        with self._passing:  # else another thread may hold claims that it has not handed out yet
            self._take_back(lambda _claim: True)
            in_hand = self._reports or self._unrecorded or self._returned or self._declined
            return not (self._has_seats() or self.has_claims or in_hand)

    def _has_only_endless_work(self) -> bool:
        others = [pool for pool in self._pools.values() if not pool.waits_in_vain]
        is_idle = not (self._reports or self._unrecorded or self._returned or any(pool.has_claims for pool in others))
        return is_idle and len(others) < len(self._pools)

    def _close_idle_pools(self) -> None:
        """Let go of what need not wait for the last thread, such as child processes."""
        for pool in self._pools.values():
            if not pool.has_claims:
                pool.close()
                pool.join()

    def _end(self) -> None:
        for unlisten in self._unlisten:
            unlisten()
        if self.failure is not None:
            self.announce(WorkerFailed(self.failure))
        self.announce(WorkerStopped(self._owner, len(self.busy())))
        for pool in self._pools.values():
            pool.close()
        if self.failure is None:
            for pool in self._pools.values():
                pool.join()
            self._deregister()
        self._is_over.set()
        self._waits_in_vain.set()

    def _deregister(self) -> None:
        if self._registration is not None:
            with contextlib.suppress(StoreError):  # its lock is free all the same: others find it gone and forget it
                self._registration.close()

    # Parts of a pass

    def _pass(self, *, is_unannounced: bool = False, announced: Announced | None = None) -> datetime | None:
        """Record what ended, claim and hand out; returns when the next claim is due. ``_passing`` is held."""
        self._unrecorded += self._settlements()
        request = self._request(announced)
        exchange = self._engine.exchange(self._unrecorded, request)
        settled, self._unrecorded = self._unrecorded, []
        if is_unannounced:
            self._wakes.found(exchange.claims)
        self._wakes.passed(request, exchange)
        self._hand_out(exchange)
        self._announce_ends(settled, exchange.recorded)
        return None if request is None else exchange.next_due  # without a free slot, its end is what counts

    def _pass_here(self, *, is_unannounced: bool = False, announced: Announced | None = None) -> None:
        """Make a pass on the caller's thread, which need not wait for the worker's thread to wake up.

        While another thread makes one, and for all that only the worker's thread does (cancellations, timers, errors
        of the store), that one is woken.
        """
        if not self._passing.acquire(blocking=False):
            self._wake.set()
            return
        try:
            is_wanted = bool(self.busy())
            is_wanted |= self._pass(is_unannounced=is_unannounced, announced=announced) is not None
        except Exception:  # noqa: BLE001  # the worker's own pass meets it too, and knows what to do
            is_wanted = True
        finally:
            self._passing.release()
        if is_wanted or self._reports:
            self._wake.set()

    def _settlements(self) -> list[Settlement]:
        settlements: list[Settlement] = []
        while self._reports:
            claim, ending = self._reports.popleft()
            backoff_s = 0.0
            if ending.outcome is not AttemptOutcome.COMPLETED:
                if ending.is_unknown and ending.error is not None:
                    self._leave_alone(claim, ending.error)
                    continue
                backoff_s = (ending.backoff or self._retry).wait_s(claim.failures, self._random())
            settlements.append(settle(claim, ending, backoff_s))
        if self._unknown.is_trying:
            self._found.update(self._unknown.found(settlement.claim.function for settlement in settlements))
        return settlements

    def _leave_alone(self, claim: Claim, error: TaskError) -> None:
        """Claim no more tasks of a function that cannot be found here; the worker's thread gives this one back."""
        self._declined.append((claim, error))
        self._wake.set()
        if self._unknown.meet(claim.function):
            self.announce(FunctionUnknown(claim.function, error))

    def _request(self, announced: Announced | None = None) -> ClaimRequest | None:
        if self._is_draining.is_set():
            return None
        free = {kind: room for kind, pool in self._pools.items() if (room := pool.room())}
        if not free:
            return None
        request = ClaimRequest(
            owner=self._owner,
            free=free,
            queues=self._queues,
            excluded=self._excluded,
            unknown=self._unknown.left_alone,
        )
        if announced is None or announced.pool not in free or not self._serves(announced.queue) or request.unknown:
            return request
        return replace(request, first=announced.id)

    def _hand_out(self, exchange: Exchange) -> None:
        for kind, pool in self._pools.items():
            claims = [claim for claim in exchange.claims if self._pool_of(claim) is kind]
            if claims:
                pool.give(claims)
        if exchange.claims:
            self._take_notice(exchange.claims)

    def _take_notice(self, claims: Sequence[Claim]) -> None:
        self.announce(AttemptsClaimed(claims))
        if any(claim.shortest_limit_s is not None for claim in claims):
            self._wake.set()  # the worker's thread looks after time limits

    def _pool_of(self, claim: Claim) -> PoolKind:
        """Return where *claim* runs: what may have killed its worker gets a process to kill."""
        return PoolKind.PROCESS if is_suspect(claim.crashes) and PoolKind.PROCESS in self._pools else claim.pool

    def _announce_ends(self, settlements: Sequence[Settlement], recorded: Sequence[bool]) -> None:
        ends = list(zip(settlements, recorded, strict=True))
        if True in recorded:
            self.announce(AttemptsSettled([settlement for settlement, is_recorded in ends if is_recorded]))
        for settlement, is_recorded in ends:
            if not is_recorded:
                self._announce_unrecorded(settlement)

    def _announce_unrecorded(self, settlement: Settlement) -> None:
        """Say that nothing was recorded: the task is not this worker's any more, or the attempt had done it itself."""
        claim = settlement.claim
        if (claim.seq, claim.attempt) not in self._committed:
            self.announce(AttemptLost(settlement))
            return
        self._committed.discard((claim.seq, claim.attempt))
        if settlement.ending.outcome is not AttemptOutcome.COMPLETED:
            self.announce(EndedAfterCommit(settlement))

    def _take_back(self, is_wanted: Callable[[Claim], bool]) -> None:
        """Return those claims that have not started and are wanted; others may run them."""
        self._returned += [claim for pool in self._pools.values() for claim in pool.take_back(is_wanted)]
        if self._returned:
            self._engine.give_back(self._returned)
            self._returned = []

    def _report_functions(self) -> None:
        """Give back what cannot be found here, with all that waits for the same functions; say what is found again."""
        if found := frozenset(self._found):  # a pass on another thread may add to it meanwhile
            self._engine.found(self._owner, found)
            self._found -= found
        unknown = self._unknown.left_alone
        self._take_back(lambda claim: claim.function in unknown)
        declined = list(self._declined)
        failed = self._engine.decline(declined, self._unknown_after) if declined else ()
        del self._declined[: len(declined)]
        if failed:
            self.announce(AttemptsSettled(failed))
            with self._passing:  # the next of their tasks have probably waited for too long as well
                self._unknown.try_again(settlement.claim.function for settlement in failed)
            self._wake.set()

    def _try_again(self) -> None:
        """Claim tasks again of functions that have been left alone for a while."""
        if self._unknown.left_alone:
            with self._passing:
                if self._unknown.try_again():
                    self._wakes.hear()  # they were announced long ago

    def _obey(self) -> None:
        """End what was cancelled while it ran; return what was claimed ahead and is cancelled or paused by now."""
        if not self._returned and not any(pool.held() for pool in self._pools.values()):
            return
        cancelled = self._engine.cancel_requests(self._owner)
        paused = self._engine.paused_queues()
        if cancelled or paused or self._returned:
            self._take_back(lambda claim: claim.id in cancelled or claim.queue in paused)
        for task_id in cancelled:
            for pool in self._pools.values():
                pool.end(StopReason.CANCELLED, task_id=task_id)

    def _rescue(self) -> None:
        for rescue in self._engine.rescue(self._owner):
            self.announce(TaskRescued(rescue))
        with self._passing:  # nobody holds claims that are on their way to a pool
            pools = self._pools.values()
            try:  # from the count of what is held to the look at the store no submitter may claim for this worker
                if False not in [pool.begin_count() for pool in pools]:
                    for rescue in self._engine.recover(self._owner, self._held()):
                        self.announce(TaskRescued(rescue))
            finally:
                for pool in pools:
                    pool.end_count()

    def _look_for_lost_wakes(self) -> None:
        if self._wakes.judge() and self._registration is not None:
            self._registration.note_lost_wakes(self._wakes.lost, self._clock.now())
            if self._wakes.must_say():
                self.announce(WakesLost(self._wakes.lost))

    def _has_seats(self) -> bool:
        return True in [pool.has_seats() for pool in self._pools.values()]  # every pool gives up its old ones

    def _held(self) -> set[tuple[int, int]]:
        """Return (seq, attempt) of every attempt that this worker knows to be its own."""
        claims = [claim for pool in self._pools.values() for claim in pool.held()]
        claims += [claim for claim, _ in self._reports]
        claims += [settlement.claim for settlement in self._unrecorded]
        claims += self._returned
        claims += [claim for claim, _ in self._declined]
        return {(claim.seq, claim.attempt) for claim in claims}

    def _look_at_pools(self) -> float:
        due_s = SAFETY_INTERVAL_S
        for pool in self._pools.values():
            next_look_s = pool.look()
            if next_look_s is not None:
                due_s = min(due_s, next_look_s)
        stuck = {kind for kind, pool in self._pools.items() if pool.is_stuck}
        if stuck:
            self._take_back(lambda claim: self._pool_of(claim) in stuck)
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

    def report(self, claim: Claim, ending: Ending) -> None:
        """Take the end of an attempt; :meth:`record` follows."""
        self._reports.append((claim, ending))

    def record(self, *, is_idle: bool) -> None:
        """Record what was reported: at once on the slot's thread when that *is_idle*, else soon."""
        if is_idle and len(self._reports) == 1:  # more: others end too, and one pass for all is better
            self._pass_here()
        elif not self._wake.is_set():
            self._wake.set()

    def progress(self, claim: Claim, facts: Mapping[str, Any]) -> None:
        """Keep what the attempt says of its progress; the newest is stored a few times a second."""
        with self._progress_mutex:
            is_first = not self._progress
            self._progress[claim.seq] = claim, facts
        if is_first:
            self._wake.set()

    @property
    def clock(self) -> Clock:
        """What moments are read from."""
        return self._clock

    def fence(self, claim: Claim) -> Fence:
        """Return what the attempt needs to record its own end. Raises ``NotSupported``."""
        join = self._engine.capabilities.join
        if join is None:
            raise NotSupported("current_task().commit()", "Make the effects safe to repeat, with idempotency_key.")
        fence = claim.seq, claim.id, claim.attempt, claim.owner
        return Fence(join, self._engine.location, *fence, claim.durable, self._engine.counts_ends)

    def committed(self, claim: Claim) -> None:
        """Take notice that the attempt has recorded that it completed; its report is still to come."""
        self._committed.add((claim.seq, claim.attempt))
        self._engine.announce_commit([claim.id])
        self.announce(AttemptsSettled([settle(claim, Ending(AttemptOutcome.COMPLETED, None, self._clock.now()), 0.0)]))

    def steps(self, claim: Claim) -> Sequence[Step]:
        """Return the steps that the attempt's task has done so far."""
        return self._engine.steps(claim.id)

    def keep_step(self, claim: Claim, name: str, inputs: str, encoded_result: bytes) -> None:
        """Store a step of a running attempt, on the attempt's own thread. Raises ``StepNotStored``."""
        try:
            is_stored = self._engine.record_step(claim, name, inputs, encoded_result)
        except StoreError as error:
            raise StepNotStored(name, str(error)) from error
        if not is_stored:
            raise StepNotStored(name, f"task {claim.id} is no longer that of attempt {claim.attempt}")

    def _hear_of_death(self) -> None:
        """Look at once for what a dead worker left."""
        self._safety_due = 0.0
        self._wake.set()

    # Called from submitters' threads

    def _hear(self) -> None:
        """Wake up: there is something to claim, or somebody wants something stopped."""
        self._wakes.hear()
        self._has_news = True
        self._wake.set()

    def _hear_of_others(self, announced: Announced | None) -> None:
        """Do what another process has work for, without waiting for the worker's thread."""
        self._wakes.hear()
        self._has_news = True
        self._pass_here(announced=announced)

    def _look_for_strangers(self) -> None:
        """Look for what somebody may have written who tells nobody."""
        self._pass_here(is_unannounced=self._wakes.is_unannounced())

    def took(self, claim: Claim) -> None:
        """Take notice of a claim that a submitter made for this worker."""
        self._take_notice([claim])

    def _reserve(self, queue: str, kind: PoolKind) -> Seat | None:
        """Keep a free slot for a task that is being submitted to *queue*, if this worker works on that queue."""
        pool = self._pools.get(kind)
        if pool is None or not self._serves(queue):
            return None
        if self._unknown.left_alone:  # the task may be of such a function: let a claim decide
            return None
        return pool.reserve(self._owner)

    def _serves(self, queue: str) -> bool:
        return queue not in self._excluded and (self._queues is None or queue in self._queues)

    @property
    def _owner(self) -> str:
        assert self._registration is not None, "the worker is started"
        return self._registration.id

    def announce(self, event: Event) -> None:
        """Tell who listens to this worker."""
        try:
            self._observe(event)
        except Exception:  # who only listens must not stop the work
            _logger.exception("observer.failed")
