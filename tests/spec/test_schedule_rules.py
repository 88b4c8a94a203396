"""When schedules fire: the rules alone, against a clock on the wall that is read minute by minute."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from thirdshift import UsageError
from thirdshift.core.schedule import Missed, Overlap, Schedule, plan
from thirdshift.core.schedule_cron import CronRule

ZONES = (
    "UTC", "America/New_York", "America/St_Johns", "America/Sao_Paulo", "America/Santiago", "Europe/Berlin",
    "Europe/London", "Europe/Dublin", "Africa/Casablanca", "Africa/Cairo", "Asia/Tehran", "Asia/Kolkata",
    "Australia/Lord_Howe", "Australia/Sydney", "Pacific/Chatham", "Pacific/Apia",
)  # fmt: skip
FIXED = ("30 2 * * *", "30 1 * * *", "0 0 * * *", "15,45 2 * * 0", "0 3 31 * *")
CLOCK = ("0 * * * *", "*/30 1-2 * * *", "*/20 * * * *", "0 */3 * * *", "45 */2 * * *")
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 15, 12, 0, 30, tzinfo=UTC)


def changes_of(zone: ZoneInfo, year: int) -> list[datetime]:
    """The hours of a year after which the zone's offset is another one."""
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=each) for each in range(8760)]
    return [
        one
        for one in hours
        if one.astimezone(zone).utcoffset() != (one + timedelta(hours=1)).astimezone(zone).utcoffset()
    ]


def minutes_around(moment: datetime) -> list[datetime]:
    return [moment + timedelta(minutes=each) for each in range(-26 * 60, 26 * 60)]


def walls_of(minutes: list[datetime], zone: ZoneInfo) -> list[datetime]:
    return [minute.astimezone(zone).replace(tzinfo=None, fold=0) for minute in minutes]


def meant(expression: str, walls: list[datetime]) -> set[datetime]:
    """The readings of the wall that the expression means, found by a calendar without zones."""
    rule = CronRule.of(expression, "UTC")
    at = min(walls).replace(tzinfo=UTC) - timedelta(hours=2)
    found = set()
    while at is not None and at <= max(walls).replace(tzinfo=UTC):
        at = rule.after(at)
        found.add(at.replace(tzinfo=None))
    return found


def fires(expression: str, zone: str, minutes: list[datetime]) -> list[datetime]:
    rule, found, at = CronRule.of(expression, zone), [], minutes[0] - timedelta(seconds=1)
    while (at := rule.after(at)) is not None and at <= minutes[-1]:
        found.append(at)
    return found


@pytest.mark.parametrize("name", ZONES)
def test_a_job_with_a_star_follows_the_clock(name: str) -> None:
    """It fires at every minute of real time whose reading it means: a repeated hour twice, a skipped one never."""
    zone = ZoneInfo(name)
    for change in [*changes_of(zone, 2010), *changes_of(zone, 2011), *changes_of(zone, 2025), BEGUN]:
        minutes = minutes_around(change)
        walls = walls_of(minutes, zone)
        for expression in CLOCK:
            readings = meant(expression, walls)
            expected = [minute for minute, wall in zip(minutes, walls, strict=True) if wall in readings]
            assert fires(expression, name, minutes) == expected, (expression, change)


@pytest.mark.parametrize("name", ZONES)
def test_a_job_at_a_fixed_time_fires_once_a_day(name: str) -> None:
    """At the first minute that shows its reading, or right after the gap that swallows it."""
    zone = ZoneInfo(name)
    for change in [*changes_of(zone, 2010), *changes_of(zone, 2011), *changes_of(zone, 2025), BEGUN]:
        minutes = minutes_around(change)
        walls = walls_of(minutes, zone)
        for expression in FIXED:
            expected = set()
            for reading in meant(expression, walls):
                shown = [minute for minute, wall in zip(minutes, walls, strict=True) if wall == reading]
                beyond = [minute for minute, wall in zip(minutes, walls, strict=True) if wall > reading]
                if shown or (beyond and beyond[0] > minutes[0] and reading > walls[0]):
                    expected.add((shown or beyond)[0])
            assert fires(expression, name, minutes) == sorted(expected), (expression, change)


