"""The sides of the fault demonstrations: their submits, workers that can be killed and stopped whole, their log."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import Skipped, child_environment, family, python
from peers import redis_server

OURS = "thirdshift"
SIDES = {
    OURS: "fault_thirdshift",
    "celery": "fault_celery",
    "dramatiq": "fault_dramatiq",
    "huey": "fault_huey",
    "rq": "fault_rq",
}
_ON_FILES = {OURS, "huey"}


@dataclass(frozen=True)
class Log:
    """What the tasks have written: how often each started and ended, and when."""

    starts: dict[int, list[float]]
    ends: dict[int, list[float]]
    sent: set[int]
    refused: set[int]
    pids: dict[int, int]
    """The process of each task's latest start."""

    @property
    def doubled(self) -> int:
        """How many tasks ran to their end more than once."""
        return sum(len(times) > 1 for times in self.ends.values())


@dataclass
class Side:
    """One library in a room of its own: a Redis server or a file of its own, and its log."""

    who: str
    room: Path
    closing: contextlib.ExitStack
    workers: list["Worker"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.module = SIDES[self.who]
        if self.who in _ON_FILES:
            self.place = str(self.room / "tasks.db")
        else:
            self.place = self.closing.enter_context(redis_server(self.room, "full"))[0]
        try:
            self.settings = self._ask("print(app.SETTINGS)")
        except subprocess.CalledProcessError as error:  # it has said why
            raise Skipped(f"{self.module} cannot be imported") from error
        self.rescue_age_s = float(self._ask("print(app.RESCUE_AGE_S)"))

    @property
    def log_path(self) -> Path:
        return self.room / "log"

    def submit(self, kind: str, count: int, seconds: float, first: int = 0) -> None:
        arguments = (str(self.log_path), kind, str(first), str(count), str(seconds))
        self._ask("app.submit(*sys.argv[1:])", *arguments)

    def known(self) -> int:
        """Return how many tasks are not finished as far as the library knows."""
        return int(self._ask("app.known()"))

    def failed(self) -> int:
        """Return how many tasks the library has told as failed, where those do not run again."""
        return int(self._ask("app.failed()")) if self.who == "rq" else 0

    def start(self, *arguments: str) -> "Worker":
        """Start a worker; it is gone when the side is closed."""
        script = f"import sys, {self.module} as app; app.serve(*sys.argv[1:])"
        worker = Worker([sys.executable, "-c", script, *arguments], self._environment(), self.room)
        self.closing.callback(worker.kill)
        self.workers.append(worker)
        return worker

    def log(self) -> Log:
        found = Log({}, {}, set(), set(), {})
        lines = self.log_path.read_text().splitlines() if self.log_path.exists() else []
        for line in lines:
            word, number, pid, moment = line.split()
            if word in {"start", "end"}:
                times = found.starts if word == "start" else found.ends
                times.setdefault(int(number), []).append(float(moment))
                found.pids[int(number)] = int(pid)
            else:
                (found.sent if word == "sent" else found.refused).add(int(number))
        return found

    def refusals(self) -> str:
        """Return what the children were told that were refused, each once, as the end of a sentence."""
        path = self.log_path.with_name(self.log_path.name + "-refusals")
        told = sorted(set(path.read_text().splitlines())) if path.exists() else []
        return f" ({'; '.join(told)})" if told else ""

    def _environment(self) -> dict[str, str]:
        return {**child_environment(), "FAULTS_PLACE": self.place}

    def _ask(self, call: str, *arguments: str) -> str:
        script = f"import sys, {self.module} as app; {call}"
        return python(script, *arguments, FAULTS_PLACE=self.place)


class Worker:
    """A worker with all the processes that it starts."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._errors = (folder / "workers.txt").open("ab")
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_dead(self) -> bool:
        return self._process.poll() is not None

    def holds(self, pid: int) -> bool:
        """Return whether *pid* is this worker's."""
        return pid in family(self.pid)

    def stop(self) -> None:
        """Stop it where it is, with all its processes."""
        for pid in family(self.pid):
            _send(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in family(self.pid):
            _send(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with all its processes at once, as a lost machine or the kernel would."""
        if self._process.returncode is None:
            tree = family(self.pid)
            for pid in tree:
                _send(pid, signal.SIGSTOP)  # so that none notices the death of another
            for pid in (*family(self.pid), *tree):
                _send(pid, signal.SIGKILL)
            self._process.communicate()
        self._errors.close()


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def side(who: str, room: Path) -> Iterator[Side]:
    """Give one side, without workers; all that it has started is gone afterwards."""
    with contextlib.ExitStack() as closing:
        yield Side(who, room, closing)
