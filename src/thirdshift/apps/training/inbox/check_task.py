"""The look at one file that was dropped, as a durable task in a child process."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

from thirdshift import Snooze, current_task, task
from thirdshift.apps.training.config import DaemonConfig, Level, config_of
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.scheduling import idle_priority
from thirdshift.host.writers import is_open_for_writing

if TYPE_CHECKING:
    from thirdshift.apps.training.models.measure import Measure

INTAKE_QUEUE = "intake"
WRITER_PAUSE_S = 1.0
"""Seconds after which a file that somebody still writes to is looked at again."""


class _Stopping(Exception):
    """The worker is asked to stop."""


@task(queue=INTAKE_QUEUE, pool="process", max_retries=2)
def check_file(base_dir: str, name: str, level: str) -> dict[str, Any] | Snooze:
    """Look at the file *name* in ``queue/checking``; returns what was found, and changes nothing.

    A file that somebody still writes to is looked at again, however often that takes.
    """
    from thirdshift.apps.training.inbox.validation import FileChanged, validate  # noqa: PLC0415  # the daemon needs none of it

    context = current_task()
    workspace = TrainingWorkspace(base_dir)
    config = config_of(workspace)
    path = workspace.checking / name
    size_bytes = path.lstat().st_size

    def look(done_bytes: int) -> None:
        context.progress(done_bytes, size_bytes)
        if context.should_stop:
            raise _Stopping

    with idle_priority() if level == "deep" else nullcontext():
        measure = None if level == "quick" else _measure(workspace, config)
        try:
            if path.is_file() and not path.is_symlink() and is_open_for_writing(path):
                return Snooze(WRITER_PAUSE_S)
            report = validate(
                path,
                cast(Level, level) if measure else "quick",
                measure=measure,
                size_limit_bytes=int(config.validation.max_file_gb * 10**9),
                scratch=workspace.work,
                look=look,
            )
        except FileChanged:
            return Snooze(WRITER_PAUSE_S)
        except _Stopping:
            return Snooze()
    return report.to_dict()


def _measure(workspace: TrainingWorkspace, config: DaemonConfig) -> "Measure | None":
    """Return the measure of the model; ``None`` when it cannot be had: that is no fault of the file, and told later."""
    from thirdshift.apps.training.models.measure import measure_of  # noqa: PLC0415

    try:
        return measure_of(workspace, config)
    except Exception as error:  # noqa: BLE001  # a model may be broken in every way
        current_task().log.warning("lengths are not measured: %s: %s", type(error).__name__, error)
        return None
