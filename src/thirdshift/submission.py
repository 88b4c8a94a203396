"""From a call to the task that is stored: options, what the function declares, and defaults; checked before writing."""

import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from thirdshift.core import codec
from thirdshift.core.clock import Clock
from thirdshift.core.declare import declaration_of, is_coroutine_function, refuse_wrong_pool
from thirdshift.core.dependency import Dependency, Need
from thirdshift.core.errors import DependencyCycle, UsageError
from thirdshift.core.outcome import LONGEST_WAIT_S
from thirdshift.core.reference import bare_name, reference_of
from thirdshift.core.status import TaskPriority
from thirdshift.core.task import NewTask, OnConflict, PoolKind, TaskId, TaskSpec, UniqueKey

T = TypeVar("T")

DEFAULT_QUEUE = "default"
DEFAULT_RETRIES = 3
DURABILITIES = {"full": True, "relaxed": False}
_POOLS = {"thread": PoolKind.THREAD, "process": PoolKind.PROCESS, "async": PoolKind.ASYNC}
_ON_CONFLICT = {choice.value: choice for choice in OnConflict}
_KEY = "[^\0\ud800-\udfff]{1,200}"
_TASK_ID = "[0-9a-f]{32}"
_SHORTEST_TIMEOUT_S = 1e-6
_MOST_PRIORITY = 2**31

_mark = os.urandom(6).hex()
_numbers = itertools.count()

Call = tuple[Sequence[Any], Mapping[str, Any]]
"""Positional and keyword arguments of one call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitOptions:
    """What a submit may ask for besides the call itself; ``None`` means: as the function declares, or the default."""

    name: str | None = None
    """The name under which figures are kept; default: the function's bare ``__name__``."""
    queue: str | None = None
    """Default: ``default``."""
    priority: int | None = None
    """A :class:`TaskPriority` or any integer; a higher one starts first."""
    run_at: datetime | None = None
    """When the task is due; a naive moment is local time. Default: now."""
    max_retries: int | None = None
    """How often a failed attempt is repeated; default 3, so at most 4 attempts."""
    timeout: float | None = None
    """Seconds after which an attempt is ended; default: never."""
    stall_timeout: float | None = None
    """Seconds without a progress report or log record after which an attempt is ended; default: never."""
    tags: tuple[str, ...] = ()
    pool: str | None = None
    """``thread`` or ``process``; default: as ``worker_type`` says. An async function is always ``async``."""
    durability: str | None = None
    """``full`` or ``relaxed``; default: the manager's."""
    task_id: str | None = None
    """32 hexadecimal digits of your choice; submitting the same id again makes no second task."""
    wait: float | None = None
    """Seconds to wait for room when the queue is full; default: the manager's."""
    unique_key: str | None = None
    """A text of 1 to 200 characters that one unfinished task of the store may have; default: none."""
    unique_for: timedelta | float | None = None
    """How long from the submit the key is held in any case, in seconds; default: until the task has finished."""
    on_conflict: str = OnConflict.KEEP.value
    """``keep``, ``replace`` or ``error``: what a submit does whose key another task holds."""
    after: tuple[str, ...] = ()
    """Ids of tasks that have to complete first."""
    after_any_outcome: tuple[str, ...] = ()
    """Ids of tasks that have to end first, however."""
    limit_key: str | None = None
    """A text of 1 to 200 characters, of whose tasks one runs at a time; default: none."""


NO_OPTIONS = SubmitOptions()


