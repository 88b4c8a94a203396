"""Waking who waits, without polling: a call inside a process, a datagram between processes.

Every process that listens binds a Unix datagram socket in the folder beside the database; who changed something sends a
byte to each socket of that topic. A lost byte loses no task: everybody looks again at its safety interval.

Who writes to the file with plain SQLite sends nothing. The kernel says that the log was written to (inotify on its
folder; the file itself is never opened). That may be anybody's commit, so workers are asked to look a little later,
when announced work is taken, and not more often than ten times a second. An idle process pays nothing for that.
"""

import contextlib
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from thirdshift.core.engine import Announced
from thirdshift.core.task import PoolKind, TaskId
from thirdshift.host.inotify import FolderWatch

Callback = Callable[[], None]
OfOthers = Callable[[Announced | None], None]
Told = Callable[[Sequence[TaskId]], None]

WORK = "work"
"""There may be something to claim or to cancel."""
FINISHED = "done"
"""Tasks finished."""
ROOM = "room"
"""Tasks left the line of those that wait to run."""
SCHEDULES = "schedules"
"""Schedules were made or changed."""
_TOPICS = (WORK, FINISHED, ROOM, SCHEDULES)

_ANNOUNCEMENT = b"!"
"""Begins a datagram that announces something; one submitted task may follow: its id, pool and queue, in lines."""
_QUESTION = b"?"
"""Begins a datagram that wants an answer, and announces nothing; the name of the socket to answer to follows."""

_DATAGRAM_BYTES = 1024

_PATH_LIMIT = 100
"""Longest path that a Unix socket address can hold, with room to spare (the kernel's limit is 107 bytes)."""

_LOOKS_S = (0.02, 0.1)
"""How long after a write to the log: announced work is taken by then, and a slow disk has ended the commit."""
_REST_S = 0.1
"""How long the log's folder is left alone after a write."""

_MTIME_TICK_NS = 50_000_000
"""Folder times step by the kernel's tick, at most 10 ms."""


@dataclass(frozen=True, eq=False, slots=True)
class _Listener:
    """What one listener wants to be called: of here, of other processes, and where the tasks are known."""

    callback: Callback
    of_others: OfOthers
    told: Told | None
    of_strangers: Callback | None


class _Socket(NamedTuple):
    """The socket of another process: its name in the folder, and what to send to."""

    name: str
    address: str


