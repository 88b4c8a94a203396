"""Training one file, start to end, from any process: torch is loaded when the work begins and not before."""

import os
from collections.abc import Callable

from thirdshift.apps.training.job import FileResult, Progress, TrainingJob

__all__ = ["FileResult", "Progress", "TrainingJob", "train_file"]


def train_file(
    job: TrainingJob,
    *,
    report: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FileResult:
    """Plan, examine, train, examine again and publish *job*; ``finished`` is false when *should_stop* cut it short.

    Call it again with the same job after a stop, a crash or a success: it goes on where it was, exactly, and a
    finished job is not trained twice. Raises ``BadLine`` when a line of the file cannot be trained.
    """
    share_processors()
    from thirdshift.apps.training.file_training import run  # noqa: PLC0415 - torch takes seconds and 400 MB

    return run(job, report, should_stop)


def share_processors() -> None:
    """Let torch's threads sleep while they wait for each other, instead of spinning; call it before torch is imported.

    Spinning gains little on an idle machine and ruins a busy one: the spinner takes the processor from the thread that
    it waits for (a step of the tiny model: 958 ms spinning, 201 ms sleeping, on 2 busy cores; benchmarks/LOG.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
