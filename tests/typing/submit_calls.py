"""Typed calls: mypy must accept every line but those that end in ``# error``; ``test_typing`` compares."""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_type

from thirdshift import BackgroundTaskManager, Schedule, TaskHandle, TaskPriority, TaskStatus, task
from thirdshift.core.schedule_store import ScheduleState
from thirdshift.core.task import TaskId


@task(queue="mail", max_retries=5, timeout=30, pool="thread")
def send(to: str, *, subject: str) -> int:
    return len(to) + len(subject)


@task
def plain(number: float) -> list[str]:
    return [str(number)]


@task(queue="web")
async def fetch(url: str) -> bytes:
    return url.encode()


@task(pool="fibre")  # error
def wrong_pool() -> None: ...


assert_type(send("a", subject="b"), int)
assert_type(plain(1.0), list[str])
send("a")  # error

manager = BackgroundTaskManager(database="tasks.db")
handle = manager.submit(send, "a@example.org", subject="hi")
assert_type(handle, TaskHandle[int])
assert_type(handle.result(timeout=1), int)
assert_type(handle.status, TaskStatus)
assert_type(manager.submit(plain, 2).result(), list[str])

manager.submit(send, 1, subject="hi")  # error
manager.submit(send, "a")  # error
manager.submit(send, "a", subject="hi", priority=3)  # error
manager.submit(send, "a", "hi")  # error
manager.submit(plain, "one")  # error
manager.submit(3)  # error

assert_type(manager.submit(fetch, "https://example.org"), TaskHandle[bytes])
assert_type(manager.options(priority=5).submit(fetch, "https://example.org").result(), bytes)
manager.submit(fetch, 1)  # error

assert_type(manager.options(priority=TaskPriority.HIGH, queue="mail").submit(plain, 1), TaskHandle[list[str]])
manager.options(priority=5).submit(plain, "one")  # error
manager.options(prio=5)  # error
manager.options(tags=[1])  # error

assert_type(manager.submit_task(send, "a", subject="b", priority=TaskPriority.LOW), str)
assert_type(manager.submit_many(send, [("a",)], kwargs=[{"subject": "x"}]), list[str])
wrong: str = manager.submit(plain, 1).result()  # error

with manager.transaction(object()) as tx:
    assert_type(tx.submit(send, "a@example.org", subject="hi"), TaskHandle[int])
    assert_type(tx.options(priority=5, queue="mail").submit(plain, 1), TaskHandle[list[str]])
    assert_type(tx.submit_many(send, [("a",)], kwargs=[{"subject": "x"}]), list[str])
    tx.submit(send, 1, subject="hi")  # error
    tx.options(prio=5)  # error


async def coroutine() -> None:
    async with manager.transaction(object()) as tx:
        assert_type(await tx.asubmit(send, "a@example.org", subject="hi"), TaskHandle[int])
    handle = await manager.asubmit(send, "a@example.org", subject="hi")
    assert_type(handle, TaskHandle[int])
    assert_type(await handle.aresult(timeout=1), int)
    assert_type((await handle.afinished()).status, TaskStatus)
    await manager.asubmit(send, "a")  # error
    assert_type(await manager.asubmit(fetch, "https://example.org"), TaskHandle[bytes])
    submitter = manager.options(wait=5)
    assert_type(await submitter.asubmit(plain, 1), TaskHandle[list[str]])
    await submitter.asubmit(plain, "one")  # error
    assert_type(await manager.asubmit_task(send, "a", subject="b", priority=TaskPriority.LOW), str)
    assert_type(await manager.asubmit_many(send, [("a",)], kwargs=[{"subject": "x"}]), list[str])
    _wrong: str = await handle.aresult()  # error
    assert_type(await manager.schedules.aadd(plain, Schedule(every=60), args=[1], queue="mail"), ScheduleState)
    assert_type(await manager.schedules.apreview("nightly", 3), Sequence[datetime])
    assert_type((await manager.schedules.arun_now("nightly")).task, TaskId | None)
    await manager.schedules.aadd(plain, "0 3 * * *")  # error
    await manager.schedules.aadd(plain, Schedule(every=60), prio=5)  # error
