"""A file that could not be trained goes into the history, too, with its attempts and what they failed of."""

from dataclasses import asdict

from thirdshift.apps.training.records.attempts import AttemptLog
from thirdshift.apps.training.records.history import FAILED, History
from thirdshift.apps.training.workspace import TrainingWorkspace


def record_failure(workspace: TrainingWorkspace, name: str, key: str, cause: str) -> None:
    """Write the record of the file *name*, whose folder in ``work`` is *key* and is still there."""
    attempts = tuple(asdict(attempt) for attempt in AttemptLog(workspace.work / key).read())
    History(workspace.history).add(key, file=name, outcome=FAILED, causes=(cause,), attempts=attempts, result={})
