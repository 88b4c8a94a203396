"""Thirdshift: durable background work for Python. The public API; everything is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thirdshift.batch import Batch
    from thirdshift.config.loading import auto_load_config, load_config
    from thirdshift.config.sections import (
        AlertRuleConfig,
        BackgroundTaskConfig,
        CeleryWorkerConfig,
        MonitoringConfig,
        SchedulerConfig,
        ThreadedWorkerConfig,
    )
    from thirdshift.core.alerts import Alert
    from thirdshift.core.declare import task
    from thirdshift.core.dependency import Relative, Relatives
    from thirdshift.core.engine import FailureGroup, TaskFilter
    from thirdshift.core.errors import (
        AlreadyRunning,
        ChangeRefused,
        ConfigurationError,
        DependencyCycle,
        LostAttempt,
        NotImportable,
        NotSerialisable,
        NotSupported,
        OutcomeUnknown,
        ParentNotFound,
        ParentsFailed,
        PayloadTooLarge,
        QueueFull,
        ReadSnapshot,
        ScheduleNotFound,
        StepNotStored,
        StillNeeded,
        StoreBusy,
        StoreDamaged,
        StoreError,
        StoreFull,
        StoreOnNetwork,
        StoreReadOnly,
        StoreTooNew,
        TaskFailed,
        TaskInterrupted,
        TaskNotFound,
        ThirdshiftError,
        UniqueConflict,
        UsageError,
        WaitTimeout,
        WrongDatabase,
    )
    from thirdshift.core.figures import Execution
    from thirdshift.core.health import Finding, HealthLimits
    from thirdshift.core.limits import QueueLimits
    from thirdshift.core.outcome import Cancel, Retry, Snooze
    from thirdshift.core.pruning import PruningConfig
    from thirdshift.core.reason import Reason, ReasonCode
    from thirdshift.core.recycling import RecyclingConfig
    from thirdshift.core.retry import RetryPolicy
    from thirdshift.core.schedule import Missed, Overlap, Schedule
    from thirdshift.core.schedule_store import Fire, ScheduleState
    from thirdshift.core.search import Match, SearchState
    from thirdshift.core.status import TaskPriority, TaskStatus
    from thirdshift.core.task import Attempt, AttemptOutcome, BackgroundTask, Step, TaskError
    from thirdshift.handle import TaskHandle
    from thirdshift.integrations.executor import Executor
    from thirdshift.manager import (
        BackgroundTaskManager,
        get_task_manager,
        get_task_monitor,
        submit_background_task,
    )
    from thirdshift.monitor.task_monitor import TaskMonitor
    from thirdshift.runtime.context import TaskContext, current_task
    from thirdshift.runtime.lines import JsonLines, TextLines
    from thirdshift.scheduling import TaskScheduler
    from thirdshift.transaction import Transaction

__version__ = "0.1.0"

_HOME = {
    "Fire": "core.schedule_store",
    "Missed": "core.schedule",
    "Overlap": "core.schedule",
    "Schedule": "core.schedule",
    "ScheduleNotFound": "core.errors",
    "ScheduleState": "core.schedule_store",
    "TaskScheduler": "scheduling",
    "Batch": "batch",
    "ChangeRefused": "core.errors",
    "DependencyCycle": "core.errors",
    "ParentNotFound": "core.errors",
    "ParentsFailed": "core.errors",
    "StillNeeded": "core.errors",
    "Relative": "core.dependency",
    "Relatives": "core.dependency",
    "Match": "core.search",
    "SearchState": "core.search",
    "BackgroundTaskConfig": "config.sections",
    "CeleryWorkerConfig": "config.sections",
    "MonitoringConfig": "config.sections",
    "SchedulerConfig": "config.sections",
    "ThreadedWorkerConfig": "config.sections",
    "auto_load_config": "config.loading",
    "load_config": "config.loading",
    "AlreadyRunning": "core.errors",
    "Attempt": "core.task",
    "AttemptOutcome": "core.task",
    "BackgroundTask": "core.task",
    "BackgroundTaskManager": "manager",
    "Cancel": "core.outcome",
    "ConfigurationError": "core.errors",
    "Executor": "integrations.executor",
    "FailureGroup": "core.engine",
    "Finding": "core.health",
    "HealthLimits": "core.health",
    "LostAttempt": "core.errors",
    "NotImportable": "core.errors",
    "NotSerialisable": "core.errors",
    "NotSupported": "core.errors",
    "OutcomeUnknown": "core.errors",
    "PayloadTooLarge": "core.errors",
    "PruningConfig": "core.pruning",
    "RecyclingConfig": "core.recycling",
    "QueueFull": "core.errors",
    "QueueLimits": "core.limits",
    "ReadSnapshot": "core.errors",
    "Reason": "core.reason",
    "ReasonCode": "core.reason",
    "Retry": "core.outcome",
    "RetryPolicy": "core.retry",
    "Snooze": "core.outcome",
    "Step": "core.task",
    "StepNotStored": "core.errors",
    "StoreBusy": "core.errors",
    "StoreDamaged": "core.errors",
    "StoreError": "core.errors",
    "StoreFull": "core.errors",
    "StoreOnNetwork": "core.errors",
    "StoreReadOnly": "core.errors",
    "StoreTooNew": "core.errors",
    "TaskContext": "runtime.context",
    "TaskError": "core.task",
    "TaskFailed": "core.errors",
    "TaskFilter": "core.engine",
    "TaskHandle": "handle",
    "TaskInterrupted": "core.errors",
    "TaskMonitor": "monitor.task_monitor",
    "TaskNotFound": "core.errors",
    "TaskPriority": "core.status",
    "TaskStatus": "core.status",
    "ThirdshiftError": "core.errors",
    "UniqueConflict": "core.errors",
    "Transaction": "transaction",
    "UsageError": "core.errors",
    "WaitTimeout": "core.errors",
    "WrongDatabase": "core.errors",
    "current_task": "runtime.context",
    "get_task_manager": "manager",
    "get_task_monitor": "manager",
    "submit_background_task": "manager",
    "task": "core.declare",
    "Alert": "core.alerts",
    "AlertRuleConfig": "config.sections",
    "Execution": "core.figures",
    "JsonLines": "runtime.lines",
    "TextLines": "runtime.lines",
}

__all__ = [  # sorted, as a test checks; spelled out for tools that read names without importing
    "Alert",
    "AlertRuleConfig",
    "AlreadyRunning",
    "Attempt",
    "AttemptOutcome",
    "BackgroundTask",
    "BackgroundTaskConfig",
    "BackgroundTaskManager",
    "Batch",
    "Cancel",
    "CeleryWorkerConfig",
    "ChangeRefused",
    "ConfigurationError",
    "DependencyCycle",
    "Execution",
    "Executor",
    "FailureGroup",
    "Finding",
    "Fire",
    "HealthLimits",
    "JsonLines",
    "LostAttempt",
    "Match",
    "Missed",
    "MonitoringConfig",
    "NotImportable",
    "NotSerialisable",
    "NotSupported",
    "OutcomeUnknown",
    "Overlap",
    "ParentNotFound",
    "ParentsFailed",
    "PayloadTooLarge",
    "PruningConfig",
    "QueueFull",
    "QueueLimits",
    "ReadSnapshot",
    "Reason",
    "ReasonCode",
    "RecyclingConfig",
    "Relative",
    "Relatives",
    "Retry",
    "RetryPolicy",
    "Schedule",
    "ScheduleNotFound",
    "ScheduleState",
    "SchedulerConfig",
    "SearchState",
    "Snooze",
    "Step",
    "StepNotStored",
    "StillNeeded",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreOnNetwork",
    "StoreReadOnly",
    "StoreTooNew",
    "TaskContext",
    "TaskError",
    "TaskFailed",
    "TaskFilter",
    "TaskHandle",
    "TaskInterrupted",
    "TaskMonitor",
    "TaskNotFound",
    "TaskPriority",
    "TaskScheduler",
    "TaskStatus",
    "TextLines",
    "ThirdshiftError",
    "ThreadedWorkerConfig",
    "Transaction",
    "UniqueConflict",
    "UsageError",
    "WaitTimeout",
    "WrongDatabase",
    "auto_load_config",
    "current_task",
    "get_task_manager",
    "get_task_monitor",
    "load_config",
    "submit_background_task",
    "task",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
