"""The program that makes victims: it forks one for each case and reports what that one was told until its end.

It reads a case from each line of JSON (see :class:`thirdshift.testing.torture.victims.Case`) and answers with one line.
It starts no thread, so that a fork is safe, and its victims open the engine themselves.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from thirdshift.testing.torture.room import make_room
from thirdshift.testing.torture.workload import Workload, planted

_LONGEST_S = 120
"""Whoever takes longer hangs; on a busy machine a victim may get no processor for a while."""
_PR_SET_PTRACER = 0x59616D61
_ANYBODY = -1
_GO = b"g"


def main() -> None:
    """Make one victim for each line."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_one(json.loads(line))) + "\n")
        sys.stdout.flush()


def _one(case: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_victim(theirs, case)
    theirs.close()
    tracer = _trace(pid, case["strace"]) if case["strace"] else None
    ours.send(_GO)
    with ours, ours.makefile("rb") as said:
        lines = []
        for line in said:
            lines.append(json.loads(line))
            if "needs" in lines[-1]:
                _make_room(case)
                ours.send(_GO)
    _, status = os.waitpid(pid, 0)
    if tracer is not None:
        tracer.wait()
        if tracer.stderr is not None:
            tracer.stderr.close()
    return {"lines": lines, "status": os.waitstatus_to_exitcode(status)}


def _trace(pid: int, options: list[str]) -> "subprocess.Popen[bytes]":
    """Attach strace to the victim's only thread, which waits."""
    tracer = subprocess.Popen(["strace", *options, "-p", str(pid)], stderr=subprocess.PIPE)  # noqa: S607
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    if b"attached" not in line:
        raise RuntimeError(f"strace does not attach: {line.decode()}{tracer.stderr.read().decode()}")
    return tracer


def _make_room(case: dict[str, Any]) -> None:
    if case["mount_bytes"]:
        make_room(Path(case["folder"]))


def _be_victim(link: socket.socket, case: dict[str, Any]) -> None:
    status = 1
    try:
        faulthandler.dump_traceback_later(_LONGEST_S, exit=True)
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
        link.recv(1)
        _limit(case)
        with planted(case["fault"]):
            work = Workload(
                Path(case["folder"]), lambda line: link.sendall(json.dumps(line).encode() + b"\n"), case["fault"]
            )
            work.run()
            if case["probes"]:
                link.sendall(b'{"needs": "room"}\n')
                link.recv(1)
                _lift_limits()
                link.sendall(b'{"has": "room"}\n')
                work.probe()
            work.close()
        status = 0
    finally:
        os._exit(status)  # as a killed process: nothing else is closed


def _limit(case: dict[str, Any]) -> None:
    if case["memory_bytes"] is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + case["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    if case["heap_bytes"] is not None:
        connection = sqlite3.connect(":memory:")  # the limit is the process's
        with contextlib.suppress(MemoryError):  # the lowest limit fails the statement that has set it
            connection.execute(f"PRAGMA hard_heap_limit = {case['heap_bytes']:d}")
        connection.close()
    if case["file_bytes"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (case["file_bytes"], resource.RLIM_INFINITY))


def _lift_limits() -> None:
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
