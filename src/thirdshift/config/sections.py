"""The typed values of the configuration, each with its default and its meaning."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from thirdshift.config.checks import less_than, refuse, suggestion
from thirdshift.core.alerts import AlertKind, AlertRule
from thirdshift.core.errors import UsageError
from thirdshift.core.pruning import PruningConfig
from thirdshift.core.recycling import RecyclingConfig
from thirdshift.core.schedule import Missed, Overlap, Schedule

_FUNCTION = re.compile(r"[\w.]+:[\w.]+")
_WORKER_TYPES = ("threaded", "process", "async", "celery")
_WEB = ("http://", "https://")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, kw_only=True)
class ThreadedWorkerConfig:
    """The worker of :func:`thirdshift.get_task_manager`."""

    max_workers: int = 4
    """Tasks that run at once in threads, and as many in child processes."""

    queue_size: int | None = None
    """Most tasks that may wait to run; ``null``: no limit."""

    queue_wait_seconds: float = 0.0
    """How long a submit to a full queue waits for room before it fails."""

    def __post_init__(self) -> None:
        for name, value in (("max_workers", self.max_workers), ("queue_size", self.queue_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        refuse(less_than(0, queue_wait_seconds=self.queue_wait_seconds))


@dataclass(frozen=True, kw_only=True)
class AsyncWorkerConfig:
    """The event loop of the same worker."""

    max_workers: int = 100
    """Coroutines that run at once."""

    def __post_init__(self) -> None:
        refuse(less_than(1, max_workers=self.max_workers))


@dataclass(frozen=True, kw_only=True)
class CeleryWorkerConfig:
    """The distributed worker. Read and checked; without effect yet, ``worker_type: celery`` is refused."""

    broker_url: str = "redis://localhost:6379/0"
    """Where Celery's messages go."""

    result_backend: str | None = None
    """Where Celery's results go; ``null``: to the broker."""

    default_queue: str = "omni_dev"
    """The queue of tasks that name none."""

    priority_queue: str = "priority"
    """The queue of urgent tasks."""

    def __post_init__(self) -> None:
        if self.result_backend is None:  # frozen, so set as the generated constructor does
            object.__setattr__(self, "result_backend", self.broker_url)


@dataclass(frozen=True, kw_only=True)
class AlertRuleConfig:
    """One kind of alert, where it is not to be as usual. ``null``: as usual."""

    enabled: bool = True
    """Whether such alerts are raised."""

    threshold: float | None = None
    """The value that is too much; of ``disk_free``: too little, in bytes."""

    window_seconds: float | None = None
    """How far back rates, averages and deaths of workers are looked at; usually 600, at most 28800."""

    hold_seconds: float | None = None
    """How long the trouble must last before the alert is raised; usually 0."""

    quiet_seconds: float | None = None
    """How long it must be gone before the alert is over; usually 60."""

    def __post_init__(self) -> None:
        spans = ("window_seconds", "hold_seconds", "quiet_seconds")
        given = {name: value for name in spans if (value := getattr(self, name)) is not None}
        long = [f"{name} is {value:g}; it must be 28800 or less" for name, value in given.items() if value > 28_800]
        refuse(less_than(0, **given), long)


