"""Figures of what ran, and an alert when too much fails."""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from thirdshift import BackgroundTaskManager


def send(number: int) -> int:
    """Fail for every fourth one."""
    if number % 4 == 0:
        raise ValueError(f"there is no letter {number}")
    return number


def main() -> None:
    """Run some tasks and say how they did."""
    database = Path(tempfile.mkdtemp()) / "example.db"
    with BackgroundTaskManager(database=database) as manager:
        manager.monitor.add_alert_callback(hear)
        for number in range(8):
            manager.options(max_retries=0).submit(send, number)
        manager.wait_until_drained()
        metrics = manager.monitor.get_task_metrics("send")
        print(f"{metrics.successful_executions} of {metrics.total_executions} completed")
        print(f"p95 {metrics.execution_time.p95 * 1000:.1f} ms, error rate {metrics.error_rate:.0%}")
        print(manager.monitor.get_performance_summary(timedelta(minutes=5)).by_queue["default"].total_executions)


def hear(alert_type: str, alert_data: dict[str, Any]) -> None:
    """Say it; the monitor looks every ten seconds, so this short program may be over before."""
    print(alert_type, alert_data["message"])


if __name__ == "__main__":
    main()
