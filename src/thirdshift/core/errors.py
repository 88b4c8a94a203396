"""Every error a caller can meet, as one tree.

Each constructor takes facts and forms the message: what happened, to what, and what to do. ::

    ThirdshiftError
    ├── UsageError                 the call itself is wrong; nothing was written
    │   ├── NotImportable          the function cannot be found again by another process
    │   ├── NotSerialisable        an argument or a result is not data
    │   ├── PayloadTooLarge        an argument or a result is larger than the limit
    │   ├── NotSupported           this engine does not keep that promise (yet)
    │   ├── DependencyCycle        a task would wait for itself
    │   ├── WrongDatabase          a connection of the application is open on another file
    │   ├── UnsafePath             a name or a path leads out of the folder it must stay in
    │   └── FileNotQueued          no file of this name is where the call looks for it
    ├── QueueFull                  the queue holds as many tasks as it may
    ├── ChangeRefused              the task cannot be changed so now
    │   ├── UniqueConflict         another task holds the unique key
    │   ├── ParentsFailed          tasks that it waits for have failed or were cancelled
    │   └── StillNeeded            unfinished tasks wait for it
    ├── TaskNotFound               no task has this id
    │   └── ParentNotFound         of a task that a new one is to wait for
    ├── LostAttempt                the attempt is no longer this worker's, or its task is to be cancelled
    ├── TaskFailed                 the task ended without a result
    ├── WaitTimeout                the task was not finished in time; it goes on
    ├── StoreError                 the file that holds the tasks cannot be used
    │   ├── StoreBusy              somebody else holds the write lock
    │   ├── ReadSnapshot           the application's transaction has read already and may never write
    │   ├── StoreFull              the disk is full
    │   ├── StoreReadOnly          the file or its folder cannot be written
    │   ├── StoreDamaged           the file is not a sound database
    │   ├── StoreTooNew            a newer version wrote the file
    │   ├── StoreOnNetwork         the file lies on a network file system
    │   └── OutcomeUnknown         a commit failed so that nobody knows whether it is on disk
    ├── ConfigurationError         a configuration file or variable is wrong
    ├── AlreadyRunning             another process holds the instance lock
    ├── DiskTooFull                less space is free than the guard demands
    └── DamagedDirectory           a checkpoint or snapshot does not match its manifest

``TaskInterrupted`` stands beside the tree, as ``KeyboardInterrupt`` stands beside ``Exception``: it is raised into task
functions, not out of calls.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path


class ThirdshiftError(Exception):
    """Base of all errors that Thirdshift raises on purpose."""


class TaskInterrupted(BaseException):
    """Raised inside a task function that is declared by ``@task(interrupt=True)`` and has to end.

    Clean up and let it pass: the attempt ends as timed out or cancelled. It comes once.
    """


class UsageError(ThirdshiftError):
    """The call is wrong; nothing was written."""


class NotImportable(UsageError):
    """The function cannot be found again by name, so no worker could run it."""

    def __init__(self, what: str, why: str, instead: str) -> None:
        super().__init__(f"{what} cannot be a task function: {why}. {instead}")


class NotSerialisable(UsageError):
    """A value is not data that can be stored and read back."""

    def __init__(self, where: str, value: object, why: str = "") -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        reason = f" ({why})" if why else ""
        super().__init__(
            f"{where} is a {kind}, which cannot be stored{reason}. Use JSON-like data, datetime, date, timedelta, "
            "UUID, Decimal, Enum, Path, bytes, tuple, set, a dataclass, or a msgspec or pydantic model."
        )


class PayloadTooLarge(UsageError):
    """A value is larger than a task may carry."""

    def __init__(self, where: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{where} takes {size_bytes:,} bytes; the limit is {limit_bytes:,}. "
            "Store it in a file or table and pass its path or key."
        )


class NotSupported(UsageError):
    """This engine does not keep that promise."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what} is not supported here. {instead}")


class DependencyCycle(UsageError):
    """A task would wait for itself, and never run."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"task {task_id} would wait for itself, or for a task that waits for it; nothing was changed. "
            "Leave that task out of `after`."
        )
        self.task_id = task_id


class WrongDatabase(UsageError):
    """A connection of the application is open on another file than the tasks, so no transaction can hold both."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(
            f"the connection is open on {found or 'a database in memory'}, the tasks lie in {wanted}. "
            f"Keep the application's tables in {wanted}, and open the connection on that file."
        )


