"""What a task waits for: other tasks, and what has to become of them."""

from enum import Enum
from typing import NamedTuple

from thirdshift.core.status import TaskStatus


class Need(Enum):
    """What has to become of a task so that one that waits for it may run."""

    SUCCESS = "success"
    """It completes. When it fails for good, or is cancelled, whoever waits for it is cancelled too."""
    ANY = "any"
    """It ends, however."""


class DependencyState(Enum):
    """How far one dependency is."""

    OPEN = "open"
    """The task that is waited for has not finished."""
    MET = "met"
    FAILED = "failed"
    """It has finished in another way than was needed."""


class Dependency(NamedTuple):
    """A new task waits for the task with the id *parent*."""

    parent: str
    need: Need = Need.SUCCESS


class ResultOf(NamedTuple):
    """Stands among the arguments of a task for what another one returns; made by :attr:`TaskHandle.output`."""

    task_id: str


class Relative(NamedTuple):
    """A task that another one waits for, or that waits for it."""

    id: str
    name: str
    status: TaskStatus
    need: Need
    state: DependencyState


class Relatives(NamedTuple):
    """What a task waits for, and what waits for it: of each the first thousand, in the order of their submission."""

    parents: tuple[Relative, ...] = ()
    dependants: tuple[Relative, ...] = ()
