"""What a worker and its child say to each other: JSON messages, each after its length, over one socket.

================  =========================================================================================
worker to child   ``call`` (run an attempt), ``stop`` (set ``should_stop`` of that attempt)
child to worker   ``ready`` (after start), ``began`` (the module is imported), ``progress``, ``alive`` (it logs),
                  ``ended`` (how the attempt ended, and what it used)
================  =========================================================================================
"""

import json
import socket
import struct
import threading
from typing import Any

_LENGTH = struct.Struct(">I")


class Channel:
    """One end of the conversation. Any thread may send; one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, kind: str, **facts: Any) -> None:
        """Send one message. Raises ``OSError`` when the other side is gone."""
        body = json.dumps({"kind": kind, **facts}).encode()
        with self._sending:
            self._connection.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, ``None`` when the other side is gone."""
        header = self._read(_LENGTH.size)
        if header is None:
            return None
        body = self._read(*_LENGTH.unpack(header))
        if body is None:
            return None
        message: dict[str, Any] = json.loads(body)
        return message

    def fileno(self) -> int:
        """Return the descriptor of this end, for who waits for more than one."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def _read(self, size: int) -> bytes | None:
        parts: list[bytes] = []
        while size:
            try:
                part = self._connection.recv(min(size, 1 << 20))
            except ConnectionResetError:
                return None
            if not part:
                return None
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
