"""What a worker and its child say to each other: JSON messages, each after its length, over one socket.

================  =========================================================================================
worker to child   ``call`` (run an attempt), ``stop`` (set ``should_stop`` of that attempt), ``fence``, ``steps`` and
                  ``kept`` (answers)
child to worker   ``ready`` (after start), ``began`` (the module is imported), ``progress``, ``alive`` (it logs),
                  ``fence`` (asks for what it needs to record its own end), ``committed`` (it has done so),
                  ``recall`` (which steps are done?), ``keep`` (store a step), ``ended`` (how the attempt ended, and
                  what it used)
================  =========================================================================================
"""

import json
import socket
import struct
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from thirdshift.core.task import Step

_LENGTH = struct.Struct(">I")
_CHUNK_BYTES = 1 << 14
"""Read at once; more would be mapped and unmapped at every message."""


def facts_of_step(step: Step) -> dict[str, Any]:
    """Return *step* as a part of a message."""
    return {
        "name": step.name,
        "inputs": step.inputs,
        "result": step.encoded_result.decode("utf-8", "surrogatepass"),
        "attempt": step.attempt,
        "finished_at": step.finished_at.isoformat(),
    }


def step_of_facts(facts: Mapping[str, Any]) -> Step:
    """Return what :func:`facts_of_step` was given."""
    return Step(
        name=facts["name"],
        inputs=facts["inputs"],
        encoded_result=facts["result"].encode("utf-8", "surrogatepass"),
        attempt=facts["attempt"],
        finished_at=datetime.fromisoformat(facts["finished_at"]),
    )


class Channel:
    """One end of the conversation. Any thread may send; one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._unread = bytearray()

    def send(self, kind: str, **facts: Any) -> None:
        """Send one message. Raises ``OSError`` when the other side is gone."""
        body = json.dumps({"kind": kind, **facts}).encode()
        with self._sending:
            self._connection.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, waiting for it; ``None`` when the other side is gone."""
        while (message := self.next()) is None:
            if not self.fill():
                return None
        return message

    def next(self) -> dict[str, Any] | None:
        """Return the next message of what has been read already, ``None`` when there is none."""
        unread = self._unread
        if len(unread) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(unread)
        end = _LENGTH.size + size
        if len(unread) < end:
            return None
        message: dict[str, Any] = json.loads(unread[_LENGTH.size : end])
        del unread[:end]
        return message

    def fill(self) -> bool:
        """Read what there is, waiting for something; False when the other side is gone."""
        try:
            part = self._connection.recv(_CHUNK_BYTES)
        except ConnectionResetError:
            return False
        self._unread += part
        return bool(part)

    def fileno(self) -> int:
        """Return the descriptor of this end, for who waits for more than one."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