class UnsafePath(UsageError):
    """A name or a path leads out of the folder it must stay in."""

    def __init__(self, path: Path | str, why: str) -> None:
        super().__init__(f"{str(path)!r} is refused: {why}")
        self.path = path


class FileNotQueued(UsageError):
    """No file of this name is where the call looks for it."""

    def __init__(self, name: str, where: str) -> None:
        super().__init__(f"no file {name!r} is {where}; `thirdshift train status` shows what is queued")
        self.name = name


class QueueFull(ThirdshiftError):
    """The queue holds as many unfinished tasks as ``queue_size`` allows."""

    def __init__(self, queue_size: int, waited_s: float) -> None:
        waited = f" after waiting {waited_s:g} s" if waited_s else ""
        super().__init__(
            f"{queue_size} tasks are queued and queue_size is {queue_size}{waited}; nothing was submitted. "
            "Submit later, wait for room, or raise queue_size."
        )
        self.queue_size = queue_size


class ChangeRefused(ThirdshiftError):
    """The task cannot be changed so now; nothing was changed. ``task_id`` is the one that is in the way."""

    task_id: str


class UniqueConflict(ChangeRefused):
    """Another task holds the unique key; ``task_id`` is its id."""

    def __init__(self, key: str, task_id: str) -> None:
        super().__init__(
            f"the unique key {key!r} is held by task {task_id}; nothing was changed. The key is free when that task "
            "has finished, and the period is over for which it was submitted, if any."
        )
        self.key = key
        self.task_id = task_id


class ParentsFailed(ChangeRefused):
    """A task cannot run again because ``parents``, which it needs to complete, have failed or were cancelled."""

    def __init__(self, task_id: str, parents: Sequence[str]) -> None:
        super().__init__(
            f"task {task_id} cannot run: it needs {', '.join(parents)} to complete, which failed or was cancelled; "
            "nothing was changed. Retry that one: this one is opened again with it."
        )
        self.task_id = parents[0]
        self.parents = tuple(parents)


class StillNeeded(ChangeRefused):
    """A task cannot be deleted because unfinished ones wait for it, or may read its result."""

    def __init__(self, task_id: str, count: int, example: str) -> None:
        others = "1 unfinished task" if count == 1 else f"{count:,} unfinished tasks, such as"
        super().__init__(
            f"task {task_id} is needed by {others} {example}; nothing was deleted. Cancel those first, or let them end."
        )
        self.task_id = example


class TaskNotFound(ThirdshiftError):
    """No task has this id."""

    def __init__(self, task_id: str, role: str = "") -> None:
        named = f"{task_id!r}{f', {role}' if role else ''}"
        super().__init__(f"no task has the id {named}; it was never submitted here, or it was pruned")
        self.task_id = task_id


class ScheduleNotFound(ThirdshiftError):
    """There is no schedule with that name or id."""

    def __init__(self, which: str) -> None:
        super().__init__(f"there is no schedule {which!r}; `thirdshift schedules list` shows those there are")
        self.which = which


class ParentNotFound(TaskNotFound):
    """A task that a new one is to wait for is not there; nothing was submitted."""

    def __init__(self, task_ids: Sequence[str]) -> None:
        super().__init__(
            task_ids[0],
            f"which the new one is to wait for{'' if len(task_ids) == 1 else f', nor {len(task_ids) - 1:,} others'}; "
            "nothing was submitted. Submit a task before those that wait for it",
        )
        self.task_ids = tuple(task_ids)


class LostAttempt(ThirdshiftError):
    """The attempt may not record its end: nothing of the transaction was written."""

    def __init__(self, task_id: str, attempt: int, why: str) -> None:
        super().__init__(f"attempt {attempt} of task {task_id} cannot commit: {why}; nothing was written")
        self.task_id = task_id
        self.attempt = attempt


class TaskFailed(ThirdshiftError):
    """The task ended without a result: it failed for good or was cancelled.

    ``type``, ``message`` and ``traceback`` are what the last attempt recorded. The original exception class is
    never raised: it may not exist in this process.
    """

    def __init__(self, task_id: str, type: str, message: str, traceback: str | None) -> None:  # noqa: A002
        super().__init__(f"task {task_id}: {type}: {message}")
        self.task_id = task_id
        self.type = type
        self.message = message
        self.traceback = traceback


