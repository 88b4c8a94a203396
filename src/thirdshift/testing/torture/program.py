"""A program beside this one that answers each line of JSON with one: it forks the victims."""

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

_END_S = 60.0


class Program:
    """Runs *module* until the block is left; asked one thing at a time."""

    def __init__(self, module: str) -> None:
        command = [sys.executable, "-W", "error", "-m", module]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=_END_S)

    def ask(self, said: dict[str, Any]) -> dict[str, Any]:
        """Return the answer; raises ``RuntimeError`` when the program has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the program that makes victims has ended; what it says stands on standard error")
        found: dict[str, Any] = json.loads(answer)
        return found