class TaskMaker:
    """Makes the tasks of one manager; *queue*, *pool* and *durable* are its defaults. Any thread may use it."""

    def __init__(self, clock: Clock, *, queue: str, pool: PoolKind, durable: bool) -> None:
        self._clock = clock
        self._queue = queue
        self._pool = pool
        self._durable = durable
        self._specs: WeakKeyDictionary[Callable[..., Any], TaskSpec] = WeakKeyDictionary()

    def make(self, options: SubmitOptions, func: Callable[..., Any], calls: Sequence[Call]) -> list[NewTask]:
        """Return one task for each call of *func*. Raises ``UsageError`` when one cannot be stored."""
        spec = self._known_spec(func) if options is NO_OPTIONS else self._spec(options, func)
        encode = codec.encode_arguments
        if options.task_id is not None:
            return [_linked(TaskId(options.task_id), encode(args, kwargs), spec) for args, kwargs in calls]
        prefix = self._id_prefix()
        return [
            _linked(TaskId(f"{prefix}{next(_numbers) & 0xFFFFFFFF:08x}"), encode(args, kwargs), spec)
            for args, kwargs in calls
        ]

    def _id_prefix(self) -> str:
        """Return what new ids start with: the time in milliseconds and this process's random mark; a number follows.

        Ids made one after another sort in that order, so their index grows at its end.
        """
        return f"{int(self._clock.now().timestamp() * 1000):012x}{_mark}"

    def _known_spec(self, func: Callable[..., Any]) -> TaskSpec:
        """Return the spec of a submit without options; the same function is submitted again and again."""
        found = self._specs.get(func)
        if found is None:
            found = self._specs[func] = self._spec(NO_OPTIONS, func)
        return found

    def _spec(self, options: SubmitOptions, func: Callable[..., Any]) -> TaskSpec:
        """Return all about a task but its call: options, then what the function declares, then defaults."""
        declared = declaration_of(func)
        reference = reference_of(func)
        durability = options.durability
        spec = TaskSpec(
            name=options.name or declared.name or bare_name(reference),
            function=reference,
            queue=options.queue or declared.queue or self._queue,
            pool=_pool_of(options, declared.pool, func) or self._pool,
            priority=TaskPriority.NORMAL if options.priority is None else options.priority,
            run_at=None if options.run_at is None else options.run_at.astimezone(UTC),
            max_retries=_first(options.max_retries, _first(declared.max_retries, DEFAULT_RETRIES)),
            timeout_s=_first(options.timeout, declared.timeout_s),
            stall_timeout_s=_first(options.stall_timeout, declared.stall_timeout_s),
            tags=options.tags,
            durable=self._durable if durability is None else known("durability", durability, DURABILITIES),
            unique=_unique_of(options),
            after=_after_of(options),
            limit_key=_first(options.limit_key, declared.limit_key),
        )
        _check(spec)
        _check_id(options.task_id)
        return spec


def _linked(task_id: TaskId, arguments: bytes, spec: TaskSpec) -> NewTask:
    """Return the task; it waits for those whose results its arguments stand for."""
    results = codec.references(arguments)
    if not results:
        return NewTask(task_id, arguments, spec)
    known = {dependency.parent for dependency in spec.after}
    more = tuple(Dependency(parent) for parent in results if parent not in known)
    if task_id in results:
        raise DependencyCycle(task_id)
    return NewTask(task_id, arguments, replace(spec, after=spec.after + more) if more else spec)


def calls_of(args: Iterable[Sequence[Any]], kwargs: Iterable[Mapping[str, Any]] | None) -> list[Call]:
    """Pair positional with keyword arguments; raises ``UsageError`` when there are not as many of both."""
    positional = [tuple(arguments) for arguments in args]
    named: list[Mapping[str, Any]] = [{}] * len(positional) if kwargs is None else list(kwargs)
    if len(named) != len(positional):
        raise UsageError(f"{len(positional)} tuples of args but {len(named)} dicts of kwargs; give one dict for each")
    return list(zip(positional, named, strict=True))


