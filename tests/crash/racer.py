"""One process of ``test_unique``: submits with few keys from the line on standard input on, and works meanwhile.

Ends with one JSON line: for every submit the key, the task that it led to, and when it began and ended (microseconds).
"""

import json
import random
import sys
import time

from thirdshift import BackgroundTaskManager, UniqueConflict
from thirdshift.testing import functions


def submit(manager: BackgroundTaskManager, key: str, on_conflict: str, period_s: float | None) -> str:
    """Return the id of the task that holds *key*, by whatever means a submit tells it."""
    submitter = manager.options(unique_key=key, unique_for=period_s, on_conflict=on_conflict, durability="relaxed")
    try:
        return submitter.submit(functions.echo, key).id
    except UniqueConflict as conflict:
        return conflict.task_id


def main() -> None:
    """Arguments: number, database, how many submits, how many keys, and for how many seconds some of them are held."""
    number, database, submits, keys, period_s = sys.argv[1:]
    rng = random.Random(int(number))
    answers = []
    with BackgroundTaskManager(max_workers=2, database=database) as manager:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        for _ in range(int(submits)):
            key = f"key-{rng.randrange(int(keys))}"
            is_held = key.endswith("0")  # the period of a replaced task would not stand in its row
            on_conflict = rng.choice(("keep", "error") if is_held else ("keep", "replace", "error"))
            began_us = time.time_ns() // 1_000
            task_id = submit(manager, key, on_conflict, float(period_s) if is_held else None)
            answers.append([key, task_id, began_us, time.time_ns() // 1_000])
        manager.shutdown(drain=True)
    sys.stdout.write(f"{json.dumps(answers)}\n")


if __name__ == "__main__":
    main()
