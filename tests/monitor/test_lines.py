"""Log lines of a worker: every one that is written during a task says which task, in every pool, also user code's."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.runtime.lines import JsonLines, TextLines

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
SHOP = """
import logging

from thirdshift import current_task

_logger = logging.getLogger("shop")


def sell():
    work()


async def asell():
    work()


def work():
    _logger.info("sold %d", 3, extra={"queue": "of customers", "till": 7})
    current_task().log.info("by the task")
    print("printed")
    try:
        1 / 0
    except ZeroDivisionError:
        _logger.exception("half a line\\nand the rest")
"""
TASK = ("task_id", "task_name", "attempt", "queue", "worker")


def run_worker(folder: Path, *options: str) -> tuple[str, dict[str, str]]:
    """Run the shop's tasks, one in each pool, in a worker; returns its standard error, and the pool of each id."""
    (folder / "shop.py").write_text(SHOP)
    sys.path.insert(0, str(folder))
    try:
        import shop  # type: ignore[import-not-found]

        with BackgroundTaskManager(database=folder / "thirdshift.db", start=False) as manager:
            pools = {
                manager.options(queue="mail", pool=pool).submit(function).id: pool
                for pool, function in (("thread", shop.sell), ("process", shop.sell), ("async", shop.asell))
            }
    finally:
        sys.path.remove(str(folder))
        del sys.modules["shop"]
    command = [COMMAND, "--workspace", str(folder), "worker", "--drain", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, pools


def test_as_json_every_line_is_an_object_and_names_its_task(tmp_path: Path) -> None:
    """Of threads, child processes and coroutines; what a task prints is kept elsewhere."""
    said, pools = run_worker(tmp_path, "--log-format", "json")
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    assert {"at", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    for task_id in pools:
        of_task = [line for line in lines if line.get("task_id") == task_id]
        assert all(set(TASK) <= set(line) for line in of_task)
        assert {line["queue"] for line in of_task} == {"mail"}
        assert {line["attempt"] for line in of_task} == {1}
        assert len({line["worker"] for line in of_task}) == 1
        by_logger = [(line["logger"], line["message"]) for line in of_task if line["logger"] != "thirdshift.worker"]
        assert by_logger == [
            ("shop", "sold 3"),
            ("thirdshift.task", "by the task"),
            ("shop", "half a line\nand the rest"),
        ]
        sold, _, failed = (line for line in of_task if line["logger"] != "thirdshift.worker")
        assert sold["extra"] == {"queue": "of customers", "till": 7}
        assert "ZeroDivisionError" in failed["traceback"]


def test_for_people_every_line_ends_with_its_task(tmp_path: Path) -> None:
    """The same lines as text."""
    said, pools = run_worker(tmp_path, "--log-format", "text")
    sold = [line for line in said.splitlines() if "sold 3" in line]
    assert {next(task_id for task_id in pools if task_id in line) for line in sold} == set(pools)
    assert all("attempt=1 queue=mail worker=" in line for line in sold)


def test_without_a_format_lines_are_the_applications_own_affair(tmp_path: Path) -> None:
    """As before: the worker's own lines only."""
    said, _ = run_worker(tmp_path)
    assert "sold 3" not in said


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_lines_about_an_attempt_name_it_once(tmp_path: Path, level: int) -> None:
    """The worker's events: as fields in JSON, in their own words for people."""
    texts = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(text) for text in texts]
    for handler, formatter in zip(handlers, (JsonLines(), TextLines()), strict=True):
        handler.setFormatter(formatter)
    logger = logging.getLogger("thirdshift.worker")
    before = logger.level
    logger.setLevel(level)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        with BackgroundTaskManager(database=tmp_path / "a.db", pools={"process": 0}) as manager:
            handle = manager.options(max_retries=0).submit(int, "no number")
            assert handle.wait(timeout=120)
    finally:
        logger.setLevel(before)
        for handler in handlers:
            logger.removeHandler(handler)
    lines = [json.loads(line) for line in texts[0].getvalue().splitlines()]
    (failed,) = (line for line in lines if line["message"].startswith("task.failed"))
    assert failed["task_id"] == handle.id
    assert set(TASK) <= set(failed)
    (said,) = (line for line in texts[1].getvalue().splitlines() if "task.failed" in line)
    assert said.count(handle.id) == 1
    assert ("task.claimed" in texts[0].getvalue()) == (level == logging.DEBUG)
