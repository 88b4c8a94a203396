"""Coroutines as tasks: a hundred calls of a slow service at once, on one thread, each durable and tried again."""

import asyncio
import tempfile
import time
from pathlib import Path

from thirdshift import BackgroundTaskManager, current_task, task


@task(queue="web", timeout=10, max_retries=5)
async def fetch(number: int) -> str:
    """Pretend to ask a service that takes half a second, and fails at every tenth number the first time."""
    await asyncio.sleep(0.5)
    if number % 10 == 0 and current_task().attempt == 1:
        raise ConnectionError(f"no answer for {number}")
    return f"page {number}"


def main() -> None:
    """Fetch a hundred pages."""
    with (
        tempfile.TemporaryDirectory() as folder,
        BackgroundTaskManager("async", database=Path(folder, "web.db")) as manager,
    ):
        started = time.monotonic()
        handles = [manager.handle(task_id) for task_id in manager.submit_many(fetch, [(n,) for n in range(100)])]
        pages = [handle.result(timeout=60) for handle in handles]
        attempts = sum(len(handle.task.attempts) for handle in handles)
        print(f"{len(pages)} pages, {attempts} attempts, {time.monotonic() - started:.1f} s; all completed")


if __name__ == "__main__":
    main()
