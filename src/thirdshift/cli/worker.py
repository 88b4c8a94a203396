"""``thirdshift worker``: one process that runs tasks of the workspace's database, beside as many others as you like."""

import contextlib
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from thirdshift.cli.output import Session, print_json
from thirdshift.cli.running import prepare, start_worker
from thirdshift.config import BackgroundTaskConfig, load_settings
from thirdshift.core.errors import StoreError, UsageError
from thirdshift.core.status import TaskStatus
from thirdshift.host.signals import StopSignals

if TYPE_CHECKING:
    from thirdshift.core.events import Event
    from thirdshift.manager import BackgroundTaskManager

FORMATS = ("text", "json")
_LIFE_S = 60.0
_OF_THE_DAEMON = frozenset({"training", "maintenance", "intake"})
"""Queues that the training daemon works on itself; tests compare the names."""

_saying = threading.Lock()
_logger = logging.getLogger("thirdshift.cli")
_says_in_log: list[bool] = []
"""Not empty: what is said to people is said in log lines."""


@click.command()
@click.option("--queues", metavar="A,B", help="Work on these queues only.")
@click.option("--exclude-queues", metavar="A,B", help="Work on all queues but these.")
@click.option("--threads", type=click.IntRange(0), help="Tasks at once in threads.  [default: configuration, 4]")
@click.option("--processes", type=click.IntRange(0), help="As many in child processes.  [default: configuration, 4]")
@click.option("--coroutines", type=click.IntRange(0), help="As many `async def` ones.  [default: configuration, 100]")
@click.option("--database", type=click.Path(dir_okay=False, path_type=Path), help="Default: the workspace's.")
@click.option(
    "--app-dir", type=click.Path(path_type=Path), default=".", help="Folder to import tasks from.  [default: .]"
)
@click.option("--name", help="What lists and log lines call this worker.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), help="Answer Prometheus on this port of 127.0.0.1; 0: on any."
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="Write the log lines of all loggers, those of tasks too, each with its task; json: nothing but JSON lines.",
)
@click.option("--quiet", is_flag=True, help="Print warnings only.")
@click.option("--drain", is_flag=True, help="Stop when nothing is left to run, now or later.")
@click.pass_obj
def worker(
    session: Session,
    queues: str | None,
    exclude_queues: str | None,
    threads: int | None,
    processes: int | None,
    coroutines: int | None,
    database: Path | None,
    app_dir: Path,
    name: str | None,
    metrics_port: int | None,
    log_format: str | None,
    quiet: bool,
    drain: bool,
) -> int:
    """Run background tasks: in threads, and where a task's function asks for it, in child processes or an event loop.

    Ctrl-C or SIGTERM finishes the work in hand and leaves the rest; a second one stops at once, and what it interrupts
    runs again elsewhere. SIGUSR2 shows where every thread is. A child process is started when a task first needs it; 0
    leaves a pool out, and its tasks to other workers.

    Tasks in threads that do not end when they must lose their places. When no more places can be had, the worker
    finishes the rest and starts anew in the same process; at their third start such tasks run in child processes.

    \b
    thirdshift worker --threads 8
    thirdshift worker --queues mail,reports --processes 2 --name mail-1
    thirdshift worker --metrics-port 9464 --log-format json
    thirdshift worker --drain
    """
    settings = load_settings(session.workspace)
    folder = Path.cwd()
    prepare(app_dir)
    _log_to_stderr("WARNING" if quiet else settings.log_level, log_format)
    path = session.database if database is None else database.absolute()
    chosen = None if queues is None else _names("--queues", queues)
    excluded = (_OF_THE_DAEMON if chosen is None else frozenset()) | _names("--exclude-queues", exclude_queues or "")
    pools = {"thread": threads, "process": processes, "async": coroutines}
    with StopSignals() as signals:
        tally = Tally(signals)
        manager = start_worker(
            settings,
            path,
            workspace=session.workspace,
            queues=chosen,
            excluded_queues=excluded,
            pools={kind: size for kind, size in pools.items() if size is not None},
            name=name,
            observe=tally.observe,
        )
        try:
            desk = Desk(manager, tally, name, quiet=quiet)
            desk.open(chosen, excluded)
            with _metrics(manager, metrics_port, quiet=quiet):
                if drain:
                    _watch_for_the_end(manager, tally, signals)
                desk.sit(signals)
                desk.stop(signals, settings)
        finally:
            is_over = manager.shutdown()
    if tally.is_stuck and signals.received is None and manager.failure is None:
        _start_anew(folder)
    if session.as_json:
        print_json(desk.document(signals))
    code = desk.exit_code()
    if not is_over:  # a thread that nobody can end: its task runs again elsewhere once this process is gone
        _say("tasks still run in threads; they end with this process and are started again")
        _leave(code)
    return code


