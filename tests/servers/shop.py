"""A web application as people write them, for gunicorn (``wsgi``) and for uvicorn (``asgi``).

Each request submits one task, which appends a line to a log. ``SHOP_OPENED`` says when the manager is made: by each
process at its first request, or when the module is imported, which is before the fork under ``gunicorn --preload``.
A process of gunicorn that has answered alone so far keeps its first request until another one takes one too: on a busy
machine a single process could else answer them all, and nothing would be shared.
"""

import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from thirdshift import BackgroundTaskManager
from thirdshift.testing.signals import TIMEOUT_S, append

DATABASE, LOG, OPENED = (os.environ[f"SHOP_{name}"] for name in ("DATABASE", "LOG", "OPENED"))

_mutex = threading.Lock()
_manager: BackgroundTaskManager | None = None


def sell(number: str) -> None:
    """Take a moment, so that some are in hand when the server is told to stop."""
    time.sleep(0.01)
    append(LOG, number)


def open_shop(*, start: bool = True) -> BackgroundTaskManager:
    return BackgroundTaskManager(max_workers=2, database=DATABASE, start=start)


def manager() -> BackgroundTaskManager:
    """Return the manager of this process; the one from before the fork, if there is one, goes on submitting here."""
    global _manager  # noqa: PLW0603  # one for the process
    with _mutex:
        if _manager is None:
            _manager = open_shop()
        return _manager


if OPENED.startswith("before the fork"):
    _manager = open_shop(start=OPENED.endswith("to work"))


def meet_another_process() -> None:
    """Wait until two processes have come here; who comes later goes on at once."""
    met = Path(f"{LOG}.met")
    met.mkdir(exist_ok=True)
    (met / str(os.getpid())).touch()
    deadline = time.monotonic() + TIMEOUT_S
    while len(list(met.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    task_id = manager().submit_task(sell, environ["PATH_INFO"].strip("/"))
    meet_another_process()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {task_id}".encode()]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        async with manager():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    task_id = await manager().asubmit_task(sell, scope["path"].strip("/"))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {task_id}".encode()})