def tags_of(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Return *tags* as they are stored; one text is refused, because its letters are hardly meant."""
    if isinstance(tags, str):
        raise UsageError(f"tags is the text {tags!r}; give a list of texts, such as [{tags!r}]")
    return tuple(tags or ())


def known(option: str, value: str, choices: Mapping[str, Any]) -> Any:
    """Return what *value* stands for among *choices*; raises ``UsageError`` naming them."""
    if value not in choices:
        raise UsageError(f"{option} is {value!r}; it may be {' or '.join(map(repr, choices))}")
    return choices[value]


def ids_of(option: str, tasks: Iterable[Any]) -> tuple[str, ...]:
    """Return the ids of *tasks*, each once: ids as they are, and what has an ``id``. Raises ``UsageError``."""
    if isinstance(tasks, str) or not isinstance(tasks, Iterable):
        raise UsageError(f"{option} is {tasks!r}; give a list of task ids or handles, such as [{tasks!r}]")
    ids = [each if isinstance(each, str) else getattr(each, "id", None) for each in tasks]
    for each in ids:
        if not isinstance(each, str) or not re.fullmatch(_TASK_ID, each):
            raise UsageError(f"{option} holds {each!r}; it takes ids of tasks and what submit returned")
    return tuple(dict.fromkeys(str(each) for each in ids))


def refuse_ambiguous(func: Callable[..., Any], given: Sequence[str]) -> None:
    """Refuse options of ``submit_task`` that *func* has as parameters: nobody could say who is meant."""
    if not given:
        return
    clashes = [option for option in given if option in inspect.signature(func).parameters]
    if clashes:
        names = ", ".join(clashes)
        raise UsageError(
            f"{names}: both an option of submit_task and a parameter of {func.__qualname__}. Use "
            f"options(...).submit(...): options to options, the function's own arguments to submit."
        )


def refuse_wait(**waits: float | None) -> None:
    """Refuse *waits* in seconds that nobody can wait; ``None`` stands for the default."""
    for option, wait_s in waits.items():
        if wait_s is not None and not 0 <= wait_s <= LONGEST_WAIT_S:
            raise UsageError(f"{option} is {wait_s}; it is in seconds, from 0 to {LONGEST_WAIT_S:.0f}")


def refuse_below_one(**numbers: int | None) -> None:
    """Refuse *numbers* that are less than 1; ``None`` stands for no limit."""
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{option} is {number}; it must be 1 or more")


def _pool_of(options: SubmitOptions, declared: PoolKind | None, func: Callable[..., Any]) -> PoolKind | None:
    kind = declared if options.pool is None else known("pool", options.pool, _POOLS)
    refuse_wrong_pool(func, kind)
    return PoolKind.ASYNC if is_coroutine_function(func) else kind


def _unique_of(options: SubmitOptions) -> UniqueKey | None:
    key, period = options.unique_key, options.unique_for
    if key is None:
        if period is not None or options.on_conflict != OnConflict.KEEP.value:
            raise UsageError("unique_for and on_conflict are about a unique_key; give one")
        return None
    on_conflict: OnConflict = known("on_conflict", options.on_conflict, _ON_CONFLICT)
    check_key("unique_key", key)
    period_s = period.total_seconds() if isinstance(period, timedelta) else period
    if period_s is not None and not _SHORTEST_TIMEOUT_S <= period_s <= LONGEST_WAIT_S:
        raise UsageError(f"unique_for is {period}; it is in seconds, more than 0 and at most {LONGEST_WAIT_S:.0f}")
    return UniqueKey(key=key, period_s=period_s, on_conflict=on_conflict)


def _after_of(options: SubmitOptions) -> tuple[Dependency, ...]:
    """Return what the options ask to wait for; where both are asked of a task, it has to complete."""
    needs = dict.fromkeys(options.after_any_outcome, Need.ANY) | dict.fromkeys(options.after, Need.SUCCESS)
    if options.task_id in needs:
        raise DependencyCycle(str(options.task_id))
    return tuple(Dependency(parent, need) for parent, need in needs.items())


def check_key(option: str, key: object) -> None:
    """Raise ``UsageError`` unless *key* can be one."""
    if not isinstance(key, str) or not re.fullmatch(_KEY, key):
        raise UsageError(f"{option} is {key!r}; it must be a text of 1 to 200 characters")


def _check(spec: TaskSpec) -> None:
    if spec.limit_key is not None:
        check_key("limit_key", spec.limit_key)
    if spec.max_retries < 0:
        raise UsageError(f"max_retries is {spec.max_retries}; it must be 0 or more")
    for option, limit_s in (("timeout", spec.timeout_s), ("stall_timeout", spec.stall_timeout_s)):
        if limit_s is not None and not _SHORTEST_TIMEOUT_S <= limit_s <= LONGEST_WAIT_S:
            raise UsageError(f"{option} is {limit_s}; it is in seconds, more than 0 and at most {LONGEST_WAIT_S:.0f}")
    if not isinstance(spec.priority, int) or abs(spec.priority) > _MOST_PRIORITY:
        raise UsageError(f"priority is {spec.priority!r}; it must be a TaskPriority or a whole number of 32 bits")


def _check_id(task_id: str | None) -> None:
    if task_id is not None and not re.fullmatch(_TASK_ID, task_id):
        raise UsageError(f"task_id is {task_id!r}; it must be 32 lower-case hexadecimal digits")


def _first(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _renew_mark() -> None:
    """A forked child counts on from where its parent was, so it needs a mark of its own."""
    global _mark  # noqa: PLW0603  # one for the process
    _mark = os.urandom(6).hex()


os.register_at_fork(after_in_child=_renew_mark)
