"""What people ask of the queue, as requests and answers of plain data; the same with a daemon and without."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.core.errors import UsageError
from thirdshift.core.plain import plain

ACTIONS = ("list", "priority", "retry", "remove")


def carry_out(queue: TrainingQueue, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what *request* says and return the answer; raises :class:`UsageError` for what cannot be done.

    ``{"action": "list"}``, ``{"action": "priority", "file": …, "priority": …}``, ``{"action": "retry", "file": …}``
    (to the end of the low line, or of that of ``priority``), ``{"action": "remove", "file": …}``.
    """
    match request:
        case {"action": "list"}:
            waiting = [plain(asdict(file)) for file in queue.queued()]
            return {"accepted": True, "waiting": waiting, **_elsewhere(queue)}
        case {"action": "priority", "file": str(name), "priority": str(priority)}:
            return _moved(queue.set_priority(name, priority))
        case {"action": "retry", "file": str(name)}:
            return _moved(queue.retry(name, str(request.get("priority", "low"))))
        case {"action": "remove", "file": str(name)}:
            queue.remove(name)
            return {"accepted": True, "file": name}
    raise UsageError(
        f"a request to the queue names one of the actions {', '.join(ACTIONS)}, and a file; see the README"
    )


def _elsewhere(queue: TrainingQueue) -> dict[str, Any]:
    return {"processing": queue.get_queue_status()["processing"], "failed": queue.failed()}


def _moved(path: Any) -> dict[str, Any]:
    return {"accepted": True, "file": path.name, "priority": path.parent.name}