class WakeHub:
    """The listeners of one process and the sockets of the others, for one database."""

    def __init__(self, folder: Path, identity: str, log: Path | None = None) -> None:
        """*log* is the database's write-ahead log, which is watched for writers who announce nothing."""
        self._folder = folder
        self._log = log
        self._identity = identity
        self._mutex = threading.Lock()
        self._is_closed = False
        self._listeners: dict[str, tuple[_Listener, ...]] = dict.fromkeys(_TOPICS, ())
        self._receivers: dict[str, _Receiver] = {}
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._seen_mtime_ns = -1
        self._others: dict[str, list[_Socket]] = {topic: [] for topic in _TOPICS}
        self._looking = threading.Lock()

    def listen(
        self,
        topic: str,
        callback: Callback,
        of_others: OfOthers | None = None,
        told: Told | None = None,
        of_strangers: Callback | None = None,
    ) -> Callback:
        """Call *callback* at every announcement of *topic*; returns what ends that. It must be quick.

        Announcements of other processes call *of_others* instead, if there is one, on a thread that it may keep busy,
        with the task that :meth:`announce_task` told of; those that say which tasks are meant call *told* instead, if
        there is one. *of_strangers* is called on that thread too, after commits of anybody that may not have been
        announced.
        """
        listener = _Listener(callback, of_others or (lambda _announced: callback()), told, of_strangers)
        with self._mutex:
            self._listeners[topic] = (*self._listeners[topic], listener)
            if topic not in self._receivers and not self._is_closed:
                name = f"{self._identity}.{topic}"
                address, path = self._address(name), self._folder / name
                watch = self._watch() if topic == WORK else None
                self._receivers[topic] = _Receiver(address, path, self._call(topic), self._answer, watch)
        return lambda: self._unlisten(topic, listener)

    def announce(self, topic: str, tasks: Sequence[TaskId] | None = None) -> None:
        """Wake every listener of *topic* in this and the other processes; say which *tasks* are meant, if known.

        Raises nothing: what is announced is committed already, and who misses it finds it at its safety interval.
        """
        for listener in self._listeners[topic]:
            if tasks is None or listener.told is None:
                listener.callback()
            else:
                listener.told(tasks)
        self._announce_to_others(topic)

    def announce_task(self, task: Announced) -> None:
        """Announce one new task.

        If a single process is to be told, it learns which, and can claim it at once. Many had better look before they
        take the write lock: all but one come too late.
        """
        for listener in self._listeners[WORK]:
            listener.callback()
        self._announce_to_others(WORK, alone=_in_words(task))

    def _announce_to_others(self, topic: str, *, alone: bytes = _ANNOUNCEMENT) -> None:
        with contextlib.suppress(OSError):
            self._look_for_others()
            others = self._others[topic]
            for other in others:
                self._nudge(other, alone if len(others) == 1 else _ANNOUNCEMENT)

    def reach(self, timeout_s: float) -> set[int]:
        """Return the ids of the processes whose workers answer a wake-up in time, and this one's.

        Who is not asked has no socket here; who does not answer is stopped, stuck, or its socket's buffer is full.
        """
        name = f"{self._identity}.echo"
        answers = {os.getpid()}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
            ears.bind(self._address(name))
            try:
                self._look_for_others()
                asked = [other for other in self._others[WORK] if self._ask(other, name)]
                deadline = time.monotonic() + timeout_s
                for _ in asked:
                    ears.settimeout(max(0.001, deadline - time.monotonic()))
                    answers.add(int(ears.recv(64)))
            except TimeoutError:
                pass
            finally:
                (self._folder / name).unlink(missing_ok=True)
        return answers

    def abandon(self) -> None:
        """Close, in a forked child, its copies of the parent's descriptors; the parent's sockets stay."""
        for receiver in self._receivers.values():
            receiver.abandon()
        self._sender.close()
        os.close(self._folder_descriptor)

    def close(self) -> None:
        """Stop listening and close every socket. Who still waits is woken once more, to find that out."""
        with self._mutex:
            self._is_closed = True
            receivers = list(self._receivers.values())
            self._receivers.clear()
            waiting = [listener for listeners in self._listeners.values() for listener in listeners]
            self._listeners = dict.fromkeys(_TOPICS, ())
        for receiver in receivers:
            receiver.close()
        for listener in waiting:
            listener.callback()
        self._sender.close()
        os.close(self._folder_descriptor)

    def _call(self, topic: str) -> OfOthers:
        def call(announced: Announced | None) -> None:
            for listener in self._listeners[topic]:
                listener.of_others(announced)

        return call

    def _watch(self) -> "_LogWatch | None":
        if self._log is None:
            return None
        with contextlib.suppress(OSError):  # none is had: the safety interval finds what strangers do
            return _LogWatch(self._log, self._call_of_strangers)
        return None

    def _call_of_strangers(self) -> None:
        for listener in self._listeners[WORK]:
            if listener.of_strangers is not None:
                listener.of_strangers()

    def _unlisten(self, topic: str, listener: _Listener) -> None:
        with self._mutex:
            self._listeners[topic] = tuple(other for other in self._listeners[topic] if other is not listener)

    def _nudge(self, other: _Socket, message: bytes) -> None:
        try:
            self._sender.sendto(message, other.address)
        except ConnectionRefusedError:  # bound by a process that died
            (self._folder / other.name).unlink(missing_ok=True)
        except OSError:  # awake already, gone, or not ours to wake
            pass

    def _ask(self, other: _Socket, reply_to: str) -> bool:
        try:
            self._sender.sendto(_QUESTION + reply_to.encode(), other.address)
        except OSError:  # as in _nudge; who cannot be asked does not answer
            return False
        return True

    def _answer(self, name: str) -> None:
        with contextlib.suppress(OSError):  # who asked has gone
            if re.fullmatch(r"[0-9a-f]{32}\.echo", name):
                self._sender.sendto(str(os.getpid()).encode(), self._address(name))

    def _look_for_others(self) -> None:
        """List the folder again only when it changed; a change within a tick of its clock may not show, so wait one."""
        with self._looking:  # an older list must not replace a newer one
            mtime_ns = os.fstat(self._folder_descriptor).st_mtime_ns  # at every submit: a path would take twice as long
            if mtime_ns == self._seen_mtime_ns:
                return
            names = [path.name for path in self._folder.iterdir()]
            own = self._identity
            self._others = {
                topic: [
                    _Socket(name, self._address(name))  # at every submit a path would take longer than the call
                    for name in names
                    if name.endswith(f".{topic}") and not name.startswith(own)
                ]
                for topic in self._others
            }
            if time.time_ns() - mtime_ns > _MTIME_TICK_NS:
                self._seen_mtime_ns = mtime_ns

    def _address(self, name: str) -> str:
        path = str(self._folder / name)
        if len(os.fsencode(path)) <= _PATH_LIMIT:
            return path
        return f"/proc/self/fd/{self._folder_descriptor}/{name}"


