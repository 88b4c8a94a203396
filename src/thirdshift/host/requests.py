"""Questions to a running program and its answers, one line of JSON each, over a Unix socket of this user alone.

Whatever a client does costs the program nothing but one thread for a few seconds: a request has a longest length and
must be whole in time, an answer must be read in time, and there are at most so many clients.
"""

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from thirdshift.host.waiting import Waker

LONGEST_REQUEST_BYTES = 64 * 1024
MOST_CLIENTS = 32
PATIENCE_S = 5.0
"""How long a client may take to send a request that it has begun, to send another, and to read its answer."""

_LONGEST_PATH_BYTES = 100
"""Of a Unix socket's address, with room to spare (the kernel's limit is 107, or 103 on macOS)."""
_BACKLOG = 128
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a peer."""

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class RequestServer:
    """Answers at the socket *path*, whose folder must exist and be private, inside its ``with`` block.

    *answer* is called with each request, a JSON object, in threads of the server, several at once; it must be quick.
    What it raises is told to the client. Only one program at a time may serve a path: a socket that lies there is
    replaced. Raises :class:`OSError` where no socket can be made.
    """

    def __init__(self, path: Path, answer: Answer, *, patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._answer = answer
        self._patience_s = patience_s
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        self._clients: set[socket.socket] = set()
        self._mutex = threading.Lock()

    def __enter__(self) -> Self:
        self._listener = _listen(self._path)
        self._end = Waker()
        self._thread = threading.Thread(target=self._accept, name="thirdshift-requests", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.wake()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        self._listener.close()
        self._end.close()
        with self._mutex:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._end, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while self._end not in {key.fileobj for key, _ in selector.select()}:
                try:
                    client, _ = self._listener.accept()
                except OSError:  # it is gone again, or no descriptor is free: others may be served later
                    time.sleep(0.01)
                    continue
                self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        client.settimeout(self._patience_s)
        if not _is_ours(client) or not self._places.acquire(blocking=False):
            client.close()
            return
        with self._mutex:
            self._clients.add(client)
        threading.Thread(target=self._serve, args=(client,), name="thirdshift-client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # it left, or it does not read
                for line in _lines(client, self._patience_s):
                    client.sendall(json.dumps(self._answered(line)).encode() + b"\n")
                    if line is None:
                        return
        finally:
            with self._mutex:
                self._clients.discard(client)
            client.close()
            self._places.release()

    def _answered(self, line: bytes | None) -> dict[str, Any]:
        if line is None:
            return refusal(f"a request is one line of at most {LONGEST_REQUEST_BYTES:,} bytes")
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return refusal("a request is one JSON object on one line; this is no JSON")
        if not isinstance(request, dict):
            return refusal("a request is a JSON object")
        try:
            return self._answer(request)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is told and the server goes on
            return refusal(str(error) or type(error).__name__)


def refusal(why: str) -> dict[str, Any]:
    """Return the answer to a request that is not granted."""
    return {"accepted": False, "error": why}


def ask(path: Path, request: dict[str, Any], timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """Return the answer to *request* of the program that serves *path*; raises :class:`OSError` when there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        with _address(path) as address:
            connection.connect(address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            part = connection.recv(1 << 16)
            if not part:
                raise ConnectionResetError(f"{path} gave no answer")
            received += part
    answer: dict[str, Any] = json.loads(received)
    return answer


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            listener.bind(address)
        path.chmod(0o600)  # before anybody can connect
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Give a name of *path* that is short enough for a socket; on Linux there always is one."""
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise OSError(f"{path} is too long for the name of a socket; at most {_LONGEST_PATH_BYTES} bytes")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _is_ours(client: socket.socket) -> bool:
    """Whether it is this user, or root, who asks; where the system does not say, the file's mode has decided."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(found)[1] in (0, os.geteuid())


def _lines(client: socket.socket, patience_s: float) -> Iterator[bytes | None]:
    """Yield the requests of *client*; None, at the end, for one that is too long."""
    received = b""
    while True:
        until = time.monotonic() + patience_s
        while b"\n" not in received:
            if len(received) > LONGEST_REQUEST_BYTES:
                yield None
                return
            client.settimeout(max(0.001, until - time.monotonic()))
            part = client.recv(1 << 16)
            if not part:
                return
            received += part
        line, _, received = received.partition(b"\n")
        client.settimeout(patience_s)
        yield None if len(line) > LONGEST_REQUEST_BYTES else line
