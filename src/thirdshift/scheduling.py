"""``TaskScheduler``: the schedules of one store, from a call to what is stored."""

import hashlib
import importlib
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from thirdshift.config import ScheduleConfig
from thirdshift.core.clock import Clock
from thirdshift.core.declare import declaration_of, scheduled_functions
from thirdshift.core.engine import Engine
from thirdshift.core.errors import ConfigurationError, ScheduleNotFound, UsageError
from thirdshift.core.reason import Reason, ReasonCode
from thirdshift.core.reference import reference_of, resolve
from thirdshift.core.schedule import Schedule, is_late
from thirdshift.core.schedule_store import FROM_CALLS, FROM_CODE, Fire, NewSchedule, ScheduleState, rule_of
from thirdshift.core.status import TaskStatus
from thirdshift.submission import SubmitOptions, TaskMaker, tags_of

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("thirdshift.scheduler")

_LONGEST_NAME = 200
_LOOKED_AT = 100
"""Fires among which the newest task of a schedule is looked for."""


class TaskScheduler:
    """Adds, shows and changes schedules; :attr:`BackgroundTaskManager.schedules`. Any thread may use it.

    ::

        manager.schedules.add(report, Schedule(cron="0 3 * * *", timezone="Europe/Berlin"), name="nightly")
        manager.schedules.preview("nightly", 3)

    A schedule is stored: it survives restarts, and any worker of the store makes its tasks. Wherever a method takes
    *which*, it is a name or an id, and :class:`ScheduleNotFound` is raised where there is none. Coroutines use the same
    methods with an *a* before their names: ``await manager.schedules.aadd(…)``.
    """

    def __init__(self, engine: Engine, maker: TaskMaker, clock: Clock) -> None:
        self._engine = engine
        self._store = engine.schedules
        self._maker = maker
        self._clock = clock
        self._declared = 0

    def add(
        self,
        func: Callable[..., Any],
        schedule: Schedule,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        task_name: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        tags: Iterable[str] = (),
        pool: str | None = None,
        durability: str | None = None,
        limit_key: str | None = None,
        source: str = FROM_CALLS,
    ) -> ScheduleState:
        """Store a schedule that calls *func*, in place of the one of that *name*; the same one again changes nothing.

        Without a *name* it gets one that follows from the function, the arguments and the rule, so that an application
        may say it at each start. The options are those of a submit; a full queue does not hold a schedule up. *source*
        is for those who keep a list of their own. Raises ``UsageError``.
        """
        if not isinstance(schedule, Schedule):
            raise UsageError(f"schedule is {schedule!r}; give a Schedule, such as Schedule(cron='0 3 * * *')")
        options = SubmitOptions(
            name=task_name,
            queue=queue,
            priority=priority,
            max_retries=max_retries,
            timeout=timeout,
            stall_timeout=stall_timeout,
            tags=tags_of(tags),
            pool=pool,
            durability=durability,
            limit_key=limit_key,
        )
        (task,) = self._maker.make(options, func, [(tuple(args), dict(kwargs or {}))])
        if task.spec.after:
            raise UsageError("a schedule runs again and again, so the results of other tasks cannot be its arguments")
        wanted = name or _name_of(task.spec.name, task.spec.function, task.arguments, schedule)
        if not isinstance(wanted, str) or len(wanted) > _LONGEST_NAME:
            raise UsageError(f"name is {wanted!r}; it must be a text of 1 to {_LONGEST_NAME} characters")
        new = NewSchedule(name=wanted, schedule=schedule, task=task.spec, arguments=task.arguments, source=source)
        return self._store.put(new)

    def get(self, which: str) -> ScheduleState | None:
        """Return the schedule as it stands; ``None`` where there is none."""
        return self._store.find(which)

    def all(self) -> Sequence[ScheduleState]:
        """Return every schedule, by name."""
        return self._store.all()

    def preview(self, which: str, count: int = 5) -> Sequence[datetime]:
        """Return its next *count* fire times in UTC, also of a paused one: those that it would have."""
        state = self._known(which)
        if state.ended_at is not None:
            return []
        if state.next_at is None:
            return state.schedule.preview(self._clock.now(), state.begun_at, count)
        return [state.next_at, *state.schedule.preview(state.next_at, state.begun_at, count - 1)][:count]

    def fires(self, which: str, limit: int = 10) -> Sequence[Fire]:
        """Return its newest fires, newest first; a hundred are kept, and all of two days."""
        return self._store.fires(self._known(which).id, limit)

    def pause(self, which: str) -> bool:
        """Let it make no tasks until :meth:`resume`; returns whether that changed anything. It survives restarts."""
        return self._store.set_paused(self._known(which).id, True)

    def resume(self, which: str) -> bool:
        """Let it make tasks again, from the next fire time on; returns whether that changed anything."""
        return self._store.set_paused(self._known(which).id, False)

    def run_now(self, which: str) -> Fire:
        """Fire once more, now; its ``task`` is ``None`` when its rule for overlaps makes none."""
        fire = self._store.run_now(self._known(which).id)
        if fire is None:
            raise ScheduleNotFound(which)
        return fire

    def end(self, which: str) -> bool:
        """Let it make no more tasks; it can still be looked at. False when it did not any more."""
        return self._store.end(self._known(which).id)

    def delete(self, which: str) -> bool:
        """Delete it, and the list of its fires; the tasks that it made go on."""
        return self._store.delete(self._known(which).id)

    def keep_only(self, source: str, names: Iterable[str]) -> Sequence[str]:
        """Delete the schedules of *source* that are not among *names*; returns their names."""
        return self._store.keep_only(source, list(names))

    # For coroutines. The event loop runs on meanwhile; a caller that is cancelled does not learn what has become of it.

    async def aadd(
        self,
        func: Callable[..., Any],
        schedule: Schedule,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        task_name: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the task's own option
        stall_timeout: float | None = None,
        tags: Iterable[str] = (),
        pool: str | None = None,
        durability: str | None = None,
        limit_key: str | None = None,
        source: str = FROM_CALLS,
    ) -> ScheduleState:
        """Do what :meth:`add` does, for coroutines."""
        return await _in_thread(
            self.add,
            func,
            schedule,
            args=args,
            kwargs=kwargs,
            name=name,
            task_name=task_name,
            queue=queue,
            priority=priority,
            max_retries=max_retries,
            timeout=timeout,
            stall_timeout=stall_timeout,
            tags=tags,
            pool=pool,
            durability=durability,
            limit_key=limit_key,
            source=source,
        )

    async def aget(self, which: str) -> ScheduleState | None:
        """Do what :meth:`get` does, for coroutines."""
        return await _in_thread(self.get, which)

    async def aall(self) -> Sequence[ScheduleState]:
        """Do what :meth:`all` does, for coroutines."""
        return await _in_thread(self.all)

    async def apreview(self, which: str, count: int = 5) -> Sequence[datetime]:
        """Do what :meth:`preview` does, for coroutines."""
        return await _in_thread(self.preview, which, count)

    async def afires(self, which: str, limit: int = 10) -> Sequence[Fire]:
        """Do what :meth:`fires` does, for coroutines."""
        return await _in_thread(self.fires, which, limit)

    async def apause(self, which: str) -> bool:
        """Do what :meth:`pause` does, for coroutines."""
        return await _in_thread(self.pause, which)

    async def aresume(self, which: str) -> bool:
        """Do what :meth:`resume` does, for coroutines."""
        return await _in_thread(self.resume, which)

    async def arun_now(self, which: str) -> Fire:
        """Do what :meth:`run_now` does, for coroutines."""
        return await _in_thread(self.run_now, which)

    async def aend(self, which: str) -> bool:
        """Do what :meth:`end` does, for coroutines."""
        return await _in_thread(self.end, which)

    async def adelete(self, which: str) -> bool:
        """Do what :meth:`delete` does, for coroutines."""
        return await _in_thread(self.delete, which)

    async def akeep_only(self, source: str, names: Iterable[str]) -> Sequence[str]:
        """Do what :meth:`keep_only` does, for coroutines."""
        return await _in_thread(self.keep_only, source, names)

    # For the manager

    def status_of(self, schedule_id: str) -> TaskStatus | None:
        """Return the status of its newest task; ``None`` for an unknown id.

        Without a task: ``SCHEDULED`` while one may come, else ``CANCELLED``.
        """
        state = self._store.find(schedule_id)
        if state is None or state.id != schedule_id:
            return None
        for fire in self._store.fires(schedule_id, _LOOKED_AT):
            found = None if fire.task is None else self._engine.status(fire.task)
            if found is not None:
                return found
        return TaskStatus.SCHEDULED if state.state in ("active", "paused") else TaskStatus.CANCELLED

    def why(self, schedule_id: str) -> Sequence[Reason]:
        """Return when it fires next, or why it does not; nothing for an unknown id."""
        state = self._store.find(schedule_id)
        if state is None:
            return []
        facts = {
            "name": state.name,
            "words": state.words,
            "state": state.state,
            "next_at": state.next_at,
            "last_at": None if state.last is None else state.last.at,
            "is_late": is_late(state.next_at, self._clock.now()),
        }
        return [Reason(code=ReasonCode.SCHEDULE, facts=facts)]

    def declare(self) -> None:
        """Store what functions declare by ``@task(schedule=…)``, and forget what they do not any more.

        The scheduler calls it before each look; it costs nothing while no module was imported that declares more.
        """
        functions = scheduled_functions()
        if len(functions) == self._declared:
            return
        self._declared = len(functions)
        for func in functions:
            try:
                self.add(func, _declared(func), name=reference_of(func), source=FROM_CODE)
            except UsageError as error:  # a function of a test, say, that no other process could find
                _logger.warning('schedule.refused function=%s error="%s"', func.__qualname__, error)
        for state in self._store.all():
            if state.source == FROM_CODE and _is_undeclared(state.task.function):
                self._store.delete(state.id)

    def declare_file(self, calls: Mapping[str, ScheduleConfig], modules: Iterable[str], file: Path) -> None:
        """Store the schedules of a configuration *file*, and delete those that it named before and names no more.

        Its *modules* are imported, for what their functions declare. Raises :class:`ConfigurationError` with all
        functions and modules that cannot be found, and stores nothing then.
        """
        problems: list[str] = []
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # noqa: BLE001  # what a user's module raises is the problem
                problems.append(f"{file}: scheduler.modules: {module} cannot be imported ({error})")
        found = {}
        for name, call in calls.items():
            try:
                found[name] = resolve(call.function)
                reference_of(found[name])
            except Exception as error:  # noqa: BLE001  # what a user's module raises is the problem
                problems.append(f"{file}: schedules.{name}: {call.function} cannot be scheduled ({error})")
        if problems:
            raise ConfigurationError(problems)
        source = f"file:{file}"
        for name, call in calls.items():
            self.add(
                found[name],
                call.schedule,
                args=call.arguments,
                kwargs=call.keywords,
                name=name,
                queue=call.queue,
                source=source,
            )
        self.keep_only(source, calls)

    def _known(self, which: str) -> ScheduleState:
        found = self._store.find(which)
        if found is None:
            raise ScheduleNotFound(which)
        return found


async def _in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    from thirdshift import aio  # noqa: PLC0415  # only applications with an event loop need it

    return await aio.in_thread(function, *args, **kwargs)


def _declared(func: Callable[..., Any]) -> Schedule:
    schedule = declaration_of(func).schedule
    assert schedule is not None, "only such functions are remembered"
    return schedule


def _is_undeclared(reference: str) -> bool:
    """Return whether the function is loaded here and declares no schedule; nothing is imported to find out."""
    if reference.partition(":")[0] not in sys.modules:
        return False
    try:
        found = resolve(reference)
    except Exception:  # noqa: BLE001  # what cannot be looked at declares nothing that we could know of
        return False
    return inspect.isroutine(found) and declaration_of(found).schedule is None


def _name_of(task_name: str, function: str, arguments: bytes, schedule: Schedule) -> str:
    rule = json.dumps(rule_of(schedule), sort_keys=True)
    mark = hashlib.blake2b(f"{function} {rule} ".encode() + arguments, digest_size=4).hexdigest()
    return f"{task_name[: _LONGEST_NAME - 9]}-{mark}"
