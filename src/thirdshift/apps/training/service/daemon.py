"""The training daemon: one loop that looks at the inbox, the file in hand, the chores and its orders, and sleeps.

It does no work itself. What takes long runs as durable tasks in child processes; what they need is in focused modules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.config import DaemonConfig, config_of
from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.inbox.check_task import INTAKE_QUEUE
from thirdshift.apps.training.inbox.checks import SLOTS as CHECKS_AT_ONCE
from thirdshift.apps.training.inbox.intake import Intake
from thirdshift.apps.training.models.base_model import demand_base_model
from thirdshift.apps.training.notices import Notice, Notify, Remarked
from thirdshift.apps.training.service.admission import Admission
from thirdshift.apps.training.service.chores import Chores
from thirdshift.apps.training.service.inline_chores import InlineChores
from thirdshift.apps.training.service.orders import Orders
from thirdshift.apps.training.service.reporter import Reporter
from thirdshift.apps.training.service.requests import Requests, served
from thirdshift.apps.training.service.session import TrainingSession
from thirdshift.apps.training.service.steps import Step
from thirdshift.apps.training.service.troubles import Troubles
from thirdshift.apps.training.tasks import CHORES_QUEUE, TRAINING_QUEUE
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.config import database_of, load_settings
from thirdshift.host.disk import DiskGuard
from thirdshift.host.instance import PIDManager
from thirdshift.host.signals import StopSignals
from thirdshift.host.waiting import LoopWait, Waker

QUEUES = frozenset({CHORES_QUEUE, TRAINING_QUEUE, INTAKE_QUEUE})
"""Queues that the daemon works on itself, and no other worker."""


class TrainingDaemon:
    """Trains what is dropped into a workspace until it is told to stop. :meth:`run` belongs to the main thread.

    Making one makes the workspace's folders; raises ``ConfigurationError`` before that.

    *until_idle*: generate the first files if there are too few, train everything, and end. *notify* is called from the
    daemon's loop with everything a person may want to see.
    """

    def __init__(
        self,
        base_dir: Path | str,
        config: DaemonConfig | None = None,
        *,
        until_idle: bool = False,
        notify: Notify | None = None,
    ) -> None:
        self.workspace = TrainingWorkspace(base_dir)
        self.config = config or config_of(self.workspace)
        demand_base_model(self.workspace, self.config.model)
        self.workspace.create()
        self._until_idle = until_idle
        self._notify = notify

    @contextmanager
    def instance(self) -> Iterator[None]:
        """Be the one daemon of the workspace; raises ``AlreadyRunning`` for a second one."""
        with PIDManager(self.workspace.pid_file, "the training daemon"):
            yield

    def run(self, beside: Sequence[BackgroundTaskManager] = ()) -> int:
        """Run until a stop, or until idle, inside :meth:`instance`; returns the exit code.

        Ends with their error when its own workers, or those *beside* it, give up.
        """
        with StopSignals() as signals, LoopWait(signals) as sleep, self._working(sleep) as (orders, steps, workers):
            while not (signals.stop_requested or orders.must_stop):
                _demand_working_workers([*workers, *beside])
                for step in steps:
                    step()
                sleep.wait(0 if orders.must_stop else self.config.poll_interval_s)
            if orders.stops_at_once:
                for worker in (*workers, *beside):
                    worker.shutdown(timeout=0)
        return 0

    @contextmanager
    def _working(self, sleep: LoopWait) -> Iterator[tuple[Orders, Sequence[Step], Sequence[BackgroundTaskManager]]]:
        """Start the workers behind the loop; at the end stop them, then lay the file in hand aside."""
        workspace, config, say = self.workspace, self.config, self._say
        database = database_of(workspace.root)
        control = ControlFolder(workspace.control)
        queue = TrainingQueue(workspace.queue)
        disk = DiskGuard(config.disk.min_free_gb, config.disk.warn_free_gb)
        troubles = Troubles(config.error_pause_s, say)
        with ExitStack() as stack:
            manager = stack.enter_context(BackgroundTaskManager(database=database, start=False))
            chores = Chores(workspace, manager, config.generator, say)
            session = TrainingSession(workspace, queue, manager, config, chores.snapshot_after, say)
            intake = Intake(workspace, queue, manager, config, say)
            stack.callback(intake.close)
            for source in intake.sources:
                sleep.add(source)
            orders = Orders(control, session, chores, say)
            admission = Admission(workspace, session, control, orders, intake, manager, disk, say)
            reporter = Reporter(workspace, queue, disk, session, chores, admission, troubles, sleep)
            stack.callback(troubles.step(reporter.close))

            if reporter.found_a_crash():
                admission.recovered()
                say(Remarked("the last daemon did not stop cleanly; recovering what it had in hand"))
            session.recover()
            intake.recover()
            chores.recover()
            troubles.step(partial(reporter.write, "idle"))()
            stack.callback(troubles.step(partial(reporter.write, "stopped")))
            stack.push(troubles.remember_end)
            stack.callback(troubles.step(session.lay_aside))
            orders.begin()
            waker = stack.enter_context(closing(Waker()))
            sleep.add(waker)
            requests = Requests(control, queue, lambda: reporter.document, waker.wake)
            stack.enter_context(served(workspace, requests, say))
            troubles.step(admission.take_next)()
            chores_worker = partial(self._worker, database, CHORES_QUEUE, config.background.max_workers)
            inline = InlineChores(chores, chores_worker, lambda: sleep.stop_requested)
            workers = [
                stack.enter_context(self._worker(database, name, slots))
                for name, slots in ((TRAINING_QUEUE, 1), (INTAKE_QUEUE, CHECKS_AT_ONCE))
            ]
            if config.background.enabled:
                workers.append(stack.enter_context(chores_worker()))
            stack.callback(troubles.step(partial(reporter.write, "stopping")))
            work: Sequence[Callable[[], object]] = (
                orders.obey,
                intake.flatten,
                intake.tick,
                session.tick,
                admission.take_next,
                lambda: chores.generate(queue.size() + intake.size(), self._generation_limit()),
                lambda: chores.snapshot_when_due(config.background.snapshot_interval_hours),
                *(() if config.background.enabled else (inline.tick,)),
                chores.tick,
                reporter.write,
                lambda: self._stop_when_idle(orders, session, chores, intake, queue),
            )
            yield orders, [troubles.step(each) for each in work], workers

    def _worker(self, database: Path, queue: str, slots: int) -> BackgroundTaskManager:
        return BackgroundTaskManager(
            "process",
            slots,
            database=database,
            queues=[queue],
            shutdown_timeout_seconds=self.config.shutdown_timeout_seconds,
            pruning=load_settings(self.workspace.root).pruning,
        )

    def _generation_limit(self) -> int | None:
        """With *until_idle* the queue is filled once."""
        return self.config.generator.min_queue_size if self._until_idle else None

    def _stop_when_idle(
        self, orders: Orders, session: TrainingSession, chores: Chores, intake: Intake, queue: TrainingQueue
    ) -> None:
        is_idle = session.file is None and chores.is_idle and intake.size() == 0 and queue.size() == 0
        if self._until_idle and is_idle:
            orders.stop()

    def _say(self, notice: Notice) -> None:
        if self._notify is not None:
            self._notify(notice)


def _demand_working_workers(workers: Sequence[BackgroundTaskManager]) -> None:
    """End the daemon when a worker gave up: the store cannot be trusted any more, and nothing would be trained."""
    for worker in workers:
        if worker.failure is not None:
            raise worker.failure
