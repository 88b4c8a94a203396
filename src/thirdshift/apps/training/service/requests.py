"""Requests at the daemon's socket: questions are answered from what is known, orders are laid for the loop.

An order that was accepted lies in the control folder, as if a person had laid it there with ``touch``: one way in.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from thirdshift.apps.training.control import ControlFolder
from thirdshift.apps.training.files.queue import TrainingQueue
from thirdshift.apps.training.files.queue_orders import carry_out
from thirdshift.apps.training.notices import Notify, Remarked
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.host.processes import freeze_descendants, send_signal
from thirdshift.host.requests import RequestServer, refusal

STOP_FORMS = {"step": "stop", "after-file": "stop_after_file", "now": "stop_now"}
CHORES = ("snapshot",)
ORDERS = ("status", "pause", "resume", "stop", "skip", "trigger", "queue")


class Requests:
    """Answers requests, in any thread. *status* gives the newest status, *wake* has the loop look at its orders."""

    def __init__(
        self,
        control: ControlFolder,
        queue: TrainingQueue,
        status: Callable[[], dict[str, Any]],
        wake: Callable[[], None],
    ) -> None:
        self._control = control
        self._queue = queue
        self._status = status
        self._wake = wake

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to *request*; it always says whether that was ``accepted``."""
        match request:
            case {"order": "status"}:
                return {"accepted": True, "status": self._status()}
            case {"order": "queue"}:
                answer = carry_out(self._queue, request)
                if request.get("action") != "list":
                    self._wake()
                return answer
            case {"order": "pause" | "resume" | "skip" as word}:
                return self._lay(word)
            case {"order": "stop"}:
                return self._stop(request.get("form", "step"))
            case {"order": "trigger"}:
                return self._trigger(request.get("chore"))
        return refusal(f"there is no order {request.get('order')!r}; known are {', '.join(ORDERS)}")

    def _stop(self, form: object) -> dict[str, Any]:
        if form not in STOP_FORMS:
            return refusal(f"there is no form {form!r} of a stop; known are {', '.join(STOP_FORMS)}")
        if form == "now" and self._is_stopping:
            end_children()  # the loop, which waits for them, takes no orders any more
            return {"accepted": True}
        return self._lay(STOP_FORMS[str(form)])

    def _trigger(self, chore: object) -> dict[str, Any]:
        if chore not in CHORES:
            return refusal(f"there is no chore {chore!r} that can be triggered; known are {', '.join(CHORES)}")
        return self._lay(f"trigger_{chore}")

    def _lay(self, word: str) -> dict[str, Any]:
        if self._is_stopping:
            return refusal("the daemon is stopping; it takes no orders any more")
        if word == "skip" and not self._status()["training"]["file"]:
            return refusal("no file is in hand")
        self._control.request(word)
        self._wake()
        return {"accepted": True}

    @property
    def _is_stopping(self) -> bool:
        return self._status()["state"] in ("stopping", "stopped")


@contextmanager
def served(workspace: TrainingWorkspace, requests: Requests, notify: Notify) -> Iterator[None]:
    """Answer at the workspace's socket inside the block; where there can be none, say so and do without."""
    server = RequestServer(workspace.socket, requests.answer)
    try:
        server.__enter__()
    except OSError as error:
        notify(Remarked(f"no socket for requests ({error}); orders can be laid as files in {workspace.control}"))
        yield
        return
    try:
        yield
    finally:
        server.__exit__(None, None, None)


def end_children() -> None:
    """Kill all processes of this daemon; their tasks run again at its next start."""
    for pid in freeze_descendants(os.getpid()):
        send_signal(pid, signal.SIGKILL)