class _LogWatch:
    """Asks for a look some time after the database's log was written to, and then rests. For the receiver's thread."""

    def __init__(self, log: Path, look: Callback) -> None:
        self._name = log.name
        self._look = look
        self._folder = FolderWatch(log.parent)
        self._looks_at: list[float] = []
        self._rests_until: float | None = None

    @property
    def descriptor(self) -> int | None:
        """What to wait for; ``None`` while there is something to do at a moment."""
        return self._folder.fileno() if self._rests_until is None else None

    def wait_ms(self) -> float | None:
        """Return how long to wait until :meth:`step` is due without anything to read."""
        due = min([*self._looks_at, *([] if self._rests_until is None else [self._rests_until])], default=None)
        return None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1

    def step(self) -> None:
        """Do what is due, and read what is there to read."""
        now = time.monotonic()
        if self._rests_until is None:
            names = self._folder.names()
            if names:
                self._rests_until = now + _REST_S
                self._looks_at = [now + after_s for after_s in _LOOKS_S] if self._name in names else []
        elif self._looks_at and self._looks_at[0] <= now:
            del self._looks_at[0]
            self._look()
        elif self._rests_until <= now:
            self._rests_until = None

    def close(self) -> None:
        """Close the descriptor."""
        self._folder.close()


class _Receiver:
    """A bound socket and the thread that waits on it, and on the log's folder if there is a *watch*."""

    def __init__(
        self,
        address: str,
        path: Path,
        callback: OfOthers,
        answer: Callable[[str], None],
        watch: _LogWatch | None = None,
    ) -> None:
        self._path = path
        self._callback = callback
        self._answer = answer
        self._watch = watch
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._receive, name="thirdshift-wake", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._stop_write)
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._socket.close()
        if self._watch is not None:
            self._watch.close()
        os.close(self._stop_read)

    def abandon(self) -> None:
        self._socket.close()
        if self._watch is not None:
            self._watch.close()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _receive(self) -> None:
        readable = select.poll()  # select() knows no descriptor above 1023
        readable.register(self._socket, select.POLLIN)
        readable.register(self._stop_read, select.POLLIN)
        watched: int | None = None
        while True:
            if self._watch is not None and watched != self._watch.descriptor:
                watched = _watch_instead(readable, watched, self._watch.descriptor)
            ready = dict(readable.poll(None if self._watch is None else self._watch.wait_ms()))
            if self._stop_read in ready:
                return
            if self._socket.fileno() in ready and (announcements := self._drain()):
                self._callback(_task_of(announcements[0]) if len(announcements) == 1 else None)
            if self._watch is not None and (watched is None or watched in ready):
                self._watch.step()

    def _drain(self) -> list[bytes]:
        """Take all that has come, and answer questions; returns what was announced."""
        announcements: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while message := self._socket.recv(_DATAGRAM_BYTES):
                if message.startswith(_QUESTION):
                    self._answer(message[len(_QUESTION) :].decode("ascii", "replace"))
                else:
                    announcements.append(message)
        return announcements


def _in_words(task: Announced) -> bytes:
    message = _ANNOUNCEMENT + f"{task.id}\n{task.pool.value}\n{task.queue}".encode("utf-8", "surrogatepass")
    return message if len(message) < _DATAGRAM_BYTES else _ANNOUNCEMENT


def _task_of(announcement: bytes) -> Announced | None:
    """Return the task that an announcement tells of; ``None`` if it tells of none that can be understood."""
    try:
        task_id, pool, queue = announcement[len(_ANNOUNCEMENT) :].decode("utf-8", "surrogatepass").split("\n", 2)
        return Announced(TaskId(task_id), queue, PoolKind(pool))
    except ValueError:
        return None


def _watch_instead(readable: select.poll, before: int | None, after: int | None) -> int | None:
    """Let *readable* wait for *after* in place of *before*."""
    if before is not None:
        readable.unregister(before)
    if after is not None:
        readable.register(after, select.POLLIN)
    return after