class Tally:
    """Counts what the worker says of itself; any thread may tell it."""

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals
        self._mutex = threading.Lock()
        self._ends: Counter[str] = Counter()
        self.worker = ""
        self.lost_wakes = 0
        self.is_drained = False
        self.is_stuck = False
        self.not_importable: set[str] = set()

    def observe(self, event: "Event") -> None:
        """Take notice of *event*."""
        from thirdshift.core import events  # noqa: PLC0415  # loaded by now

        match event:
            case events.AttemptsSettled(settlements):
                words = Counter(settlement.status.value for settlement in settlements)
                with self._mutex:
                    self._ends += words
            case events.FunctionUnknown(function, error):
                self.not_importable.add(function)
                _warn_of_function(function, str(error))
            case events.WorkerStarted(worker, _):
                self.worker = worker
            case events.WakesLost(count):
                self.lost_wakes = count
            case events.PoolStuck():
                self.is_stuck = True
                self._signals.end_waits()
            case events.WorkerFailed():
                self._signals.end_waits()

    def ends(self) -> Counter[str]:
        """Return how many attempts left their task under each status."""
        with self._mutex:
            return Counter(self._ends)


class Desk:
    """What the command says and how it ends; for the main thread."""

    def __init__(self, manager: "BackgroundTaskManager", tally: Tally, name: str | None, *, quiet: bool) -> None:
        self._manager = manager
        self._tally = tally
        self._name = name
        self._quiet = quiet

    def open(self, chosen: frozenset[str] | None, excluded: frozenset[str]) -> None:
        """Say where the tasks are, who works on what, and how to stop."""
        _say(f"database   {self._manager.database}")
        if self._quiet:
            return
        (state,) = (worker for worker in self._manager.workers() if worker.id == self._tally.worker)
        slots = ", ".join(f"{count} in {_PLACES[kind.value]}" for kind, count in state.pools.items())
        works_on = _listed(chosen) if chosen is not None else f"all but {_listed(excluded)}" if excluded else "all"
        _say(f"worker     {self._title()}, process {os.getpid()}; tasks at once: {slots}")
        _say(f"queues     {works_on}")
        _say("stop       Ctrl-C finishes the work in hand; Ctrl-C twice stops at once")

    def sit(self, signals: StopSignals) -> None:
        """Wait for a reason to stop, and say now and then that the worker lives."""
        before: Counter[str] = Counter()  # what ended since the start, before anybody sat here, is told too
        while not signals.wait(_LIFE_S) and not self._is_over():
            if not self._quiet:
                now = self._tally.ends()
                _say(self._life(now - before))
                before = now

    def stop(self, signals: StopSignals, settings: BackgroundTaskConfig) -> None:
        """Begin nothing more, and say for how long the work in hand is waited for."""
        self._manager.hold()
        limit = f"{settings.shutdown_timeout_seconds:g} s"
        if signals.received is not None:
            if not self._quiet:
                _say(f"stopping after {signals.received.name}: finishing the work in hand, at most {limit}")
        elif self._tally.is_stuck:
            _say(f"its threads are stuck in tasks that do not end: finishing the rest, at most {limit}, then anew")
        if self._manager.failure is not None:
            _say(f"the worker gave up: {self._manager.failure}")

    def exit_code(self) -> int:
        """Return what the worker ended with: 69 for a store that cannot be used, 1 for a fault of ours."""
        failure = self._manager.failure
        if failure is None:
            return 0
        return 69 if isinstance(failure, StoreError) else 1

    def document(self, signals: StopSignals) -> dict[str, Any]:
        """Return what happened, as JSON-ready data."""
        failure = self._manager.failure
        reason = "drained" if self._tally.is_drained else None if signals.received is None else signals.received.name
        return {
            "database": self._manager.database,
            "worker": self._tally.worker,
            "name": self._name,
            "stopped_by": reason if failure is None else str(failure),
            "ends": dict(self._tally.ends()),
            "lost_wakes": self._tally.lost_wakes,
            "not_importable": sorted(self._tally.not_importable),
        }

    def _is_over(self) -> bool:
        return self._tally.is_drained or self._tally.is_stuck or self._manager.failure is not None

    def _life(self, ends: Mapping[str, int]) -> str:
        """Return the line of life; a store that does not answer now is part of it."""
        ended = ", ".join(f"{count:,} {status}" for status, count in sorted(ends.items())) or "none"
        words = [f"in the last minute: {ended}"]
        try:
            (state,) = (worker for worker in self._manager.workers() if worker.id == self._tally.worker)
            waiting = sum(queue.counts.get(TaskStatus.PENDING, 0) for queue in self._manager.queues())
            words[:0] = [f"{state.busy:,} tasks in hand, {waiting:,} wait"]
        except (StoreError, ValueError) as error:
            words[:0] = [f"the store does not answer: {error}"]
        if self._tally.lost_wakes:
            words += [f"{self._tally.lost_wakes:,} wake-ups were lost so far; see `thirdshift health --level complete`"]
        return f"{self._title()}: {'; '.join(words)}"

    def _title(self) -> str:
        return self._name or f"worker {self._tally.worker[:8]}"