class StepNotStored(ThirdshiftError):
    """What a step returned could not be stored, so the next attempt does the step again."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the result of step {name!r} could not be stored: {why}")
        self.name = name
        self.why = why


class WaitTimeout(ThirdshiftError, TimeoutError):
    """The task was not finished in time. The task itself goes on."""

    def __init__(self, task_id: str, waited_s: float, status: str) -> None:
        super().__init__(
            f"task {task_id} is still {status} after {waited_s:g} s; it goes on, wait again for its result"
        )
        self.task_id = task_id


class StoreError(ThirdshiftError):
    """The file that holds the tasks cannot be used as asked."""


class StoreBusy(StoreError):
    """Somebody else holds the write lock of the file."""

    def __init__(self, path: str, waited_s: float, holder: str | None = None) -> None:
        who = (
            f"It is {holder}: keep such a block short."
            if holder
            else "Look for a program that holds a transaction open on it (a shell, a database browser, a backup) and "
            "end that transaction. If there is none, the disk takes so long for a commit of another process of ours."
        )
        super().__init__(f"{path} has been locked by another connection for {waited_s:g} s; nothing was written. {who}")


class ReadSnapshot(StoreError):
    """The application's transaction may have read already: it would see an old state, and never be let to write."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the connection to {path} is in a transaction that has written nothing: what it has read may be out of "
            "date, and SQLite may refuse its writes. Commit or roll back first, or begin it with BEGIN IMMEDIATE."
        )


class StoreFull(StoreError):
    """The disk is full."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the disk that holds {path} is full; nothing was written. Free some space and try again.")


class StoreReadOnly(StoreError):
    """The file or its folder cannot be written."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} cannot be written. The file and its folder must be writable by this user "
            "(ls -ld shows the permissions; a read-only mount refuses too)."
        )


class StoreDamaged(StoreError):
    """The file is not a sound database."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"{path} is not a sound Thirdshift database: {why}. It was left as it is. Move it and its -wal file aside "
            "together, and restore a backup or start with a new file."
        )


class StoreTooNew(StoreError):
    """A newer version of Thirdshift wrote the file."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has schema version {found}; this version of Thirdshift knows {known}. "
            "Upgrade Thirdshift, or use another database file."
        )


class StoreOnNetwork(StoreError):
    """The file lies on a network file system, where SQLite's locks cannot be trusted."""

    def __init__(self, path: str, file_system: str) -> None:
        self.path = path
        self.file_system = file_system
        """Its type, as the kernel calls it."""
        super().__init__(
            f"{path} lies on {file_system}, a network file system: locks there cannot be trusted and tasks would be "
            "lost. Put the database on a local disk."
        )


class OutcomeUnknown(StoreError):
    """A commit failed after its writes had begun, so nobody knows whether they are on disk."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"committing to {path} failed ({why}); whether the write is on disk is unknown. The engine has stopped. "
            "Check the disk, restart, and submit again with the same id: that never makes a second task."
        )


class ConfigurationError(ThirdshiftError):
    """One or more values of the configuration are wrong; all problems are listed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class AlreadyRunning(ThirdshiftError):
    """Another process holds the instance lock."""

    def __init__(self, what: str, lock_path: Path, pid: int | None) -> None:
        owner = f" (process {pid})" if pid else ""
        super().__init__(
            f"{what} is already running{owner}; it holds {lock_path}. Stop it first, or use another workspace."
        )
        self.pid = pid


class DiskTooFull(ThirdshiftError):
    """Less space is free than the guard demands."""

    def __init__(self, path: Path, free_gb: float, needed_gb: float) -> None:
        super().__init__(
            f"{free_gb:.2f} GB are free on the disk of {path}, {needed_gb:g} GB are demanded. Free some space, "
            "or lower disk.min_free_gb in the configuration."
        )


class DamagedDirectory(ThirdshiftError):
    """A checkpoint or snapshot does not match its manifest."""

    def __init__(self, directory: Path, problems: Iterable[str]) -> None:
        self.directory = directory
        self.problems = tuple(problems)
        super().__init__(f"{directory} is damaged: {'; '.join(self.problems)}")
