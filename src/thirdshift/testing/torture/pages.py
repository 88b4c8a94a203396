"""Each page of a database is damaged: that is noticed before anybody gets a wrong answer, or it does no harm.

The damaged file is opened, checked as ``thirdshift health --level complete`` does, and asked everything. Whatever is
answered must be what the sound file answers; any error is as good, and stops it.

Some damage no check can tell, because SQLite keeps no checksums: a bit or a sector inside a value makes another value,
and an empty page in the place of a full one makes an empty table. So for single bits, lost sectors and exchanged pages
a wrong answer is only counted. A file of which nothing is left at all is taken for a new one.
"""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from thirdshift.core import codec
from thirdshift.core.engine import TaskFilter
from thirdshift.core.errors import ThirdshiftError
from thirdshift.core.health import HealthCode, HealthLevel, HealthLimits
from thirdshift.core.task import BackgroundTask, NewTask, PoolKind, TaskId, TaskSpec
from thirdshift.engines.sqlite import SQLiteEngine
from thirdshift.testing.clock import FakeClock
from thirdshift.testing.torture.checker import Violation
from thirdshift.testing.torture.harness import Verdict
from thirdshift.testing.torture.workload import FILE_NAME, Workload

_SECTOR_BYTES = 512
_MORE_TASKS = 200
"""So that the tables and indexes have inner pages too."""
_LIMITS = HealthLimits(answer_s=0.01)
DEAF = "takes a damaged page for an empty one"


def _zeros(page: bytes, _pages: Sequence[bytes], _rng: random.Random) -> bytes:
    return bytes(len(page))


def _noise(page: bytes, _pages: Sequence[bytes], rng: random.Random) -> bytes:
    return rng.randbytes(len(page))


def _another(page: bytes, pages: Sequence[bytes], rng: random.Random) -> bytes:
    return rng.choice([each for each in pages if each != page])


def _torn(page: bytes, _pages: Sequence[bytes], rng: random.Random) -> bytes:
    """Some sectors were never written."""
    sectors = range(0, len(page), _SECTOR_BYTES)
    lost = rng.sample(sectors, rng.randint(1, len(sectors) - 1))
    return b"".join(bytes(_SECTOR_BYTES) if at in lost else page[at : at + _SECTOR_BYTES] for at in sectors)


def _bit(page: bytes, _pages: Sequence[bytes], rng: random.Random) -> bytes:
    at, bit = rng.randrange(len(page)), rng.randrange(8)
    return page[:at] + bytes([page[at] ^ (1 << bit)]) + page[at + 1 :]


_Damage = Callable[[bytes, Sequence[bytes], random.Random], bytes]
_BIT, _TORN, _EXCHANGED = "one bit", "lost sectors", "another page"
_ONLY_COUNTED = (_BIT, _TORN, _EXCHANGED)
_CUT = "cut off"
_DAMAGES: Mapping[str, _Damage] = {
    "zeros": _zeros,
    "noise": _noise,
    _EXCHANGED: _another,
    _TORN: _torn,
    _BIT: _bit,
    _CUT: _zeros,
}


class Pages:
    """Damaged pages; one page and one kind of damage is one case."""

    name = "pages"
    what = "each page of a database is overwritten, torn, exchanged or cut off: noticed before a wrong answer"
    controls: Mapping[str, int] = {DEAF: 200}

    def why_not(self) -> str | None:
        """Return nothing: it works everywhere."""
        return None

    @contextmanager
    def open(self, folder: Path, kept: Path, seed: int, fault: str | None = None) -> Iterator["DamagedPages"]:
        """Make the sound file, and ask it everything."""
        with ExitStack() as stack:
            if fault == DEAF:
                stack.enter_context(patch.object(SQLiteEngine, "_read", _read_deaf))
            yield DamagedPages(folder, kept, seed, is_checked=fault is None)


