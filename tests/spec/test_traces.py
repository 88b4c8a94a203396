"""What an attempt used and wrote is stored with it, as far as its pool can tell; and the limit for standing still."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, RecyclingConfig, TaskFilter, TaskStatus, task
from thirdshift.core.errors import UsageError
from thirdshift.core.task import AttemptOutcome, Traces
from thirdshift.host.processes import descendants
from thirdshift.runtime.tail import TAIL_BYTES
from thirdshift.testing import functions, hostile
from thirdshift.testing.signals import TIMEOUT_S

_logger = logging.getLogger("some.library")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[BackgroundTaskManager]:
    """A worker with one slot of each kind, whose children are recycled after three tasks."""
    recycling = RecyclingConfig(after_tasks=3, memory_growth_mib=64)
    options = {"database": tmp_path / "tasks.db", "durability": "relaxed", "recycling": recycling}
    with BackgroundTaskManager(max_workers=1, **options) as manager:
        yield manager


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that children import from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def traces_of(manager: BackgroundTaskManager, task_id: str) -> Traces:
    found = manager.handle(task_id).wait(TIMEOUT_S)
    return found.attempts[-1].traces


def test_a_process_attempt_tells_everything(manager: BackgroundTaskManager) -> None:
    """What it printed, what C code and other programs of its wrote, what it used."""
    found = traces_of(manager, manager.options(pool="process").submit(hostile.speak_everywhere).id)
    assert found.stdout is not None
    assert sorted(found.stdout.splitlines()) == ["printed", "said by a shell", "said in C", "written"]
    assert found.stderr == "printed to the other\ncomplained by a shell\n"
    assert found.log is None
    assert found.cpu_s is not None
    assert 0 < found.cpu_s < 5
    assert found.peak_memory_bytes is not None
    assert 5 << 20 < found.peak_memory_bytes < 500 << 20


def test_what_one_attempt_wrote_is_not_the_next_ones(manager: BackgroundTaskManager) -> None:
    """In the same child."""
    first = manager.options(pool="process").submit(hostile.speak_everywhere).id
    second = manager.options(pool="process").submit(functions.echo, 1).id
    assert traces_of(manager, first).stdout is not None
    assert traces_of(manager, second)[2:] == (None, None, None)


def test_a_gigabyte_of_output_fills_nothing(manager: BackgroundTaskManager, tmp_path: Path) -> None:
    """Its end is kept; neither the store nor the guard grows with it, and the writer need not wait."""
    handle = manager.options(pool="process").submit(hostile.write, 1024)
    found = handle.wait(TIMEOUT_S)
    assert found.result == 1024
    text = found.attempts[0].traces.stdout
    assert text is not None
    assert text.startswith("… 1,073,676,288 bytes left out\nxxx")
    assert len(text) < TAIL_BYTES + 100
    (guard,) = (pid for pid in descendants(os.getpid()) if descendants(pid))
    high_water = next(line for line in Path(f"/proc/{guard}/status").read_text().splitlines() if "VmHWM" in line)
    assert int(high_water.split()[1]) < 64 * 1024
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10 << 20


def test_closed_streams_are_no_harm(manager: BackgroundTaskManager) -> None:
    """A task may close what others hold open for it; the next one in that child runs too."""
    handles = [manager.options(pool="process").submit(hostile.close_the_streams) for _ in range(2)]
    assert handles[0].result(TIMEOUT_S) == "closed"
    assert handles[1].wait(TIMEOUT_S).status.is_finished


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_log_records_are_kept_with_their_attempt(
    manager: BackgroundTaskManager, importable: Path, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own, whatever the levels are set to, and those of others in its context."""
    (importable / "logging_tasks.py").write_text(
        "import logging\n"
        "from thirdshift import current_task\n"
        "def log():\n"
        "    current_task().log.info('from %s', 'the task')\n"
        "    current_task().log.debug('too fine')\n"
        "    logging.getLogger('some.library').warning('from a library')\n"
    )
    import logging_tasks  # type: ignore[import-not-found]

    handle = manager.options(pool=pool).submit(logging_tasks.log)
    found = traces_of(manager, handle.id)
    assert found.log is not None
    assert [line.partition(" ")[2] for line in found.log.splitlines()] == [
        "INFO thirdshift.task: from the task",
        "WARNING some.library: from a library",
    ]
    _logger.warning("from outside")  # of every attempt
    assert found.cpu_s is not None
    assert (found.peak_memory_bytes is None) == (pool == "thread")
    del sys.modules["logging_tasks"]


def test_a_crash_keeps_the_last_words(manager: BackgroundTaskManager) -> None:
    """Where a segmentation fault was, and what was used until then."""
    handle = manager.options(pool="process", max_retries=0).submit(functions.segfault)
    found = traces_of(manager, handle.id)
    assert found.stderr is not None
    assert "in segfault" in found.stderr
    assert found.peak_memory_bytes is not None
    assert found.cpu_s is not None