@dataclass(frozen=True, kw_only=True)
class MonitoringConfig:
    """What is watched."""

    enabled: bool = True
    """Whether the monitor runs."""

    max_history_size: int = 1000
    """Most executions of each name that are kept in detail."""

    search_enabled: bool = True
    """Whether the words of tasks are indexed, for `thirdshift tasks search`."""

    alert_enabled: bool = True
    """Whether alerts are raised."""

    error_rate_threshold: float = 0.1
    """The share of failed executions that raises an alert, 0 to 1."""

    avg_execution_time_threshold: float = 300.0
    """The average run time that raises an alert, in seconds."""

    alert_rules: Mapping[str, AlertRuleConfig] = field(default_factory=dict)
    """By kind: ``error_rate``, ``avg_execution_time``, ``queue_latency``, ``late_schedule``,
    ``lost_worker``, ``disk_free``, ``stuck_progress``."""

    alert_webhook_url: str | None = None
    """Where alerts are posted as JSON."""

    export_enabled: bool = False
    """Whether executions are written to a file from time to time, and then no longer kept in the database."""

    export_path: str | None = None
    """That file, a JSON object a line, relative to the database's folder; ``null``: ``thirdshift-executions.jsonl``."""

    export_interval_seconds: float = 1800.0
    """How often it is written."""

    def __post_init__(self) -> None:
        rate = self.error_rate_threshold
        url = self.alert_webhook_url
        kinds = [kind.value for kind in AlertKind]
        refuse(
            less_than(1, max_history_size=self.max_history_size),
            [] if 0 <= rate <= 1 else [f"error_rate_threshold is {rate:g}; it must be 0 to 1"],
            less_than(0, avg_execution_time_threshold=self.avg_execution_time_threshold),
            less_than(0, export_interval_seconds=self.export_interval_seconds),
            [f"there is no alert rule {each}{suggestion(each, kinds)}" for each in self.alert_rules.keys() - kinds],
            [] if url is None or url.startswith(_WEB) else ["alert_webhook_url must begin with http:// or https://"],
        )

    @property
    def rules(self) -> tuple[AlertRule, ...]:
        """The rules that are on."""
        if not self.alert_enabled:
            return ()
        return tuple(self._rule(kind) for kind in AlertKind if self._given(kind).enabled)

    def _given(self, kind: AlertKind) -> AlertRuleConfig:
        return self.alert_rules.get(kind.value, AlertRuleConfig())

    def _rule(self, kind: AlertKind) -> AlertRule:
        given = self._given(kind)
        usual = AlertRule(kind=kind, threshold=self._threshold(kind))
        return AlertRule(
            kind=kind,
            threshold=usual.threshold if given.threshold is None else given.threshold,
            window_s=usual.window_s if given.window_seconds is None else given.window_seconds,
            hold_s=usual.hold_s if given.hold_seconds is None else given.hold_seconds,
            quiet_s=usual.quiet_s if given.quiet_seconds is None else given.quiet_seconds,
        )

    def _threshold(self, kind: AlertKind) -> float | None:
        of_old = {
            AlertKind.ERROR_RATE: self.error_rate_threshold,
            AlertKind.AVG_EXECUTION_TIME: self.avg_execution_time_threshold,
        }
        return of_old.get(kind)


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Who makes the tasks of schedules: every process that runs tasks, unless it is switched off there."""

    enabled: bool = True
    """Whether this process makes them, and stores the schedules of this file."""

    check_interval_seconds: float = 1.0
    """The longest sleep of the scheduler; it sleeps to the next fire time, and is woken by changes."""

    modules: tuple[str, ...] = ()
    """Modules that are imported at the start, so that what functions declare by ``@task(schedule=…)`` is stored."""

    def __post_init__(self) -> None:
        refuse(less_than(0.01, check_interval_seconds=self.check_interval_seconds))


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """One schedule: a function, and one of ``cron``, ``every_seconds`` and ``at``."""

    function: str = ""
    """``module:function``."""

    arguments: tuple[Any, ...] = ()
    """Its positional arguments."""

    keywords: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments by name."""

    cron: str | None = None
    """Five fields, or ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``."""

    timezone: str = "UTC"
    """The zone whose clocks ``cron`` reads."""

    every_seconds: float | None = None
    """An interval of real time."""

    at: str | None = None
    """Once, at a moment in quotes: ``"2030-01-31 03:00"``, local time unless it names an offset."""

    missed: str = field(default="run_once", metadata={"choices": tuple(each.value for each in Missed)})
    """What becomes of fire times that passed while nothing ran: ``run_once``, ``skip`` or ``all``."""

    max_missed: int = 100
    """With ``all``: so many of the newest."""

    overlap: str = field(default="skip", metadata={"choices": tuple(each.value for each in Overlap)})
    """What becomes of a fire time while a task of it is unfinished: ``skip``, ``queue`` or ``cancel_previous``."""

    jitter_seconds: float = 0.0
    """Each task becomes due up to so much later."""

    queue: str | None = None
    """The queue of its tasks; ``null``: as the function declares."""

    def __post_init__(self) -> None:
        problems = (
            [] if _FUNCTION.fullmatch(self.function) else [f"function is {self.function!r}; write module:function"]
        )
        # Each alone, so that no mistake hides another.
        parts: list[dict[str, Any]] = [{"cron": self.cron, "every": self.every_seconds, "at": self.at}]
        parts += [{"every": _ANY_SPAN_S, name: getattr(self, name)} for name in _OPTIONS]
        parts.append({"every": _ANY_SPAN_S, "jitter": self.jitter_seconds})
        for part in parts:
            try:
                _schedule_of(**part)
            except (UsageError, ValueError) as error:  # also a moment that is none
                problems.append(str(error))
        refuse(problems)

    @property
    def schedule(self) -> Schedule:
        """Its rule."""
        return _schedule_of(
            cron=self.cron,
            every=self.every_seconds,
            at=self.at,
            timezone=self.timezone,
            missed=self.missed,
            max_missed=self.max_missed,
            overlap=self.overlap,
            jitter=self.jitter_seconds,
        )


