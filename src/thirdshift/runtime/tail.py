"""The end of a text that may be endless: what an attempt prints and logs is kept in bounded memory."""

import threading

TAIL_BYTES = 64 * 1024
"""Most bytes that are kept of each: standard output, standard error and log records of an attempt."""


class Tail:
    """Keeps the last :data:`TAIL_BYTES` of what is added, and counts the rest. Any thread may add."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._kept = bytearray()
        self._left_out = 0

    def add(self, data: bytes) -> None:
        """Add *data* at the end."""
        with self._mutex:
            self._kept += data
            if len(self._kept) > 2 * TAIL_BYTES:  # not at every byte: moving them costs more than keeping them a while
                self._trim()

    def take(self) -> str | None:
        """Return what is kept, marked where something was left out, and begin anew; ``None`` when nothing came."""
        with self._mutex:
            self._trim()
            kept, left_out = bytes(self._kept), self._left_out
            self._kept, self._left_out = bytearray(), 0
        if not kept:
            return None
        text = kept.decode("utf-8", "backslashreplace")
        return f"… {left_out:,} bytes left out\n{text}" if left_out else text

    def _trim(self) -> None:
        beyond = len(self._kept) - TAIL_BYTES
        if beyond > 0:
            del self._kept[:beyond]
            self._left_out += beyond
