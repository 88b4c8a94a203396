"""``TaskMonitor``: what applications ask about their tasks. All figures come from the store, so any process may ask."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from thirdshift.core.alerts import Alert
from thirdshift.core.clock import Clock
from thirdshift.core.engine import WorkerEngine
from thirdshift.core.errors import UsageError
from thirdshift.core.figures import Bucket, Execution, Figures, Span, total
from thirdshift.core.plain import plain
from thirdshift.core.task import AttemptOutcome
from thirdshift.monitor import exports, prometheus
from thirdshift.monitor.alerts import AlertCallback, AlertListeners

_PERCENTILES = (50, 95, 99)
_FORMATS = ("json", "csv", "prometheus")


class Metrics(dict[str, Any]):
    """A dictionary whose values may be asked for as attributes too: ``metrics.success_rate``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no figure {name!r}; there are {', '.join(self)}") from None


class TaskMonitor:
    """Figures of one store. Rates are shares of 1, times are in seconds; ``None`` is what nobody could measure.

    An execution is an attempt that completed, failed or ran too long; attempts that were cancelled, interrupted, or
    asked to be run later are counted apart. Percentiles are at most 3.2 % off. All methods may be called from any
    thread, and raise ``StoreError``.
    """

    def __init__(self, engine: WorkerEngine, clock: Clock, *, history: int = 1000) -> None:
        self._engine = engine
        self._listeners = AlertListeners(engine)
        self._clock = clock
        self._history = history

    def get_task_metrics(self, task_name: str | None = None) -> Metrics:
        """Return the figures of the tasks of that name since counting began; without a name, those of each by name.

        A task's name is ``name=``, else the function's ``__name__``.
        """
        buckets = self._engine.buckets(Span.EVER, name=task_name)
        if task_name is not None:
            return _metrics(total(buckets))
        return _by(buckets, lambda bucket: bucket.name)

    def get_recent_executions(self, task_name: str, limit: int | None = None) -> list[Execution]:
        """Return the newest executions of that name in detail, the newest first: at most ``max_history_size``."""
        return list(self._engine.executions(task_name, self._history if limit is None else limit))

    def get_system_metrics(self) -> Metrics:
        """Return what stands in the queues and what the workers do at this moment.

        The latency of a queue is the age of its oldest task that could start; 0 where none waits.
        """
        now = self._clock.now()
        loads = self._engine.loads()
        workers = [worker for worker in self._engine.workers() if worker.is_alive]
        slots, busy = sum(worker.slots for worker in workers), sum(worker.busy for worker in workers)
        queues = {
            load.queue: Metrics(
                waiting=load.waiting,
                later=load.later,
                running=load.running,
                latency=0.0 if load.oldest_due_at is None else max(0.0, (now - load.oldest_due_at).total_seconds()),
                is_paused=load.is_paused,
            )
            for load in loads
        }
        return Metrics(
            tasks_in_queue=sum(load.waiting + load.later for load in loads),
            active_tasks=sum(load.running for load in loads),
            worker_utilization=busy / slots if slots else None,
            workers=len(workers),
            slots=slots,
            busy_slots=busy,
            queue_latency=max((queue.latency for queue in queues.values()), default=0.0),
            queues=Metrics(queues),
        )

    def get_performance_summary(self, period: timedelta = timedelta(hours=1)) -> Metrics:
        """Return what ended in the last *period*, together and by name, queue and worker.

        ``total_tasks`` counts executions, each attempt of a task for itself. Time is told apart by minutes for periods
        of up to 8 hours, by hours beyond that: then workers are not told apart. 90 days are kept.
        """
        if period <= timedelta(0):
            raise UsageError(f"the period is {period}; it must be longer than nothing")
        buckets = self._since(period)
        figures = total(buckets)
        has_workers = all(bucket.worker is not None for bucket in buckets)
        return Metrics(
            period=period.total_seconds(),
            total_tasks=figures.executions,
            successful_tasks=figures.successes,
            failed_tasks=figures.failures,
            tasks_per_second=figures.executions / period.total_seconds(),
            **_metrics(figures),
            by_name=_by(buckets, lambda bucket: bucket.name),
            by_queue=_by(buckets, lambda bucket: bucket.queue),
            by_worker=_by(buckets, lambda bucket: str(bucket.worker)) if has_workers else None,
        )

    def get_task_trends(self, task_name: str | None = None, hours: float = 24) -> Metrics:
        """Return how the figures of the last *hours* went: lists of equal length, one place for each stretch of time.

        ``times`` says when the stretches begin: minutes for up to 8 hours, else hours. Those in which nothing ended are
        left out.
        """
        if hours <= 0:
            raise UsageError(f"hours is {hours:g}; it must be more than 0")
        buckets = self._since(timedelta(hours=hours), task_name)
        stretches: dict[Any, Figures] = {}
        for bucket in buckets:
            stretches[bucket.started_at] = stretches.get(bucket.started_at, Figures()) + bucket.figures
        points = list(stretches.values())
        return Metrics(
            task_name=task_name,
            hours=hours,
            times=list(stretches),
            executions=[figures.executions for figures in points],
            success_rate=[_success_rate(figures) for figures in points],
            avg_execution_time=[figures.average_run_s for figures in points],
            p95_execution_time=[figures.run_times.percentile_s(95) for figures in points],
            avg_queue_time=[figures.average_queue_s for figures in points],
        )

    def export_metrics(self, format: str = "json") -> str:  # noqa: A002  # a promised name
        """Return all figures as text: ``json``, ``csv`` (a line for each name and queue), or ``prometheus``."""
        if format == "json":
            return exports.as_json(self.describe())
        if format == "csv":
            return exports.as_csv(self._engine.buckets(Span.EVER), _metrics)
        if format == "prometheus":
            return prometheus.render(self._engine, self._clock.now())
        raise UsageError(f"there is no format {format!r}; there are {', '.join(_FORMATS)}")

    def add_alert_callback(self, callback: AlertCallback) -> None:
        """Call ``callback(alert_type, alert_data)`` when an alert fires, and when it clears.

        ``alert_data["message"]`` says what the trouble is, ``alert_data["state"]`` is ``fired`` or ``cleared``. It is
        told of what happens from now on in the whole store, once each, while the manager of this process runs tasks;
        on the monitor's thread.
        """
        self._listeners.add(callback)

    def get_alerts(self, past: int = 0) -> list[Alert]:
        """Return the active alerts, oldest first, and after them so many past ones, newest first."""
        return list(self._engine.alerts(past))

    def tell_alerts(self) -> None:
        """Tell the callbacks what they have not heard yet; for the manager."""
        self._listeners.tell()

    def describe(self) -> dict[str, Any]:
        """Return what :meth:`export_metrics` writes as JSON, as plain data."""
        found: dict[str, Any] = plain(
            {
                "at": self._clock.now(),
                "system": self.get_system_metrics(),
                "tasks": self.get_task_metrics(),
                "last_hour": self.get_performance_summary(timedelta(hours=1)),
            }
        )
        return found

    def _since(self, period: timedelta, name: str | None = None) -> list[Bucket]:
        span = Span.MINUTE if period.total_seconds() <= (Span.MINUTE.kept_s or 0) else Span.HOUR
        since = self._clock.now() - period
        since -= timedelta(seconds=since.timestamp() % span.value)
        return list(self._engine.buckets(span, since, name))


