"""``TaskMonitor``: the promised calls, on a real worker."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, UsageError, get_task_monitor
from thirdshift.manager import stand_in
from thirdshift.testing import functions


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[BackgroundTaskManager]:
    with BackgroundTaskManager(database=tmp_path / "tasks.db", pools={"process": 0}) as manager:
        for _ in range(3):
            manager.submit(functions.add, 1, 2).result(timeout=120)
        manager.options(name="billing", queue="mail", max_retries=0).submit(functions.fail, "no").wait(timeout=120)
        yield manager


def test_figures_are_kept_by_name(manager: BackgroundTaskManager) -> None:
    """The function's own, or the one given."""
    metrics = manager.monitor.get_task_metrics("add")
    assert (metrics["total_executions"], metrics["successful_executions"]) == (3, 3)
    assert (metrics.success_rate, metrics.error_rate) == (1.0, 0.0)
    assert 0 <= metrics.avg_execution_time < 5
    assert set(manager.monitor.get_task_metrics()) == {"add", "billing"}
    assert manager.monitor.get_task_metrics("billing").error_rate == 1.0
    assert manager.monitor.get_task_metrics("nobody").success_rate is None
    with pytest.raises(AttributeError, match="no figure 'sucess_rate'; there are total_executions"):
        _ = metrics.sucess_rate


def test_the_shared_manager_has_the_shared_monitor(manager: BackgroundTaskManager) -> None:
    """As users were promised."""
    with stand_in(manager):
        assert get_task_monitor() is manager.monitor


def test_the_system_is_seen_as_it_is_now(manager: BackgroundTaskManager) -> None:
    """What waits, what runs, who works."""
    manager.pause_queue("slow")
    manager.options(queue="slow").submit(functions.add, 1, 2)
    found = manager.monitor.get_system_metrics()
    assert (found.tasks_in_queue, found.active_tasks, found.worker_utilization, found.workers) == (1, 0, 0.0, 1)
    assert found.queues["slow"].is_paused
    assert found.queues["slow"].latency > 0
    assert found.queues["mail"].latency == 0


def test_a_summary_is_of_a_period(manager: BackgroundTaskManager) -> None:
    """Together, and by name, queue and worker."""
    summary = manager.monitor.get_performance_summary(timedelta(hours=1))
    assert (summary.total_tasks, summary.failed_tasks, summary.given_up) == (4, 1, 1)
    assert {name: figures.total_executions for name, figures in summary.by_queue.items()} == {"default": 3, "mail": 1}
    assert [figures.total_executions for figures in summary.by_worker.values()] == [4]
    assert manager.monitor.get_performance_summary(timedelta(days=7)).by_worker is None
    with pytest.raises(UsageError, match="longer than nothing"):
        manager.monitor.get_performance_summary(timedelta(0))


def test_trends_are_lists_of_one_length(manager: BackgroundTaskManager) -> None:
    """A place for each stretch of time in which something ended."""
    for hours in (1, 24):
        trends = manager.monitor.get_task_trends("add", hours)
        assert sum(trends.executions) == 3
        assert trends.success_rate == [1.0] * len(trends.times)
        assert len(trends.avg_execution_time) == len(trends.times)


def test_recent_executions_are_told_in_detail(manager: BackgroundTaskManager) -> None:
    """With the task's id."""
    (execution,) = manager.monitor.get_recent_executions("billing")
    assert manager.get_task(execution.task_id) is not None
    assert execution.outcome.value == "failed"


def test_figures_can_be_exported(manager: BackgroundTaskManager) -> None:
    """As JSON, CSV, or text for Prometheus."""
    document = json.loads(manager.monitor.export_metrics(format="json"))
    assert document["tasks"]["add"]["total_executions"] == 3
    rows = list(csv.DictReader(io.StringIO(manager.monitor.export_metrics("csv"))))
    assert [(row["name"], row["queue"], row["total_executions"]) for row in rows] == [
        ("add", "default", "3"),
        ("billing", "mail", "1"),
    ]
    assert 'thirdshift_attempts_total{task="add",queue="default",outcome="completed"} 3' in (
        manager.monitor.export_metrics("prometheus")
    )
    with pytest.raises(UsageError, match="there is no format 'xml'; there are json, csv, prometheus"):
        manager.monitor.export_metrics("xml")


def test_figures_survive_a_restart_and_any_process_may_ask(tmp_path: Path, manager: BackgroundTaskManager) -> None:
    """They stand in the store."""
    manager.shutdown()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as other:
        assert other.monitor.get_task_metrics("add").total_executions == 3