_PLACES = {"thread": "threads", "process": "child processes", "async": "an event loop"}


def _metrics(
    manager: "BackgroundTaskManager", port: int | None, *, quiet: bool
) -> contextlib.AbstractContextManager[object]:
    """Answer Prometheus inside the block, when there is a *port*."""
    if port is None:
        return contextlib.nullcontext()
    from thirdshift.monitor.metrics_server import MetricsServer  # noqa: PLC0415  # few workers need it

    server = MetricsServer(port, lambda: manager.monitor.export_metrics("prometheus"))
    if not quiet:
        _say(f"metrics    {server.url}")
    return server


def _names(option: str, text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if text and not names:
        raise UsageError(f"{option} names no queue; write them with commas: mail,reports")
    return names


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _watch_for_the_end(manager: "BackgroundTaskManager", tally: Tally, signals: StopSignals) -> None:
    """End the main thread's wait when nothing is left."""

    def watch() -> None:
        with contextlib.suppress(StoreError):  # closed meanwhile: something else ended the wait
            tally.is_drained = manager.wait_until_drained()
            signals.end_waits()

    threading.Thread(target=watch, name="thirdshift-drain", daemon=True).start()


def _warn_of_function(function: str, why: str) -> None:
    _say(
        f"warning: {function} cannot be imported here ({why.splitlines()[0]}), so its tasks are left to other workers; "
        "name its folder with --app-dir, or leave its queue to another worker"
    )


def _log_to_stderr(level: str, form: str | None) -> None:
    """Write log lines to standard error: those of Thirdshift, or in one *form* those of everybody."""
    if form is not None:
        from thirdshift.runtime.lines import show_lines  # noqa: PLC0415  # --help must not wait for it

        show_lines(form, level)
        logging.getLogger("thirdshift").setLevel(level)
        _says_in_log.extend([True] if form == "json" else [])
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("thirdshift")
    root.addHandler(handler)
    root.setLevel(level)


def _say(text: str) -> None:
    """Print a line; the worker's threads and the main one do."""
    if _says_in_log:  # where every line is JSON
        _logger.log(logging.WARNING if text.startswith("warning") else logging.INFO, "%s", text)
        return
    with _saying, contextlib.suppress(OSError):  # a worker goes on when nobody reads what it says any more
        click.echo(text, err=True)


def _start_anew(folder: Path) -> NoReturn:
    """Run the same command again in this process, which keeps its id: only so do threads end that do not return.

    All locks are let go of by that, so that the tasks in those threads are rescued like those of a dead worker.
    """
    _flush()
    os.chdir(folder)  # a task may have gone elsewhere, and the command line may name paths from here
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # our own command line


def _leave(code: int) -> NoReturn:
    """End the process beside its threads."""
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
