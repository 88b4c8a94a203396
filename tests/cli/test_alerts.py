"""``thirdshift alerts`` and what ``status`` says of them."""

from typing import Any

import pytest

from thirdshift import BackgroundTaskManager
from thirdshift.core.alerts import AlertKind, AlertRule, Trouble


@pytest.fixture
def found(shell: Any) -> None:
    """Two alerts; that of the queue mail is over."""
    with BackgroundTaskManager(database=shell.database, start=False) as manager:
        rule = AlertRule(kind=AlertKind.QUEUE_LATENCY, quiet_s=0)
        troubles = [Trouble(rule=rule, subject=queue, value=400, facts={"waiting": 3}) for queue in ("mail", "reports")]
        manager._engine.update_alerts(troubles)
        manager._engine.update_alerts(troubles[1:])


@pytest.mark.usefixtures("found")
def test_alerts_are_listed_with_the_active_ones_first(shell: Any) -> None:
    """In words, and as JSON."""
    lines = shell("alerts").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["state", "active", "over"]
    assert "the oldest task of queue reports waits for 7 min, more than 5 min; 3 wait" in lines[1]
    told = shell.json("alerts")
    assert [(alert["state"], alert["subject"]) for alert in told] == [("fired", "reports"), ("cleared", "mail")]
    assert [alert["subject"] for alert in shell.json("alerts", "--active")] == ["reports"]


@pytest.mark.usefixtures("found")
def test_the_status_names_active_alerts(shell: Any) -> None:
    """And leaves out what is over."""
    said = shell("status").stdout
    assert "queue reports" in said
    assert "queue mail" not in said
    assert [alert["subject"] for alert in shell.json("status")["alerts"]] == ["reports"]


def test_no_alerts_are_no_table(shell: Any) -> None:
    """A sentence."""
    assert shell("alerts").stdout == "no alerts\n"
