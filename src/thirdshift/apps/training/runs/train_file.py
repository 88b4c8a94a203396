"""Training one file, start to end, from any process: torch is loaded when the work begins and not before."""

from collections.abc import Callable

from thirdshift.apps.training.job import FileResult, OutOfMemory, Progress, TrainingJob
from thirdshift.apps.training.runs.fresh_process import train_in_fresh_process

__all__ = ["FileResult", "OutOfMemory", "Progress", "TrainingJob", "train_file", "train_here"]


def train_file(
    job: TrainingJob,
    *,
    report: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FileResult:
    """Plan, examine, train, examine again and publish *job*; ``finished`` is false when *should_stop* cut it short.

    Call it again with the same job after a stop, a crash or a success: it goes on where it was, exactly, and a
    finished job is not trained twice. When memory does not suffice it goes on in a fresh process, with half as many
    rows at once. Raises ``BadLine`` when a line of the file cannot be trained, and
    ``Skipped`` when a person gave it up before it was published.
    """
    try:
        return train_here(job, report=report, should_stop=should_stop)
    except OutOfMemory:
        pass  # here, not in the handler, the traceback is gone and with it the model
    while (result := train_in_fresh_process(job, report=report, should_stop=should_stop)) is None:
        report(Progress(phase="training"))
    return result


def train_here(job: TrainingJob, *, report: Callable[[Progress], None], should_stop: Callable[[], bool]) -> FileResult:
    """Do the work of :func:`train_file` in this process; raises ``OutOfMemory`` when a fresh one is to go on."""
    from thirdshift.apps.training.runs.file_training import run  # noqa: PLC0415 - torch takes seconds and 400 MB

    return run(job, report, should_stop)
