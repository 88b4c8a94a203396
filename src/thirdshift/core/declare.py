"""``@task``: what a function says about itself, once, where it is written."""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from thirdshift.core.errors import UsageError
from thirdshift.core.outcome import check_wait
from thirdshift.core.retry import RetryPolicy
from thirdshift.core.task import PoolKind

if TYPE_CHECKING:
    from thirdshift.core.schedule import Schedule

P = ParamSpec("P")
R = TypeVar("R")

_ATTRIBUTE = "__thirdshift__"
_scheduled: list[Callable[..., Any]] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDeclaration:
    """Options that a function declares; ``None`` leaves the choice to the submitter or the manager."""

    name: str | None = None
    queue: str | None = None
    max_retries: int | None = None
    timeout_s: float | None = None
    pool: PoolKind | None = None
    stall_timeout_s: float | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    """Only these errors are worth another attempt; ``None``: all of them."""
    give_up_on: tuple[type[BaseException], ...] = ()
    """These never are."""
    backoff: RetryPolicy | None = None
    interrupt: bool = False
    detach_after_s: float | None = None
    limit_key: str | None = None
    schedule: "Schedule | None" = None

    def gives_up(self, error: BaseException) -> bool:
        """Return whether *error* makes further attempts pointless."""
        is_wanted = self.retry_on is None or isinstance(error, self.retry_on)
        return not is_wanted or isinstance(error, self.give_up_on)


@overload
def task(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    queue: str | None = None,
    max_retries: int | None = None,
    timeout: float | None = None,
    pool: Literal["thread", "process", "async"] | None = None,
    stall_timeout: float | None = None,
    retry_on: Collection[type[BaseException]] | None = None,
    give_up_on: Collection[type[BaseException]] = (),
    backoff: RetryPolicy | None = None,
    interrupt: bool = False,
    detach_after: float | None = None,
    limit_key: str | None = None,
    schedule: "Schedule | timedelta | str | None" = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    max_retries: int | None = None,
    timeout: float | None = None,
    pool: Literal["thread", "process", "async"] | None = None,
    stall_timeout: float | None = None,
    retry_on: Collection[type[BaseException]] | None = None,
    give_up_on: Collection[type[BaseException]] = (),
    backoff: RetryPolicy | None = None,
    interrupt: bool = False,
    detach_after: float | None = None,
    limit_key: str | None = None,
    schedule: "Schedule | timedelta | str | None" = None,
) -> Any:
    """Declare options of a task function. The function stays an ordinary callable. Timeouts are in seconds. ::

    @task(queue="mail", max_retries=5, timeout=30, pool="process")
    def send(to: str) -> None: ...

    ``stall_timeout`` ends an attempt that neither reports progress nor logs for so long. Of all tasks with one
    ``limit_key`` one runs at a time, or as many as ``manager.limit_key`` says.

    An error of a class in ``retry_on`` is worth another attempt and no other one is; one of a class in ``give_up_on``
    never is. Subclasses count. ``backoff`` is the wait in between, ``RetryPolicy(first_s=1.0, most_s=3600.0)`` unless
    said; ``Retry(after=…)`` overrides it. These hold where the function runs, also for tasks submitted earlier.

    A thread cannot be killed; two options say what is to become of one that has to end. ``interrupt``:
    ``TaskInterrupted`` is raised into the function, wherever its Python code is; make sure that it survives that.
    ``detach_after``: so many seconds after the limit the attempt is recorded as ended, and may be retried, while its
    function still runs; make sure that two of it do no harm. Where attempts are ended for real, ``UsageError``.

    ``schedule`` calls the function again and again, without arguments: a cron expression, a span, or a
    :class:`~thirdshift.Schedule`. Managers that run tasks store it when the function's module is imported, under the
    function's full name, ``module:function``.

    An ``async def`` function runs in the event loop without being told. Raises ``UsageError`` for any other ``pool``,
    and for what is no exception class.
    """
    declaration = TaskDeclaration(
        name=name,
        queue=queue,
        max_retries=max_retries,
        timeout_s=timeout,
        pool=None if pool is None else PoolKind(pool),
        stall_timeout_s=stall_timeout,
        retry_on=None if retry_on is None else _error_classes("retry_on", retry_on),
        give_up_on=_error_classes("give_up_on", give_up_on),
        backoff=_policy(backoff),
        interrupt=interrupt,
        detach_after_s=detach_after,
        limit_key=limit_key,
        schedule=None if schedule is None else _schedule_of(schedule),
    )
    if detach_after is not None:
        check_wait("detach_after", detach_after)

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        refuse_wrong_pool(function, declaration.pool)
        _refuse_where_attempts_end(function, declaration)
        if schedule is not None:
            _refuse_parameters(function)
            _scheduled.append(function)
        setattr(function, _ATTRIBUTE, declaration)
        return function

    return declare if function is None else declare(function)