def _read_deaf(self: SQLiteEngine, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
    try:
        with self._reading():
            return self._reader.execute(query, parameters).fetchall()
    except ThirdshiftError:
        return []


class DamagedPages:
    """Every page of one file, again and again, damaged in another way each time."""

    cases: int | None = None

    def __init__(self, folder: Path, kept: Path, seed: int, *, is_checked: bool) -> None:
        self._folder = folder / "damaged"
        self._kept = kept
        self._seed = seed
        self._is_checked = is_checked
        sound = folder / "sound"
        sound.mkdir()
        self._page_bytes = _make(sound)
        self._content = (sound / FILE_NAME).read_bytes()  # nobody has it open
        self._truth = _ask_all(sound / FILE_NAME)

    def judge(self, number: int) -> Verdict:
        """Damage one page and ask everything."""
        rng = random.Random(f"{self._seed}/{number}")
        pages = [self._content[at : at + self._page_bytes] for at in range(0, len(self._content), self._page_bytes)]
        kinds = list(_DAMAGES)
        kind, place = kinds[number % len(kinds)], number // len(kinds) % len(pages)
        pages[place] = _DAMAGES[kind](pages[place], pages, rng)
        if kind == _CUT:
            del pages[max(1, place) :]
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        path = self._folder / FILE_NAME
        path.write_bytes(b"".join(pages))
        how, wrong = self._ask(path)
        what = f"{kind} in page {place + 1}: {how}"
        found = []
        if wrong and kind in _ONLY_COUNTED:
            how = "damage that no check can tell"
        elif wrong:
            found = [Violation("pages", f"{what}: {wrong}")]
            shutil.copytree(self._folder, self._kept / str(number), dirs_exist_ok=True)
        return Verdict(figures={"damaged pages": 1, how: 1}, violations=found, story=[what])

    def _ask(self, path: Path) -> tuple[str, str]:
        """Return what became of the damage, and the first wrong answer, if there was one."""
        try:
            engine = SQLiteEngine(path, FakeClock())
        except ThirdshiftError:
            return "refused", ""
        except (ValueError, TypeError, sqlite3.Error):
            return "stopped by another error", ""
        with closing(engine):
            try:
                if self._is_checked and not _is_sound(engine):
                    return "found by the check", ""
                for question, answer in _questions(engine):
                    found = answer()
                    if found != self._truth.get(question):
                        return "wrong answer", f"{question}: {found} instead of {self._truth.get(question)}"[:1_000]
            except ThirdshiftError:
                return "refused", ""
            except (ValueError, TypeError, KeyError, IndexError, sqlite3.Error):
                return "stopped by another error", ""
        return "harmless", ""


def _make(folder: Path) -> int:
    """Make a sound file of many pages; returns their size."""
    work = Workload(folder, lambda _line: None, None)
    work.run()
    work.close()
    engine = SQLiteEngine(folder / FILE_NAME, FakeClock())
    with closing(engine):
        for number in range(_MORE_TASKS):
            spec = TaskSpec(
                name=f"task {number % 7}",
                function="m:f",
                queue=f"queue {number % 3}",
                pool=PoolKind.THREAD,
                priority=number % 4 * 10,
                tags=(f"tag {number % 5}",),
                durable=False,
            )
            arguments = codec.encode_arguments((list(range(number * 3 % 500)),), {})
            engine.submit([NewTask(TaskId(f"{number + 10**6:032x}"), arguments, spec)])
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # all of it is in one file now
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(size)


def _ask_all(path: Path) -> dict[str, Any]:
    with closing(SQLiteEngine(path, FakeClock())) as engine:
        return {question: answer() for question, answer in _questions(engine)}


def _questions(engine: SQLiteEngine) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield all that can be asked, and how to ask it."""
    yield "counts", engine.counts
    yield "queues", engine.queues
    yield "functions", engine.functions
    yield "workers", lambda: [worker.id for worker in engine.workers()]
    yield "failures", lambda: engine.failure_groups(TaskFilter())
    yield "list", lambda: [task.id for task in engine.find(TaskFilter(limit=10_000))]
    for number in [*range(1, 40), *range(10**6, 10**6 + _MORE_TASKS)]:
        task = f"{number:032x}"
        yield f"task {number}", lambda: _whole(engine.get(task))  # noqa: B023  # asked at once
        yield f"status {number}", lambda: engine.status(task)  # noqa: B023
        yield f"steps {number}", lambda: engine.steps(task)  # noqa: B023
    for tag in range(5):
        yield f"tag {tag}", lambda: [task.id for task in engine.find(TaskFilter(tag=f"tag {tag}", limit=1_000))]  # noqa: B023
    for queue in range(3):
        yield f"queue {queue}", lambda: engine.counts(TaskFilter(queue=f"queue {queue}"))  # noqa: B023


def _whole(task: BackgroundTask | None) -> Any:
    """Return all of *task*, with what its arguments and its result say to whoever uses them."""
    return None if task is None else (replace(task, encoded_arguments=b""), task.arguments, task.result)


def _is_sound(engine: SQLiteEngine) -> bool:
    findings = engine.examine(HealthLevel.DOCTOR, _LIMITS)
    return all(finding.is_healthy for finding in findings if finding.code is HealthCode.INTEGRITY)
