"""``thirdshift status``: what is going on, answered from files and short reads, whatever else runs."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from thirdshift.cli.output import Session, print_facts, print_json
from thirdshift.core.words import duration

if TYPE_CHECKING:
    from thirdshift.core.engine import WorkerState


_RATES = ("total_executions", "failed_executions", "success_rate", "avg_execution_time", "tasks_per_second")


@click.command()
@click.pass_obj
def status(session: Session) -> None:
    """Show the daemon, the training, the queues and the tasks of this workspace.

    Exits 0 whether a daemon runs or not.

    \b
    thirdshift status
    thirdshift --json status | jq .training.loss
    """
    document = describe(session)
    if session.as_json:
        print_json(document)
    else:
        print_facts(_facts(document))


def describe(session: Session) -> dict[str, Any]:
    """Return everything that ``status`` knows, as JSON-ready data."""
    from thirdshift.apps.training.service.status import STATUS_KEYS, StatusFile  # noqa: PLC0415
    from thirdshift.apps.training.workspace import TrainingWorkspace  # noqa: PLC0415
    from thirdshift.host.lock import held_by_somebody, read_pid  # noqa: PLC0415

    workspace = TrainingWorkspace(session.workspace)
    is_running = held_by_somebody(workspace.pid_file)
    written = StatusFile(workspace.status_file).read() or {}
    state = written.get("state", "never started")
    if is_running and written.get("pid") != read_pid(workspace.pid_file):  # the file is that of the daemon before
        written = {**written, "state": "starting", "reason": None, "pid": read_pid(workspace.pid_file)}
    elif not is_running and state not in ("stopped", "never started"):
        reason = f"it ended while {state}, without stopping cleanly; the next start recovers"
        written = {**written, "state": "stopped", "reason": reason}
    return {
        **dict.fromkeys(STATUS_KEYS),
        "workspace": str(session.workspace),
        "database": str(session.database),
        "daemon": "running" if is_running else "stopped",
        **written,
        **_of_the_store(session),
    }


def _of_the_store(session: Session) -> dict[str, Any]:
    """Return what the store says; ``None`` when there is no database yet, which asking must not create."""
    if not session.database.exists():
        return {"tasks": None, "workers": None, "last_hour": None, "alerts": None}
    from thirdshift import BackgroundTaskManager  # noqa: PLC0415
    from thirdshift.monitor.alerts import describe as describe_alert  # noqa: PLC0415

    with BackgroundTaskManager(database=session.database, start=False) as manager:
        workers = [_describe_worker(worker) for worker in manager.workers()]
        summary = manager.monitor.get_performance_summary(timedelta(hours=1))
        return {
            "tasks": manager.get_stats(),
            "workers": workers,
            "last_hour": {name: summary[name] for name in _RATES},
            "alerts": [describe_alert(alert) for alert in manager.monitor.get_alerts()],
        }


def _describe_worker(worker: "WorkerState") -> dict[str, Any]:
    return {
        "id": worker.id,
        "name": worker.name,
        "pid": worker.pid,
        "host": worker.host,
        "is_alive": worker.is_alive,
        "started_at": worker.started_at,
        "slots": worker.slots,
        "busy": worker.busy,
        "lost_wakes": worker.lost_wakes,
    }


def _facts(document: dict[str, Any]) -> dict[str, str]:
    facts = {"workspace": document["workspace"], "database": document["database"], "daemon": _daemon(document)}
    if document["training"]:
        facts["training"] = _training(document["training"])
        if document["training"]["last"]:
            facts["last file"] = _last(document["training"]["last"])
    if document["queue"]:
        facts["files"] = _files(document["queue"])
    if document["background_tasks"]:
        facts["chores"] = _chores(document["background_tasks"])
    if document["disk"]:
        facts["disk"] = f"{document['disk']['free_gb']:.1f} GB free ({document['disk']['level']})"
    if document["last_error"]:
        facts["last error"] = f"{document['last_error']['error']} (at {document['last_error']['when']})"
    if document["tasks"] is not None:
        counts = {name: count for name, count in document["tasks"].items() if count}
        facts["tasks"] = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
    if document["workers"]:
        facts["workers"] = ", ".join(map(_worker, document["workers"]))
    return {**facts, **_facts_of_the_monitor(document)}


def _facts_of_the_monitor(document: dict[str, Any]) -> dict[str, str]:
    facts = {}
    if document["last_hour"] and document["last_hour"]["total_executions"]:
        facts["last hour"] = _rates(document["last_hour"])
    if document["alerts"]:
        facts["alerts"] = "; ".join(alert["message"] for alert in document["alerts"])
    return facts


def _rates(hour: dict[str, Any]) -> str:
    average = "-" if hour["avg_execution_time"] is None else duration(timedelta(seconds=hour["avg_execution_time"]))
    return f"{hour['total_executions']:,} executions, {hour['success_rate']:.1%} succeeded, {average} on average"


def _worker(worker: dict[str, Any]) -> str:
    words = f"{worker['name'] or worker['id'][:8]} (process {worker['pid']}"
    if not worker["is_alive"]:
        return f"{words}, dead)"
    lost = f", {worker['lost_wakes']} wake-ups lost, see `thirdshift health --level complete`"
    return f"{words}, {worker['busy']} of {worker['slots']} slots busy{lost if worker['lost_wakes'] else ''})"


def _daemon(document: dict[str, Any]) -> str:
    words = str(document["daemon"])
    if document["daemon"] == "running":
        words += f", {document['state']}, process {document['pid']}"
        if document["state"] != "starting":
            words += f", for {duration(datetime.now(UTC) - datetime.fromisoformat(document['started_at']))}"
    return f"{words} ({document['reason']})" if document["reason"] else words


def _training(training: dict[str, Any]) -> str:
    if not training["file"]:
        return "no file in hand"
    if not training.get("total_steps"):
        share = f", {training['share']:.0%}" if training.get("share") else ""
        return f"{training['file']}: {training.get('phase', 'starting')}{share}"
    words = (
        f"{training['file']}: {training['phase']}, step {training['step']}/{training['total_steps']}, "
        f"loss {float(training['loss']):.3f}, {float(training['tokens_per_s']):,.0f} tokens/s, "
        f"ETA {float(training['eta_s']):.0f} s"
    )
    if training.get("set_aside"):
        words += f"; damaged and set aside: {', '.join(training['set_aside'])}"
    if training.get("checkpoint_trouble"):
        words += f"; the last checkpoint failed: {training['checkpoint_trouble']}"
    return words


def _last(last: dict[str, Any]) -> str:
    before, after = last["accuracy_before"], last["accuracy_after"]
    return f"{last['file']}: exact match {before:.1%} -> {after:.1%}, checkpoint {last['checkpoint']}"


def _files(queue: dict[str, Any]) -> str:
    processing = ", ".join(queue["processing"]) or "none"
    return f"{queue['total_queued']} waiting, {processing} in processing, {queue['failed']} failed"


def _chores(chores: dict[str, Any]) -> str:
    if "error" in chores:
        return f"not known: {chores['error']}"
    running = ", ".join(task["name"] for task in chores["running"]) or "none"
    failed = sum(task["error"] is not None for task in chores["recent"])
    return f"{chores['queue_size']} waiting, {running} running, {failed} of the last {len(chores['recent'])} failed"
