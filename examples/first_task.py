"""The first task: submit, wait, look. Run it twice: the database keeps what happened."""

import tempfile
from pathlib import Path

from thirdshift import BackgroundTaskManager, TaskFailed, TaskPriority


def divide(dividend: float, divisor: float) -> float:
    return dividend / divisor


def main() -> None:
    database = Path(tempfile.gettempdir()) / "thirdshift-first-task.db"
    with BackgroundTaskManager(database=database) as manager:
        print(manager)
        print("one result:", manager.submit(divide, 6, 3).result(timeout=10))

        ids = manager.submit_many(divide, [(number, 2) for number in range(1000)])
        print("the last of a thousand:", manager.handle(ids[-1]).result(timeout=30))

        failing = manager.submit_task(divide, 1, 0, priority=TaskPriority.HIGH, max_retries=0)
        try:
            manager.handle(failing).result(timeout=10)
        except TaskFailed as error:
            print("a failure:", error)
        print("all in all:", manager.get_stats())


if __name__ == "__main__":
    main()
