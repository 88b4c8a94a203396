"""Alerts: each rule is shown firing and clearing, once for each episode, also over restarts."""

import http.server
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from thirdshift import BackgroundTaskManager, ConfigurationError, MonitoringConfig, TaskStatus, UsageError, load_config
from thirdshift.config.sections import AlertRuleConfig
from thirdshift.core.alerts import AlertKind, AlertRule, ChangeKind, Trouble, steps
from thirdshift.core.engine import ClaimRequest
from thirdshift.core.outcome import Ending, settle
from thirdshift.core.schedule import Schedule
from thirdshift.core.schedule_store import NewSchedule
from thirdshift.core.task import AttemptOutcome, Claim, PoolKind
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.monitor import alerts as alerts_module
from thirdshift.monitor import keeper
from thirdshift.monitor.alerts import AlertListeners, AlertWatch, Webhook, describe
from thirdshift.testing import functions
from thirdshift.testing.clock import START, FakeClock
from thirdshift.testing.conformance import new_task
from thirdshift.testing.signals import TIMEOUT_S, Signal

WORKER = Path(__file__).with_name("figures_worker.py")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(tmp_path: Path, clock: FakeClock) -> Iterator[SQLiteEngine]:
    engine = SQLiteEngine.shared(tmp_path / "tasks.db", clock=clock)
    engine.count_ends()
    yield engine
    engine.close()


def watch(engine: SQLiteEngine, clock: FakeClock, kind: AlertKind, **rule: float) -> AlertWatch:
    return AlertWatch(engine, clock, [AlertRule(kind=kind, **rule)])


def claim(engine: SQLiteEngine) -> list[Claim]:
    return list(engine.exchange([], ClaimRequest(owner="worker", free={PoolKind.THREAD: 1_000})).claims)


def end(engine: SQLiteEngine, clock: FakeClock, count: int, *, failed: int = 0, run_s: float = 0.0) -> None:
    """Let so many executions end, the first ones *failed*."""
    engine.submit([new_task(name="send") for _ in range(count)])
    claims = claim(engine)
    started = clock.now()
    clock.advance(run_s)
    outcomes = [AttemptOutcome.FAILED] * failed + [AttemptOutcome.COMPLETED] * (count - failed)
    ends = [Ending(outcome, started, clock.now(), is_final=True) for outcome in outcomes]
    engine.exchange([settle(*pair, 0.0) for pair in zip(claims, ends, strict=True)], None)


def told(engine: SQLiteEngine) -> list[tuple[str, str, str]]:
    """What fired and cleared so far."""
    return [
        (change.kind.value, change.alert.kind.value, change.alert.subject) for change in engine.alert_changes(0, 1_000)
    ]