def _by(buckets: Iterable[Bucket], key: Callable[[Bucket], str]) -> Metrics:
    found: dict[str, Figures] = {}
    for bucket in buckets:
        found[key(bucket)] = found.get(key(bucket), Figures()) + bucket.figures
    return Metrics({name: _metrics(found[name]) for name in sorted(found)})


def _metrics(figures: Figures) -> Metrics:
    return Metrics(
        total_executions=figures.executions,
        successful_executions=figures.successes,
        failed_executions=figures.failures,
        timed_out=figures.count(AttemptOutcome.TIMED_OUT),
        given_up=figures.given_up,
        cancelled=figures.count(AttemptOutcome.CANCELLED),
        interrupted=figures.count(AttemptOutcome.INTERRUPTED),
        snoozed=figures.count(AttemptOutcome.SNOOZED),
        success_rate=_success_rate(figures),
        error_rate=figures.error_rate,
        avg_execution_time=figures.average_run_s,
        max_execution_time=figures.longest_us / 1e6 if figures.run_times.total else None,
        execution_time=_percentiles(figures.run_times.percentile_s),
        avg_queue_time=figures.average_queue_s,
        queue_time=_percentiles(figures.queue_times.percentile_s),
    )


def _percentiles(percentile_s: Callable[[float], float | None]) -> Mapping[str, float | None]:
    return Metrics({f"p{percent}": percentile_s(percent) for percent in _PERCENTILES})


def _success_rate(figures: Figures) -> float | None:
    return figures.successes / figures.executions if figures.executions else None
