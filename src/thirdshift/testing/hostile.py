"""Task functions that do what nobody should do to a worker: the gallery that every pool has to outlive."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

_FOREVER_S = 3_600.0
_MIB = 1024 * 1024


def _sleep_on() -> NoReturn:
    while True:
        time.sleep(_FOREVER_S)


def _ignore_all() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def sleep_in_c() -> None:
    """Hold the interpreter's lock in a call of C that no signal interrupts."""
    mutex = ctypes.create_string_buffer(128)  # all zero: a mutex of pthread, not locked
    lock = ctypes.PyDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)


def sleep_in_c_for_an_hour() -> None:
    """Sleep in a call of C that lets other threads run, and that nothing but its time ends."""
    ctypes.CDLL(None).sleep(int(_FOREVER_S))


def ignore_sigterm() -> None:
    """Sleep through all polite requests."""
    _ignore_all()
    _sleep_on()


def fork_a_family() -> None:
    """Start children, grandchildren and great-grandchildren, which all stay."""
    _ignore_all()
    for _ in range(3):
        os.fork()
    _sleep_on()


def leave_the_group() -> None:
    """Start a daemon as daemons start themselves, and wait for ever."""
    start_daemon()
    _sleep_on()


def start_daemon() -> None:
    """Fork, leave the session and the group, fork again: nothing leads from the daemon back here."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    _ignore_all()
    _sleep_on()


def leave_and_exit(status: int) -> NoReturn:
    """End the process at once, with a daemon left behind."""
    start_daemon()
    time.sleep(0.1)  # the daemon has an orphan's life of its own by now
    os._exit(status)


def leave_and_crash() -> None:
    """Read where nothing is, with a daemon left behind."""
    start_daemon()
    ctypes.string_at(0)


def breed() -> NoReturn:
    """Have children that leave and have children, without an end; the youngest only wait, so that the machine lives."""
    _ignore_all()
    for _ in range(30):
        if os.fork() == 0:
            os.setsid()
            os.fork()
            _sleep_on()
        time.sleep(0.02)
    _sleep_on()


def eat_memory(limit_mib: int) -> None:
    """Take all memory that the process may have, which is *limit_mib*."""
    resource.setrlimit(resource.RLIMIT_AS, (limit_mib * _MIB,) * 2)
    eaten = []
    while True:
        eaten.append(bytearray(16 * _MIB))


def eat_memory_in_c(limit_mib: int) -> None:
    """Do the same as a library does that never asks whether there was any."""
    resource.setrlimit(resource.RLIMIT_AS, (limit_mib * _MIB,) * 2)
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    while True:
        libc.memset(libc.malloc(16 * _MIB), 1, 16 * _MIB)


def eat_memory_in(group: str, most_mib: int) -> NoReturn:
    """Enter a control group and take so much more memory than it may have that the kernel kills the process."""
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    eaten = [b"x" * _MIB for _ in range(most_mib)]  # written to: memory that nobody has touched is nobody's
    raise RuntimeError(f"nobody minded that {len(eaten)} MiB were taken in {group}")


def write(megabytes: int) -> int:
    """Write so much to standard output, past Python's buffers."""
    block = b"x" * (_MIB - 1) + b"\n"
    for _ in range(megabytes):
        left = block
        while left:
            left = left[os.write(1, left) :]
    return megabytes


def write_for_ever() -> NoReturn:
    """Never stop writing."""
    while True:
        write(1)


def speak_everywhere() -> None:
    """Say something on every way there is."""
    print("printed")  # noqa: T201
    print("printed to the other", file=sys.stderr)  # noqa: T201
    os.write(1, b"written\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"said in C")
    with contextlib.suppress(OSError):
        os.system("echo said by a shell; echo complained by a shell >&2")  # noqa: S605, S607


def close_the_streams() -> str:
    """Close what others hold open for it."""
    os.close(1)
    os.close(2)
    return "closed"


def grow(mebibytes: int) -> int:
    """Keep memory for good; returns the process's id."""
    _kept.append(bytearray(mebibytes * _MIB))
    return os.getpid()


_kept: list[bytearray] = []