@pytest.mark.alone
def test_the_processor_time_of_a_thread_is_its_own(manager: BackgroundTaskManager) -> None:
    """Sleeping uses none, whatever others do meanwhile."""
    handle = manager.options(pool="thread").submit(functions.sleep, 0.2)
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pass
    found = traces_of(manager, handle.id)
    assert found.cpu_s is not None
    assert found.cpu_s < 0.1


def test_a_listing_leaves_the_texts_out(manager: BackgroundTaskManager) -> None:
    """A thousand tasks may have written a hundred megabytes."""
    task_id = manager.options(pool="process").submit(hostile.speak_everywhere).id
    assert traces_of(manager, task_id).stdout is not None
    (listed,) = manager.find_tasks(TaskFilter())
    assert listed.attempts[0].traces.stdout is None
    assert listed.attempts[0].traces.cpu_s is not None


def test_the_peak_is_the_attempts_own(manager: BackgroundTaskManager) -> None:
    """Not that of an earlier one in the same child."""
    large = traces_of(manager, manager.options(pool="process").submit(functions.allocate, 200).id).peak_memory_bytes
    small = traces_of(manager, manager.options(pool="process").submit(functions.echo).id).peak_memory_bytes
    assert large is not None
    assert small is not None
    assert small < 100 << 20 < 200 << 20 < large


def test_a_child_is_replaced_after_enough_tasks(manager: BackgroundTaskManager) -> None:
    """Between two attempts, so that nobody notices."""
    handles = [manager.options(pool="process").submit(hostile.grow, 0) for _ in range(7)]
    pids = [handle.result(TIMEOUT_S) for handle in handles]
    assert len(set(pids[:3])) == len(set(pids[3:6])) == 1
    assert len(set(pids)) == 3


def test_a_child_that_has_grown_is_replaced(manager: BackgroundTaskManager) -> None:
    """Measured from what it holds after its first attempt."""
    pids = [manager.options(pool="process").submit(hostile.grow, size).result(TIMEOUT_S) for size in (80, 80, 0)]
    assert pids[0] == pids[1] != pids[2]


@pytest.mark.parametrize(("name", "value"), [("after_tasks", 0), ("memory_growth_mib", -1)])
def test_recycling_has_limits(name: str, value: int) -> None:
    """A child that runs nothing is no use."""
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be 1 or more"):
        RecyclingConfig(**{name: value})


@pytest.mark.alone
def test_an_import_does_not_count(manager: BackgroundTaskManager, importable: Path) -> None:
    """The attempt begins, and its time limit, when the function is called."""
    code = "import time\ntime.sleep(1)\n\n\ndef answer():\n    time.sleep(1)\n    return 42\n"
    (importable / "slow_module.py").write_text(code)
    import slow_module  # type: ignore[import-not-found]

    found = manager.options(pool="process", timeout=1.9).submit(slow_module.answer).wait(TIMEOUT_S)
    assert (found.status, found.result) == (TaskStatus.COMPLETED, 42)
    run_time = found.attempts[0].run_time
    assert run_time is not None
    assert 1 <= run_time.total_seconds() < 1.9
    del sys.modules["slow_module"]


@pytest.mark.parametrize("pool", ["thread", "process"])
def test_an_attempt_that_stands_still_is_ended(manager: BackgroundTaskManager, pool: str) -> None:
    """Its time limit is far away."""
    handle = manager.options(pool=pool, timeout=60, stall_timeout=0.3, max_retries=0).submit(functions.stand_still)
    found = handle.wait(TIMEOUT_S)
    assert found.stall_timeout_s == 0.3
    assert (found.status, found.attempts[0].outcome) == (TaskStatus.FAILED, AttemptOutcome.TIMED_OUT)
    assert str(found.error) == (
        "Stalled: the attempt neither reported progress nor logged for longer than its stall_timeout"
    )


@pytest.mark.alone
@pytest.mark.parametrize("pool", ["thread", "process"])
@pytest.mark.parametrize("sign", ["progress", "log"])
def test_signs_of_life_keep_an_attempt_going(manager: BackgroundTaskManager, pool: str, sign: str) -> None:
    """For far longer than it may stand still."""
    handle = manager.options(pool=pool, stall_timeout=0.4, max_retries=0).submit(functions.live, sign, 1.2)
    assert handle.result(TIMEOUT_S) == "alive"


def test_a_function_declares_how_long_it_may_stand_still(manager: BackgroundTaskManager) -> None:
    """Options go before declarations, as for every other one."""
    assert manager.submit(declared).task.stall_timeout_s == 7.5
    assert manager.options(stall_timeout=8).submit(declared).task.stall_timeout_s == 8
    assert manager.submit(functions.echo).task.stall_timeout_s is None
    with pytest.raises(UsageError, match="stall_timeout is 0; it is in seconds, more than 0"):
        manager.options(stall_timeout=0).submit(declared)


@task(stall_timeout=7.5)
def declared() -> None:
    pass
