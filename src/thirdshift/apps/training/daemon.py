"""The training daemon: one loop that looks at the inbox, the file in hand, the chores and its orders, and waits.

It does no work itself. What takes long runs as durable tasks in child processes; what they need is in focused modules.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from thirdshift import BackgroundTaskManager
from thirdshift.apps.training.base_model import demand_base_model
from thirdshift.apps.training.chores import Chores
from thirdshift.apps.training.config import DaemonConfig
from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.intake import Intake
from thirdshift.apps.training.moments import iso
from thirdshift.apps.training.notices import Notice, Notify, Remarked
from thirdshift.apps.training.queue import TrainingQueue
from thirdshift.apps.training.session import TrainingSession
from thirdshift.apps.training.status import StatusFile, training_status
from thirdshift.apps.training.steps import Step
from thirdshift.apps.training.tasks import CHORES_QUEUE, TRAINING_QUEUE, config_of
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.config import database_of, load_settings
from thirdshift.host.disk import DiskGuard
from thirdshift.host.instance import PIDManager
from thirdshift.host.signals import StopSignals


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
        self._watcher = notify
        self._started_at = time.time()
        self._control = ControlFolder(self.workspace.control)
        self._queue = TrainingQueue(self.workspace.queue)
        self._status = StatusFile(self.workspace.status_file)
        self._disk = DiskGuard(self.config.disk.min_free_gb, self.config.disk.warn_free_gb)
        self._is_told_to_stop = False
        self._reason: str | None = None
        self._recovery: str | None = None
        self._last_error: dict[str, Any] | None = None

    @contextmanager
    def instance(self) -> Iterator[None]:
        """Be the one daemon of the workspace; raises ``AlreadyRunning`` for a second one."""
        with PIDManager(self.workspace.pid_file, "the training daemon"):
            yield

    def run(self, beside: Sequence[BackgroundTaskManager] = ()) -> int:
        """Run until a stop, or until idle, inside :meth:`instance`; returns the exit code.

        Ends with their error when its own workers, or those *beside* it, give up.
        """
        with StopSignals() as signals, self._working() as (steps, workers):
            while not (signals.stop_requested or self._is_told_to_stop):
                self._demand_working_workers([*workers, *beside])
                for step in steps:
                    step()
                signals.wait(0 if self._is_told_to_stop else self.config.poll_interval_s)
        return 0

    @contextmanager
    def _working(self) -> Iterator[tuple[Sequence[Step], Sequence[BackgroundTaskManager]]]:
        """Start the workers behind the loop; at the end stop them, then lay the file in hand aside."""
        config = self.config
        database = database_of(self.workspace.root)
        with ExitStack() as stack:
            manager = stack.enter_context(BackgroundTaskManager(database=database, start=False))
            chores = Chores(self.workspace, manager, config.generator, self._say)
            session = TrainingSession(self.workspace, self._queue, manager, config, chores.snapshot_after, self._say)
            intake = Intake(self.workspace, self._queue, config.settle_s, self._say)
            write_status = partial(self._write_status, session, chores)
            self._clean_up_after_a_crash()
            session.recover()
            chores.recover()
            self._step(partial(write_status, "idle"))()
            stack.callback(self._step(partial(write_status, "stopped")))
            stack.push(self._remember_failure)
            stack.callback(self._step(session.lay_aside))
            self._agree_on_pause(manager)
            self._step(partial(self._begin, session))()
            workers = [
                stack.enter_context(self._worker(database, queue, slots))
                for queue, slots in ((CHORES_QUEUE, config.background.max_workers), (TRAINING_QUEUE, 1))
            ]
            stack.callback(self._step(partial(write_status, "stopping")))
            yield self._steps(manager, session, chores, intake), workers

    def _worker(self, database: Path, queue: str, slots: int) -> BackgroundTaskManager:
        timeout_s = self.config.shutdown_timeout_seconds
        return BackgroundTaskManager(
            "process",
            slots,
            database=database,
            queues=[queue],
            shutdown_timeout_seconds=timeout_s,
            pruning=load_settings(self.workspace.root).pruning,
        )

    def _steps(
        self, manager: BackgroundTaskManager, session: TrainingSession, chores: Chores, intake: Intake
    ) -> Sequence[Step]:
        """What one pass does, in order. An error in one step is told and survived, and the others go on."""
        work: Sequence[Callable[[], object]] = (
            partial(self._obey, manager, chores),
            intake.flatten,
            intake.tick,
            session.tick,
            partial(self._begin, session),
            lambda: chores.generate(self._queue.size() + intake.size(), self._generation_limit()),
            chores.tick,
            lambda: self._write_status(session, chores, self._state(session)),
            lambda: self._stop_when_idle(session, chores, intake),
        )
        return [self._step(each) for each in work]

    def _step(self, work: Callable[[], object]) -> Step:
        return Step(work, self.config.error_pause_s, self._survive)

    def _survive(self, error: Exception, pause_s: float) -> None:
        self._remember(error)
        self._say(Remarked(f"error: {error}; trying again in {pause_s:g} s"))

    def _remember_failure(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Whatever ends the daemon stands in its last status."""
        if isinstance(error, Exception):
            self._remember(error)

    def _remember(self, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        self._last_error = {"error": f"{type(error).__name__}: {error}", "when": iso(time.time()), "traceback": text}

    def _demand_working_workers(self, workers: Sequence[BackgroundTaskManager]) -> None:
        """End the daemon when a worker gave up: the store cannot be trusted any more, and nothing would be trained."""
        for worker in workers:
            if worker.failure is not None:
                raise worker.failure

    def _begin(self, session: TrainingSession) -> None:
        """Take the next file unless somebody paused or the disk is full; say why not."""
        self._reason = self._recovery
        if self._control.is_paused:
            self._reason = f"paused since {self._control.paused_since}"
        elif self._disk.check(self.workspace.checkpoints).level == "full":
            self._reason = f"less than {self.config.disk.min_free_gb:g} GB free; files wait until there is space"
        elif session.begin():
            self._reason = self._recovery = None

    def _obey(self, manager: BackgroundTaskManager, chores: Chores) -> None:
        """Carry out the words that lie in the control folder."""
        for word in self._control.take():
            self._say(Remarked(f"order: {word}"))
            match word:
                case "stop":
                    self._is_told_to_stop = True
                case "pause" | "resume":
                    self._control.set_paused(word == "pause")
                    self._agree_on_pause(manager)
                case "trigger_snapshot":
                    chores.snapshot()
                case _:
                    self._say(Remarked(f"{word} is not supported yet; nothing was done"))

    def _agree_on_pause(self, manager: BackgroundTaskManager) -> None:
        """Make the task queue agree with the pause: a laid-aside task must not start while it lasts."""
        if self._control.is_paused:
            manager.pause_queue(TRAINING_QUEUE)
        else:
            manager.resume_queue(TRAINING_QUEUE)

    def _generation_limit(self) -> int | None:
        """With *until_idle* the queue is filled once."""
        return self.config.generator.min_queue_size if self._until_idle else None

    def _stop_when_idle(self, session: TrainingSession, chores: Chores, intake: Intake) -> None:
        is_idle = session.file is None and chores.is_idle and intake.size() == 0 and self._queue.size() == 0
        self._is_told_to_stop |= self._until_idle and is_idle

    def _state(self, session: TrainingSession) -> str:
        if self._control.is_paused:
            return "paused"
        return "idle" if session.file is None else "training"

    def _clean_up_after_a_crash(self) -> None:
        before = self._status.read() or {}
        if before.get("state") not in (None, "stopped"):
            self._reason = self._recovery = "Recovered from crash"
            self._say(Remarked("the last daemon did not stop cleanly; recovering what it had in hand"))
        for word in self._control.clear_stale():
            self._say(Remarked(f"dropped the order {word}, which was meant for the last daemon"))

    def _write_status(self, session: TrainingSession, chores: Chores, state: str) -> None:
        file = session.file
        training = {"file": None if file is None else file.name, "last": session.last_result}
        self._status.write(
            training_status(
                state=state,
                reason=self._reason,
                pid=os.getpid(),
                started_at=self._started_at,
                training={**training, **(session.progress or {})},
                queue=self._queue.get_queue_status(),
                background_tasks=chores.describe(),
                disk=self._disk.check(self.workspace.root),
                last_error=self._last_error,
            )
        )

    def _say(self, notice: Notice) -> None:
        if self._watcher is not None:
            self._watcher(notice)
