"""``/metrics`` for Prometheus, on the loopback interface: a scrape reads the store, and nothing is kept in between."""

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from thirdshift.core.errors import StoreError, UsageError
from thirdshift.monitor.prometheus import CONTENT_TYPE

_logger = logging.getLogger("thirdshift.monitor")

_ADDRESS = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")
"""What this machine may be called; a page of a stranger's site, led here by its name server, calls it otherwise."""
_TIMEOUT_S = 10.0


class MetricsServer:
    """Answers scrapes until it is closed; *render* makes the text, on a thread of the scrape."""

    def __init__(self, port: int, render: Callable[[], str]) -> None:
        try:
            self._server = ThreadingHTTPServer((_ADDRESS, port), _handler(render))
        except OSError as error:
            raise UsageError(
                f"port {port} of {_ADDRESS} cannot be listened on ({error.strerror}); choose another one, or 0 for any"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="thirdshift-metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where Prometheus finds the metrics."""
        return f"http://{_ADDRESS}:{self._server.server_address[1]}/metrics"

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _handler(render: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S
        server_version = "thirdshift"
        sys_version = ""

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
            if host not in _NAMES:
                self._answer(403, "this address answers to localhost only\n")
            elif self.path.partition("?")[0] != "/metrics":
                self._answer(404, "there is /metrics\n")
            else:
                try:
                    self._answer(200, render())
                except StoreError as error:
                    self._answer(503, f"{error}\n")

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base class's name
            _logger.debug("metrics.scraped " + format, *arguments)  # noqa: G003  # the base class's format

    return Handler
