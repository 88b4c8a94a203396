"""The configuration: one YAML file below the environment, decoded into the typed values that its owners declare."""

from thirdshift.config.checks import less_than, none_of, refuse
from thirdshift.config.describing import schema, template
from thirdshift.config.loading import (
    DATABASE_NAME,
    FILE_NAME,
    auto_load_config,
    database_of,
    find_file,
    find_workspace,
    load_config,
    load_section,
    load_settings,
    origins_of,
)
from thirdshift.config.sections import (
    WITHOUT_EFFECT,
    AlertRuleConfig,
    AsyncWorkerConfig,
    BackgroundTaskConfig,
    CeleryWorkerConfig,
    MonitoringConfig,
    ScheduleConfig,
    SchedulerConfig,
    ThreadedWorkerConfig,
)

__all__ = [
    "DATABASE_NAME",
    "FILE_NAME",
    "WITHOUT_EFFECT",
    "AlertRuleConfig",
    "AsyncWorkerConfig",
    "BackgroundTaskConfig",
    "CeleryWorkerConfig",
    "MonitoringConfig",
    "ScheduleConfig",
    "SchedulerConfig",
    "ThreadedWorkerConfig",
    "auto_load_config",
    "database_of",
    "find_file",
    "find_workspace",
    "less_than",
    "load_config",
    "load_section",
    "load_settings",
    "none_of",
    "origins_of",
    "refuse",
    "schema",
    "template",
]
