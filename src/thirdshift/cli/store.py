"""The workspace's store, opened for one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thirdshift.cli.output import Session
from thirdshift.config import load_settings

if TYPE_CHECKING:
    from thirdshift.manager import BackgroundTaskManager


@contextmanager
def opened(session: Session) -> Iterator["BackgroundTaskManager"]:
    """Open the workspace's store for questions, changes and submits; runs no tasks."""
    from thirdshift import BackgroundTaskManager  # noqa: PLC0415  # --help must not wait for it

    pruning = load_settings(session.workspace).pruning
    with BackgroundTaskManager(database=session.database, start=False, pruning=pruning) as manager:
        yield manager