def test_an_error_rate_fires_and_clears(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Above the threshold, of enough executions, in the window; over when the window has passed."""
    rule = watch(engine, clock, AlertKind.ERROR_RATE)
    end(engine, clock, 4, failed=4)
    rule.look()
    assert told(engine) == []
    end(engine, clock, 6)
    rule.look()
    rule.look()
    assert told(engine) == [("fired", "error_rate", "send")]
    (alert,) = engine.alerts(10)
    assert describe(alert)["message"] == "send fails in 40.0% of its executions (4 of 10), more than 10.0%"
    clock.advance(700)
    rule.look()
    assert len(told(engine)) == 1
    clock.advance(60)
    rule.look()
    assert told(engine)[1:] == [("cleared", "error_rate", "send")]
    assert [alert.cleared_at for alert in engine.alerts(10)] == [clock.now()]


def test_an_average_time_fires_and_clears(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Above 300 s, as users were promised."""
    rule = watch(engine, clock, AlertKind.AVG_EXECUTION_TIME, quiet_s=0)
    end(engine, clock, 1, run_s=301)
    rule.look()
    assert describe(engine.alerts(0)[0])["message"] == "send takes 5 min on average, more than 5 min"
    clock.advance(700)
    rule.look()
    assert [what for what, *_ in told(engine)] == ["fired", "cleared"]


def test_a_queues_latency_fires_and_clears(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Of a queue that is not paused."""
    rule = watch(engine, clock, AlertKind.QUEUE_LATENCY, quiet_s=0)
    engine.submit([new_task(queue="mail"), new_task(queue="quiet")])
    engine.set_paused("quiet", True)
    clock.advance(400)
    rule.look()
    assert told(engine) == [("fired", "queue_latency", "mail")]
    claim(engine)
    rule.look()
    assert told(engine)[1:] == [("cleared", "queue_latency", "mail")]


def test_a_late_schedule_fires_and_clears(engine: SQLiteEngine, clock: FakeClock) -> None:
    """When a fire time has passed and nobody has acted on it; a paused one is never late."""
    rule = watch(engine, clock, AlertKind.LATE_SCHEDULE, quiet_s=0)
    for name in ("nightly", "asleep"):
        new = new_task()
        engine.schedules.put(
            NewSchedule(name=name, schedule=Schedule(every=3600), task=new.spec, arguments=new.arguments)
        )
    paused = engine.schedules.find("asleep")
    assert paused is not None
    engine.schedules.set_paused(paused.id, True)
    clock.advance(3_660)
    rule.look()
    assert told(engine) == []
    clock.advance(1)
    rule.look()
    assert describe(engine.alerts(0)[0])["message"] == "schedule nightly should have fired 61 s ago"
    engine.schedules.tick()
    rule.look()
    assert told(engine) == [("fired", "late_schedule", "nightly"), ("cleared", "late_schedule", "nightly")]


def test_a_full_disk_fires_and_clears(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Below the threshold."""
    free = 100_000_000
    rules = [AlertRule(kind=AlertKind.DISK_FREE, quiet_s=0)]
    rule = AlertWatch(engine, clock, rules, free_bytes=lambda _folder: free)
    rule.look()
    assert "100 MB free on the disk of" in describe(engine.alerts(0)[0])["message"]
    free = 10**10
    rule.look()
    assert [what for what, *_ in told(engine)] == ["fired", "cleared"]


def test_stuck_progress_fires_and_clears(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Of a running task that has reported progress, and then no more."""
    rule = watch(engine, clock, AlertKind.STUCK_PROGRESS, quiet_s=0)
    engine.submit([new_task(), new_task()])
    reporting, _silent = claim(engine)
    engine.record_progress([(reporting, {"done": 1})])
    clock.advance(599)
    rule.look()
    assert told(engine) == []
    clock.advance(1)
    rule.look()
    assert told(engine) == [("fired", "stuck_progress", reporting.id)]
    engine.record_progress([(reporting, {"done": 2})])
    rule.look()
    assert told(engine)[1:] == [("cleared", "stuck_progress", reporting.id)]


def test_a_lost_worker_fires_and_clears(tmp_path: Path) -> None:
    """Killed with a task in hand; others have taken over by then."""
    path, clock = tmp_path / "lost.db", FakeClock()
    with Signal(tmp_path / "started") as started, BackgroundTaskManager(database=path, start=False) as manager:
        manager.submit(functions.until_stopped, started.path)
        with subprocess.Popen([sys.executable, str(WORKER), str(path)], stdout=subprocess.PIPE) as worker:
            started.wait()
            (lost,) = manager.workers()
            worker.send_signal(signal.SIGKILL)
        engine = manager._engine
        assert len(engine.rescue("nobody")) == 1
        clock.step((lost.started_at - START).total_seconds())
        rule = AlertWatch(engine, manager.clock, [AlertRule(kind=AlertKind.LOST_WORKER, quiet_s=0)])
        rule.look()
        assert told(engine) == [("fired", "lost_worker", lost.id)]
        assert f"process {lost.pid}" in describe(engine.alerts(0)[0])["message"]
        AlertWatch(engine, manager.clock, [AlertRule(kind=AlertKind.LOST_WORKER, quiet_s=0, window_s=0)]).look()
        assert told(engine)[1:] == [("cleared", "lost_worker", lost.id)]


def test_a_trouble_must_last_and_be_gone_for_a_while() -> None:
    """One episode, however often it comes and goes in between."""
    rule = AlertRule(kind=AlertKind.QUEUE_LATENCY, hold_s=30, quiet_s=60)
    trouble = [Trouble(rule=rule, subject="mail", value=400)]
    opened, heard, at = [], [], START
    for seconds, found in ((0, trouble), (20, []), (10, trouble), (29, trouble), (1, trouble), (30, []), (59, trouble),
                           (10, []), (60, []), (10, trouble)):  # fmt: skip
        at += timedelta(seconds=seconds)
        for step in steps(opened, found, at):
            opened = [] if step.is_dropped or step.change is ChangeKind.CLEARED else [step.alert]
            heard += [] if step.change is None else [(step.change.value, (at - START).total_seconds())]
    assert heard == [("fired", 60.0), ("cleared", 219.0)]


def test_an_alert_survives_a_restart_and_is_not_told_again(tmp_path: Path, clock: FakeClock) -> None:
    """Its state stands in the store."""
    path = tmp_path / "restarts.db"
    for _ in range(3):
        engine = SQLiteEngine.shared(path, clock=clock)
        if not engine.counts()[TaskStatus.PENDING]:
            engine.submit([new_task(queue="mail")])
            clock.advance(400)
        watch(engine, clock, AlertKind.QUEUE_LATENCY).look()
        assert told(engine) == [("fired", "queue_latency", "mail")]
        engine.close()


def trouble_of(kind: AlertKind = AlertKind.QUEUE_LATENCY, subject: str = "mail") -> list[Trouble]:
    facts = {"waiting": 3}
    return [Trouble(rule=AlertRule(kind=kind, quiet_s=0), subject=subject, value=400.0, facts=facts)]


def test_callbacks_hear_of_what_comes_after_them(engine: SQLiteEngine, caplog: pytest.LogCaptureFixture) -> None:
    """One that fails keeps the others from nothing."""
    heard: list[tuple[str, dict[str, Any]]] = []
    listeners = AlertListeners(engine)
    engine.update_alerts(trouble_of(subject="before"))

    def stumble(_kind: str, _data: dict[str, Any]) -> None:
        raise RuntimeError("on purpose")

    listeners.add(stumble)
    listeners.add(lambda kind, data: heard.append((kind, data)))
    engine.update_alerts(trouble_of())
    engine.update_alerts([])
    listeners.tell()
    listeners.tell()
    assert [(kind, data["state"], data["subject"]) for kind, data in heard] == [
        ("queue_latency", "fired", "mail"),
        ("queue_latency", "cleared", "before"),
        ("queue_latency", "cleared", "mail"),
    ]
    assert heard[0][1]["message"] == "the oldest task of queue mail waits for 7 min, more than 5 min; 3 wait"
    assert "alert.callback_failed" in caplog.text


class Receiver(http.server.BaseHTTPRequestHandler):
    """Refuses what comes first, and keeps the rest."""

    refusals = 0
    taken: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).refusals:
            type(self).refusals -= 1
            self.send_error(503)
            return
        type(self).taken.append(body)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("ThisReceiver", (Receiver,), {"taken": []})
    with http.server.HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook?secret=1", kind
        server.shutdown()
        thread.join()


def test_a_webhook_is_tried_again_until_it_is_taken(
    engine: SQLiteEngine, clock: FakeClock, receiver: tuple[str, type[Receiver]]
) -> None:
    """In order, each once, also by the next process; the address, which may hold a secret, is not stored."""
    url, kind = receiver
    kind.refusals = 2
    engine.update_alerts(trouble_of(subject="before"))
    webhook = Webhook(engine, clock, url)
    webhook.send()
    engine.update_alerts(trouble_of())
    for _ in range(3):  # the second is refused too, after the pause; meanwhile nothing is tried
        webhook.send()
        webhook.send()
        clock.advance(20)
    engine.update_alerts([])
    Webhook(engine, clock, url).send()
    assert [(each["state"], each["subject"]) for each in kind.taken] == [
        ("fired", "mail"), ("cleared", "before"), ("cleared", "mail"),
    ]  # fmt: skip
    assert kind.taken[0]["alert_type"] == "queue_latency"
    assert b"secret" not in Path(engine.location).read_bytes()


def test_a_webhook_that_nobody_answers_is_given_up_after_a_day(
    engine: SQLiteEngine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Newer alerts are worth more than an old one."""
    webhook = Webhook(engine, clock, "http://127.0.0.1:9/")
    webhook.send()
    engine.update_alerts(trouble_of())
    webhook.send()
    clock.advance(86_500)
    webhook.send()
    assert engine.alert_told(webhook._name) == engine.last_alert_change()
    assert "alert.webhook_given_up" in caplog.text


def test_a_manager_tells_its_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole way: tasks fail on a real worker, and the application hears of it; the log too."""
    monkeypatch.setattr(keeper, "_INTERVAL_S", 0.05)
    monkeypatch.setattr("thirdshift.manager.ALERT_INTERVAL_S", 0.05)
    caplog.set_level(logging.INFO, "thirdshift.monitor")
    heard: list[tuple[str, dict[str, Any]]] = []
    is_heard = threading.Event()

    def hear(kind: str, data: dict[str, Any]) -> None:
        heard.append((kind, data))
        is_heard.set()

    settings = MonitoringConfig(alert_rules={"disk_free": AlertRuleConfig(enabled=False)})
    with BackgroundTaskManager(database=tmp_path / "tasks.db", pools={"process": 0}, monitoring=settings) as manager:
        manager.monitor.add_alert_callback(hear)
        for _ in range(6):
            manager.options(max_retries=0).submit(functions.fail, "on purpose")
        assert is_heard.wait(TIMEOUT_S)
    assert [(kind, data["subject"]) for kind, data in heard] == [("error_rate", "fail")]
    assert 'alert.fired kind=error_rate subject="fail"' in caplog.text


def test_rules_are_set_in_the_configuration(tmp_path: Path) -> None:
    """By kind; what is not said is as usual."""
    (tmp_path / "c.yaml").write_text(
        "monitoring:\n  error_rate_threshold: 0.5\n"
        "  alert_rules:\n    queue_latency: {threshold: 60, hold_seconds: 120}\n"
        "    disk_free: {enabled: false}\n"
    )
    rules = {rule.kind: rule for rule in load_config(tmp_path / "c.yaml").monitoring.rules}
    assert set(rules) == set(AlertKind) - {AlertKind.DISK_FREE}
    assert rules[AlertKind.ERROR_RATE].limit == 0.5
    assert rules[AlertKind.QUEUE_LATENCY] == AlertRule(kind=AlertKind.QUEUE_LATENCY, threshold=60.0, hold_s=120.0)
    assert MonitoringConfig(alert_enabled=False).rules == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{alert_rules: {eror_rate: {}}}", "there is no alert rule eror_rate; did you mean error_rate?"),
        ("{alert_rules: {disk_free: {hold_seconds: -1}}}", "hold_seconds is -1; it must be 0 or more"),
        ("{alert_rules: {disk_free: {window_seconds: 90000}}}", "window_seconds is 90000; it must be 28800 or less"),
        ("{alert_webhook_url: 'file:///etc/passwd'}", "alert_webhook_url must begin with http:// or https://"),
    ],
)
def test_a_wrong_rule_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """With its place, and what may stand there."""
    (tmp_path / "c.yaml").write_text(f"monitoring: {text}\n")
    with pytest.raises(ConfigurationError, match=f"c.yaml:1:.*{problem.replace('?', '[?]')}"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(UsageError, match="hold_s of the rule disk_free is 90000; it must be 0 to 28800"):
        AlertRule(kind=AlertKind.DISK_FREE, hold_s=90_000)


def test_executions_are_exported_and_then_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of JSON each; the figures stay."""
    monkeypatch.setattr(keeper, "_INTERVAL_S", 0.02)
    settings = MonitoringConfig(export_enabled=True, export_path="done.jsonl", export_interval_seconds=0.0)
    path = tmp_path / "done.jsonl"
    with BackgroundTaskManager(database=tmp_path / "tasks.db", pools={"process": 0}, monitoring=settings) as manager:
        manager.submit(functions.add, 1, 2).result(timeout=TIMEOUT_S)
        assert wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
        assert wait_for(lambda: manager.monitor.get_recent_executions("add") == [])
        assert manager.monitor.get_task_metrics("add").total_executions == 1
    (line,) = path.read_text().splitlines()
    assert (json.loads(line)["name"], json.loads(line)["outcome"]) == ("add", "completed")
    assert path.stat().st_mode & 0o077 == 0


def wait_for(condition: Callable[[], bool]) -> bool:
    look = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.02)):
        if condition():
            return True
        look.wait(0.02)
    return False


def test_the_window_of_a_look_is_read_once(engine: SQLiteEngine, clock: FakeClock) -> None:
    """Two rules on the same figures cost one read."""
    assert alerts_module.ALERT_INTERVAL_S >= 5
    rules = [AlertRule(kind=AlertKind.ERROR_RATE), AlertRule(kind=AlertKind.AVG_EXECUTION_TIME)]
    both = AlertWatch(engine, clock, rules)
    both.look()
    assert list(both._by_name) == [600.0]
