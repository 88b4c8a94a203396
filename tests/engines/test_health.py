"""The findings of the embedded engine, and from where on each of them is no longer as it should be."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from thirdshift.core.engine import ClaimRequest, TaskFilter
from thirdshift.core.health import Finding, HealthCode, HealthLevel, HealthLimits, has_reset_race, is_healthy
from thirdshift.core.task import PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.monitor.health import remedy, sentence
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.conformance import NOT_THERE, new_task

LIMITS = HealthLimits(answer_s=0.1)


def examined(engine: SQLiteEngine, limits: HealthLimits = LIMITS) -> dict[HealthCode, Finding]:
    return {finding.code: finding for finding in engine.examine(HealthLevel.DOCTOR, limits)}


def unhealthy(found: dict[HealthCode, Finding]) -> set[HealthCode]:
    return {code for code, finding in found.items() if not finding.is_healthy}


def test_every_code_is_looked_at(engine: SQLiteEngine) -> None:
    """And can be said; what is not as it should be says what to do."""
    found = examined(engine)
    assert set(found) == set(HealthCode) - {HealthCode.FUNCTIONS}  # the manager's: a store imports nothing
    assert unhealthy(found) == {HealthCode.WORKERS}
    assert not is_healthy(list(found.values()))
    for finding in found.values():
        assert sentence(finding)
        assert (remedy(finding) is None) is finding.is_healthy


@pytest.mark.parametrize(
    ("code", "limits"),
    [
        (HealthCode.LOG, replace(LIMITS, log_bytes=1)),
        (HealthCode.DISK, replace(LIMITS, free_bytes=2**62)),
        (HealthCode.OLDEST_TASK, replace(LIMITS, oldest_task_s=9)),
    ],
)
def test_each_limit(engine: SQLiteEngine, clock: FakeClock, code: HealthCode, limits: HealthLimits) -> None:
    """Beyond it the finding is not healthy, and says what to do."""
    registration = engine.register(slots=1)
    engine.submit([new_task()])
    clock.advance(10)
    assert unhealthy(examined(engine)) == set()
    found = examined(engine, limits)
    assert unhealthy(found) == {code}
    assert remedy(found[code])
    registration.close()


def test_a_clock_that_was_set_back(engine: SQLiteEngine, clock: FakeClock) -> None:
    """What was submitted before lies in the future; a little is in order."""
    registration = engine.register(slots=1)
    engine.submit([new_task()])
    clock.step(-30)
    assert unhealthy(examined(engine)) == set()
    clock.step(-3600)
    finding = examined(engine)[HealthCode.CLOCK]
    assert not finding.is_healthy
    assert sentence(finding) == "the newest submit lies 60 min in the future"
    registration.close()


def test_free_space_inside_the_file(engine: SQLiteEngine) -> None:
    """Said when it is more than half of the file and more than the limit."""
    registration = engine.register(slots=1)
    ids = engine.submit([new_task(arguments=b"x" * 5000) for _ in range(500)])
    engine.cancel_all(TaskFilter())
    assert unhealthy(examined(engine, replace(LIMITS, unused_bytes=0))) == set()
    assert engine.delete_all(TaskFilter()) == len(ids)
    assert unhealthy(examined(engine, replace(LIMITS, unused_bytes=0))) == {HealthCode.FREE_SPACE}
    assert unhealthy(examined(engine)) == set()
    engine.vacuum()
    assert unhealthy(examined(engine, replace(LIMITS, unused_bytes=0))) == set()
    registration.close()


@pytest.mark.parametrize(
    ("version", "has_race"),
    [
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_which_libraries_have_the_race(version: tuple[int, int, int], has_race: bool) -> None:
    """All before the repair, but for two series that got it too."""
    assert has_reset_race(version) is has_race


def test_an_index_of_another_ones_pages_is_found_by_the_doctor(tmp_path: Path, clock: FakeClock) -> None:
    """Each page is sound, so only a comparison with the table shows it; meanwhile tasks would not be found."""
    path = tmp_path / "exchanged.db"
    with closing(SQLiteEngine(path, clock)) as engine:
        engine.submit([new_task() for _ in range(5)])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        roots = "SELECT rootpage FROM sqlite_schema WHERE name IN ('task_runnable', 'task_finished') ORDER BY name"
        ((finished,), (runnable,)) = connection.execute(roots).fetchall()
        connection.execute("PRAGMA writable_schema = ON")
        exchange = "UPDATE sqlite_schema SET rootpage = ? WHERE name = ?"
        connection.executemany(exchange, [(finished, "task_runnable"), (runnable, "task_finished")])
    with closing(SQLiteEngine(path, clock)) as engine:
        quick = {finding.code: finding for finding in engine.examine(HealthLevel.COMPLETE, LIMITS)}
        assert quick[HealthCode.INTEGRITY].is_healthy
        finding = examined(engine)[HealthCode.INTEGRITY]
    assert not finding.is_healthy
    assert "task_runnable" in sentence(finding)


def test_a_check_that_runs_out_of_time(engine: SQLiteEngine, path: Path) -> None:
    """It says how far it may go, and takes no damage for granted."""
    engine.submit([new_task(arguments=b"x" * 1000) for _ in range(5000)])
    finding = examined(engine, replace(LIMITS, check_s=1e-9))[HealthCode.INTEGRITY]
    assert finding.is_healthy
    assert finding.facts["is_whole"] is False
    assert "as far as was read" in sentence(finding)
    assert examined(engine)[HealthCode.INTEGRITY].facts["is_whole"] is True


def test_a_worker_of_this_process_needs_no_wake_up(engine: SQLiteEngine) -> None:
    """It is called."""
    registration = engine.register(slots=1, name="w")
    unlisten = engine.on_work(lambda: None)
    assert examined(engine)[HealthCode.WAKE_UPS].facts == {"silent": [], "answered": 1}
    (state,) = engine.workers()
    assert (state.name, state.is_alive, state.lost_wakes) == ("w", True, 0)
    unlisten()
    registration.close()


def test_a_function_that_nobody_finds_is_told(engine: SQLiteEngine, clock: FakeClock) -> None:
    """It is in order as long as another worker may find it, and it is history when nobody has met it for a while."""
    first, second = engine.register(slots=1), engine.register(slots=1)
    engine.submit([new_task(function="shop:send")])
    for registration, is_found in ((first, True), (second, False)):
        request = ClaimRequest(owner=registration.id, free={PoolKind.THREAD: 1})
        (claim,) = engine.exchange([], request).claims
        engine.decline([(claim, NOT_THERE)], timedelta(hours=24))
        finding = examined(engine)[HealthCode.UNKNOWN_FUNCTIONS]
        assert finding.is_healthy is is_found
        clock.advance(60)
    assert sentence(finding) == "not found: shop:send (by 2 of 2 workers, 60 s)"
    assert "aliases" in str(remedy(finding))
    clock.advance(LIMITS.recent_s)
    assert examined(engine)[HealthCode.UNKNOWN_FUNCTIONS].facts["functions"] == []
    second.close()
    first.close()


def test_lost_wakes_count_for_a_while(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Then they are history, and are still told."""
    registration = engine.register(slots=1)
    registration.note_lost_wakes(3, clock.now())
    finding = examined(engine)[HealthCode.LOST_WAKES]
    assert not finding.is_healthy
    assert "3 times" in sentence(finding)
    clock.advance(LIMITS.recent_s + 1)
    finding = examined(engine)[HealthCode.LOST_WAKES]
    assert finding.is_healthy
    assert finding.facts["count"] == 3
    registration.close()
