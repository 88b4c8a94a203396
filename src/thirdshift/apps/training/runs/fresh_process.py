"""A file's training in a process of its own, for when memory did not suffice in this one.

What a process has once taken, it seldom gives back whole; a fresh one begins with all there is. It is started here,
speaks JSON, one line each, and dies with us: a checkpoint directory must never have two writers.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from thirdshift.apps.training.data.rows import BadLine
from thirdshift.apps.training.job import FileResult, OutOfMemory, Progress, TrainingJob
from thirdshift.apps.training.runs.decision import Skipped
from thirdshift.core.errors import ThirdshiftError
from thirdshift.host.processes import die_with_parent

_LOOK_S = 0.05


class TrainerFailed(ThirdshiftError):
    """A training in a process of its own ended with an error."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the training process failed: {why}")


def train_in_fresh_process(
    job: TrainingJob, *, report: Callable[[Progress], None], should_stop: Callable[[], bool]
) -> FileResult | None:
    """Train *job* in a fresh process and return its result; None when memory did not suffice there either.

    Raises ``BadLine``, ``Skipped``, or :class:`TrainerFailed` for every other error.
    """
    command = [sys.executable, "-P", "-m", __name__, str(os.getpid())]  # -P: the folder it runs in is no library
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(job.to_document()) + "\n")
        child.stdin.flush()
        answer: dict[str, Any] = {}
        for message in _messages(child.stdin, child.stdout, should_stop):
            if "progress" in message:
                report(Progress(**message["progress"]))
            else:
                answer = message
    if "result" in answer:
        return FileResult.from_document(answer["result"])
    if "bad_line" in answer:
        path, line, why = answer["bad_line"]
        raise BadLine(Path(path), line, why)
    if "skipped" in answer:
        raise Skipped(job.data.name)
    if "out_of_memory" in answer:
        return None
    raise TrainerFailed(answer.get("error", f"it ended with status {child.returncode}"))


def _messages(to_child: IO[str], from_child: IO[str], should_stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Yield what the child says until it is done, and tell it once when it is to stop."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in from_child:
            lines.put(line)
        lines.put("")

    threading.Thread(target=listen, name="thirdshift-trainer", daemon=True).start()
    is_told = False
    while True:
        try:
            line = lines.get(timeout=_LOOK_S)
        except queue.Empty:
            line = None
        if line == "":
            return
        if line is not None:
            yield json.loads(line)
        if not is_told and should_stop():
            is_told = True
            to_child.write("stop\n")
            to_child.flush()


def _main() -> None:
    """Be the fresh process: read a job, train it, and say what becomes of it."""
    die_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the answers
    job = TrainingJob.from_document(json.loads(sys.stdin.readline()))
    is_stopped = threading.Event()

    def listen() -> None:
        sys.stdin.readline()  # "stop", or the end of our parent
        is_stopped.set()

    threading.Thread(target=listen, daemon=True).start()

    def say(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")

    from thirdshift.apps.training.runs.train_file import train_here  # noqa: PLC0415

    try:
        result = train_here(job, report=lambda progress: say(progress=asdict(progress)), should_stop=is_stopped.is_set)
    except BadLine as error:
        say(bad_line=[str(error.path), error.line, error.why])
    except Skipped:
        say(skipped=True)
    except OutOfMemory:
        say(out_of_memory=True)
    except ThirdshiftError as error:
        say(error=str(error))
    else:
        say(result=result.to_document())


if __name__ == "__main__":
    _main()
