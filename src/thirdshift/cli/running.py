"""What ``up`` and ``worker`` share: where tasks are imported from, and the manager that runs them."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thirdshift.config import BackgroundTaskConfig, find_file
from thirdshift.host.signals import dump_stacks_on_request

if TYPE_CHECKING:
    from thirdshift.manager import BackgroundTaskManager


def prepare(app_dir: Path) -> None:
    """Import tasks from *app_dir* first, here and in the children, and show all stacks at SIGUSR2."""
    sys.path.insert(0, str(app_dir.absolute()))
    dump_stacks_on_request()


def start_worker(
    settings: BackgroundTaskConfig, database: Path, *, workspace: Path, excluded_queues: Iterable[str], **others: Any
) -> "BackgroundTaskManager":
    """Return a manager that runs tasks as the workspace's *settings* say; *others* are its further arguments."""
    from thirdshift.manager import BackgroundTaskManager, begin  # noqa: PLC0415  # --help must not wait for it

    workers = others.pop("max_workers", None)
    sizes = settings.pools if workers is None else {**settings.pools, "thread": workers, "process": workers}
    manager = BackgroundTaskManager(
        settings.worker_type,
        pools={**sizes, **others.pop("pools", {})},
        database=database,
        excluded_queues=excluded_queues,
        shutdown_timeout_seconds=settings.shutdown_timeout_seconds,
        pruning=settings.pruning,
        monitoring=settings.monitoring,
        aliases=settings.aliases,
        unknown_after_hours=settings.unknown_after_hours,
        scheduler=settings.scheduler,
        start=False,
        **others,
    )
    begin(manager, settings, find_file(workspace))
    return manager