@pytest.mark.parametrize(
    ("expression", "day", "expected"),
    [
        ("30 2 * * *", "2026-03-08", ["03:00-04:00"]),
        ("30 1 * * *", "2026-11-01", ["01:30-04:00"]),
        ("0 0-3 * * *", "2026-03-08", ["00:00-05:00", "01:00-05:00", "03:00-04:00"]),
        ("0 */1 * * *", "2026-11-01", ["00:00-04:00", "01:00-04:00", "01:00-05:00", "02:00-05:00"]),
        ("*/30 1-2 * * *", "2026-03-08", ["01:00-05:00", "01:30-05:00"]),
    ],
)
def test_the_table_of_the_guide(expression: str, day: str, expected: list[str]) -> None:
    """New York 2026, as docs/schedules.md tells it."""
    zone = ZoneInfo("America/New_York")
    schedule = Schedule(cron=expression, timezone=zone.key)
    start = datetime.fromisoformat(day).replace(tzinfo=zone) - timedelta(seconds=1)
    found = [at.astimezone(zone) for at in schedule.preview(start, BEGUN, len(expected))]
    assert [f"{at:%H:%M}{at.isoformat()[-6:]}" for at in found] == expected
    assert {f"{at:%Y-%m-%d}" for at in found} == {day}


def test_it_does_not_matter_from_where_one_looks() -> None:
    """Asked from any moment in between, the next fire time is the same one."""
    for name in ZONES:
        for expression in (*FIXED, *CLOCK):
            rule = CronRule.of(expression, name)
            at = datetime(2025, 10, 25, 20, 0, 0, tzinfo=UTC)
            for _ in range(20):
                following = rule.after(at)
                assert following is not None
                middle = at + (following - at) * 0.7
                assert rule.after(middle) == following, (name, expression, at)
                assert rule.after(following - timedelta(microseconds=1)) == following
                at = following


def test_an_interval_is_counted_from_its_beginning() -> None:
    """In real time; it neither drifts nor minds clocks that change."""
    schedule = Schedule(every=90)
    found = schedule.preview(BEGUN, BEGUN, 3)
    assert [(at - BEGUN).total_seconds() for at in found] == [90, 180, 270]
    late = BEGUN + timedelta(seconds=200)
    assert schedule.after(late, BEGUN) == found[2]
    assert schedule.after(BEGUN - timedelta(seconds=100), BEGUN) == BEGUN - timedelta(seconds=90)


def test_once_fires_once_also_when_its_moment_has_passed() -> None:
    """There is nothing after it."""
    schedule = Schedule(at=NOW)
    assert schedule.first(NOW + timedelta(days=1)) == NOW
    assert schedule.after(NOW, BEGUN) is None
    assert schedule.preview(BEGUN, BEGUN, 5) == [NOW]


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("run_once", [12]), ("skip", [12]), ("all", [9, 10, 11, 12])],
)
def test_what_was_missed_when_the_last_one_is_on_time(missed: str, expected: list[int]) -> None:
    """Down from nine o'clock to twelve: the one of twelve has not been missed."""
    schedule = Schedule(cron="0 * * * *", missed=missed)
    decided = plan(schedule, next_at=NOW.replace(hour=9, minute=0, second=0), now=NOW, begun=BEGUN)
    assert [at.hour for at in decided.fires] == expected
    assert decided.next_at == datetime(2026, 6, 15, 13, tzinfo=UTC)
    assert decided.has_missed


@pytest.mark.parametrize(("missed", "expected"), [("run_once", [12]), ("skip", []), ("all", [11, 12])])
def test_what_was_missed_when_all_are_late(missed: str, expected: list[int]) -> None:
    """At half past twelve; of all that were missed, the newest ``max_missed``."""
    schedule = Schedule(cron="0 * * * *", missed=missed, max_missed=2)
    now = NOW.replace(minute=30)
    decided = plan(schedule, next_at=NOW.replace(hour=9, minute=0, second=0), now=now, begun=BEGUN)
    assert [at.hour for at in decided.fires] == expected
    assert decided.has_missed