_ANY_SPAN_S = 60.0
_OPTIONS = ("timezone", "missed", "max_missed", "overlap")


def _schedule_of(*, at: str | None = None, **parts: Any) -> Schedule:
    return Schedule(at=None if at is None else datetime.fromisoformat(at), **parts)


WITHOUT_EFFECT = ("celery_worker",)
"""Sections whose feature does not exist yet; ``thirdshift config show`` says so."""


@dataclass(frozen=True, kw_only=True)
class BackgroundTaskConfig:
    """The top level of the configuration file; applications own further sections."""

    worker_type: str = field(default="threaded", metadata={"choices": _WORKER_TYPES})
    """``threaded`` or ``process``: where functions run that declare no pool. ``async``: in threads."""

    database: str | None = None
    """The database file, relative to the workspace; ``null``: ``thirdshift.db``."""

    threaded_worker: ThreadedWorkerConfig = field(default_factory=ThreadedWorkerConfig)
    """The worker's size."""

    async_worker: AsyncWorkerConfig = field(default_factory=AsyncWorkerConfig)
    """The size of its event loop."""

    celery_worker: CeleryWorkerConfig = field(default_factory=CeleryWorkerConfig)
    """The distributed worker; without effect yet."""

    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    """What is watched."""

    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    """Who makes the tasks of schedules."""

    schedules: Mapping[str, ScheduleConfig] = field(default_factory=dict)
    """Schedules by name; one that is taken out of the file ends at the next start of a worker."""

    pruning: PruningConfig = field(default_factory=PruningConfig)
    """How long finished tasks are kept."""

    recycling: RecyclingConfig = field(default_factory=RecyclingConfig)
    """When child processes are replaced by fresh ones."""

    aliases: Mapping[str, str] = field(default_factory=dict)
    """Functions and classes that were moved or renamed: ``old.module:send: new.module:send``."""

    unknown_after_hours: float = 24.0
    """A task fails when no worker could find its function for so long."""

    log_level: str = field(default="INFO", metadata={"choices": _LOG_LEVELS})
    """DEBUG, INFO, WARNING or ERROR."""

    shutdown_timeout_seconds: float = 30.0
    """How long a stop waits for the work in hand."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("worker_type", self.worker_type, _WORKER_TYPES),
            ("log_level", self.log_level, _LOG_LEVELS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it may be {', '.join(allowed)}{suggestion(value, [*allowed])}")
        if not 0 <= self.shutdown_timeout_seconds < math.inf:
            raise ValueError(f"shutdown_timeout_seconds is {self.shutdown_timeout_seconds}; it must be 0 or more")
        refuse(less_than(0, unknown_after_hours=self.unknown_after_hours))

    @property
    def pools(self) -> Mapping[str, int]:
        """How many tasks run at once in each pool, as the manager's argument ``pools``."""
        workers = self.threaded_worker.max_workers
        return {"thread": workers, "process": workers, "async": self.async_worker.max_workers}

    def to_dict(self) -> dict[str, Any]:
        """Return all values as plain dictionaries; secrets are in them as they are."""
        return asdict(self)
