"""``thirdshift alerts``: what the monitor has found, now and before."""

from datetime import UTC, datetime

import click

from thirdshift.cli.output import Session, print_json, print_table
from thirdshift.cli.store import opened
from thirdshift.core.alerts import Alert
from thirdshift.core.words import ago
from thirdshift.monitor.alerts import describe, sentence


@click.command()
@click.option("--active", is_flag=True, help="Leave out those that are over.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most past ones.")
@click.pass_obj
def alerts(session: Session, active: bool, limit: int) -> None:
    """Show the active alerts, and the last ones that are over.

    The rules stand in the section monitoring of the configuration; a worker looks at them.

    \b
    thirdshift alerts
    thirdshift --json alerts --active | jq -e 'length == 0'
    """
    with opened(session) as manager:
        found = manager.monitor.get_alerts(past=0 if active else limit)
    if session.as_json:
        print_json([describe(alert) for alert in found])
    elif not found:
        click.echo("no active alerts" if active else "no alerts")
    else:
        now = datetime.now(UTC)
        print_table(("state", "alert", "since", "over", "what"), [_row(alert, now) for alert in found])


def _row(alert: Alert, now: datetime) -> tuple[str, str, str, str, str]:
    state = "active" if alert.is_active else "over"
    return state, alert.kind.value, ago(alert.fired_at, now), ago(alert.cleared_at, now), sentence(alert)