def _error_classes(option: str, given: object) -> tuple[type[BaseException], ...]:
    classes = tuple(given) if isinstance(given, Collection) and not isinstance(given, str) else (given,)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise UsageError(f"{option} was given {each!r}, which is no exception class; write {option}=(ValueError,)")
    return classes


def _policy(given: RetryPolicy | None) -> RetryPolicy | None:
    if given is not None and not isinstance(given, RetryPolicy):
        raise UsageError(f"backoff was given {given!r}; write backoff=RetryPolicy(first_s=1.0, most_s=60.0)")
    return given


def scheduled_functions() -> Sequence[Callable[..., Any]]:
    """Return the functions of this process that declare a schedule, in the order of their definition."""
    return tuple(_scheduled)


def _schedule_of(given: "Schedule | timedelta | str") -> "Schedule":
    from thirdshift.core.schedule import Schedule  # noqa: PLC0415  # few functions need it

    if isinstance(given, Schedule):
        return given
    if isinstance(given, str):
        return Schedule(cron=given)
    if isinstance(given, timedelta):
        return Schedule(every=given)
    raise UsageError(f"schedule was given {given!r}; write schedule='0 3 * * *', a timedelta, or Schedule(…)")


def _refuse_parameters(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called without arguments."""
    try:
        inspect.signature(getattr(function, "__func__", function)).bind()
    except TypeError as error:
        raise UsageError(
            f"schedule: {function.__qualname__} is called without arguments ({error}). Give its parameters defaults, "
            "or use manager.schedules.add(…, args=…)."
        ) from error


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Return whether *function* is an ``async def`` one, also as a static or class method that has no class yet."""
    return inspect.iscoroutinefunction(getattr(function, "__func__", function))


def refuse_wrong_pool(function: Callable[..., Any], pool: PoolKind | None) -> None:
    """Raise ``UsageError`` when *function* cannot run in *pool*; ``None`` stands for no choice."""
    is_async = is_coroutine_function(function)
    if pool is None or is_async is (pool is PoolKind.ASYNC):
        return
    name = getattr(function, "__qualname__", repr(function))
    if is_async:
        raise UsageError(
            f"pool={pool.value!r}: {name} is an async function, which runs in the event loop. Leave out pool, or make "
            "it a plain function that calls asyncio.run."
        )
    raise UsageError(f"pool='async': {name} is a plain function. Define it by 'async def', or leave out pool.")


def _refuse_where_attempts_end(function: Callable[..., Any], declaration: TaskDeclaration) -> None:
    """Refuse what is for threads alone: elsewhere an attempt that has to end is ended."""
    is_async = is_coroutine_function(function)
    if not is_async and declaration.pool in (None, PoolKind.THREAD):
        return
    for option, is_given in (
        ("interrupt", declaration.interrupt),
        ("detach_after", declaration.detach_after_s is not None),
    ):
        if is_given:
            where = "the event loop" if is_async else "a child process"
            raise UsageError(
                f"{option}: {function.__qualname__} runs in {where}, where attempts are ended. Leave it out."
            )


def is_interruptible(function: Callable[..., Any]) -> bool:
    """Return whether *function* declares that an exception may be raised into it; threads ask before every call."""
    declaration = getattr(function, _ATTRIBUTE, None)
    return declaration is not None and isinstance(declaration, TaskDeclaration) and declaration.interrupt


def declaration_of(function: Callable[..., Any]) -> TaskDeclaration:
    """Return what *function* declared with :func:`task`, or an empty declaration."""
    found = getattr(function, _ATTRIBUTE, None)
    return found if isinstance(found, TaskDeclaration) else TaskDeclaration()