def test_a_pause_of_ten_years_is_looked_at_quickly() -> None:
    """The newest ones count, however many there were."""
    for schedule in (
        Schedule(cron="* * * * *", missed="all", max_missed=3),
        Schedule(every=60, missed="all", max_missed=3),
    ):
        decided = plan(schedule, next_at=NOW - timedelta(days=3650), now=NOW, begun=BEGUN - timedelta(days=4000))
        assert [NOW - at < timedelta(minutes=4) for at in decided.fires] == [True, True, True]


def test_one_that_is_on_time_is_not_missed() -> None:
    """The usual case."""
    decided = plan(Schedule(cron="0 * * * *"), next_at=NOW.replace(second=0), now=NOW, begun=BEGUN)
    assert decided.fires == (NOW.replace(second=0),)
    assert not decided.has_missed


def test_jitter_is_a_matter_of_the_fire_time() -> None:
    """Within its bound, spread, and the same in every process."""
    schedule = Schedule(every=60, jitter=30)
    delays = [schedule.delay_s("a", at) for at in schedule.preview(BEGUN, BEGUN, 500)]
    assert 0 <= min(delays) < 5
    assert 25 < max(delays) < 30
    assert delays == [schedule.delay_s("a", at) for at in schedule.preview(BEGUN, BEGUN, 500)]
    assert schedule.delay_s("b", BEGUN) != schedule.delay_s("a", BEGUN)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cron": "0 3 * * *", "timezone": "Europe/Berlin"}, "At 03:00 every day, Europe/Berlin time"),
        ({"cron": "@hourly"}, "At the start of every hour, UTC"),
        (
            {"cron": "*/5 9-17 * * 1-5"},
            "Every fifth minute from 09:00 through 17:59 on Monday through Friday, UTC",
        ),
        ({"every": 3600}, "Every hour"),
        ({"every": timedelta(minutes=90)}, "Every 90 minutes"),
        ({"every": 0.5}, "Every 500 ms"),
        ({"at": NOW}, "Once, at 2026-06-15 12:00:30 UTC"),
    ],
)
def test_a_schedule_in_plain_words(options: dict[str, object], words: str) -> None:
    """Each rule can be read."""
    assert Schedule(**options).words == words  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of cron, every and at"),
        ({"cron": "* * * * *", "every": 1}, "not two of them"),
        ({"cron": "61 * * * *"}, "bad minute"),
        ({"cron": "* * * *"}, "five fields"),
        ({"cron": "* * * * * *"}, "five fields"),
        ({"cron": "@reboot"}, "five fields"),
        ({"cron": "0 0 30 2 *"}, "bad day-of-month"),
        ({"cron": "0 0 * * " + "9" * 5000}, "five fields"),
        ({"cron": "1,2,3/0 * * * *"}, "bad minute"),
        ({"cron": "* * * * *", "timezone": "Europe/Berln"}, "this machine does not know"),
        ({"cron": "* * * * *", "timezone": "../etc/passwd"}, "this machine does not know"),
        ({"every": 0}, "every is 0"),
        ({"every": True}, "every is True"),
        ({"every": 1, "jitter": -1}, "jitter is -1"),
        ({"every": 1, "missed": "never"}, "'run_once' or 'skip' or 'all'"),
        ({"every": 1, "overlap": "allow"}, "'skip' or 'queue' or 'cancel_previous'"),
        ({"every": 1, "max_missed": 0}, "max_missed is 0"),
    ],
)
def test_what_is_no_schedule_is_refused(options: dict[str, object], message: str) -> None:
    """At once, and with what may stand there."""
    with pytest.raises(UsageError, match=message):
        Schedule(**options)  # type: ignore[arg-type]


def test_the_words_are_taken_for_the_values() -> None:
    """Texts from a file become what the rules compare."""
    schedule = Schedule(every=1, missed="all", overlap="queue")
    assert (schedule.missed, schedule.overlap) == (Missed.ALL, Overlap.QUEUE)
