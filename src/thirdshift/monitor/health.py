"""Findings as words for people, and what to do: the edge where the data of ``core/health.py`` becomes text."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from thirdshift.core.health import Finding, HealthCode
from thirdshift.core.words import duration
from thirdshift.monitor.logs import LOST_WAKES


def sentence(finding: Finding) -> str:  # noqa: C901, PLR0912  # a table: one line for each code
    """Return what was found."""
    facts = finding.facts
    match finding.code:
        case HealthCode.STORE:
            return f"{facts['database']} answers"
        case HealthCode.WORKERS:
            dead = f", {facts['dead']} died and {_are(facts['dead'])} still registered" if facts["dead"] else ""
            return f"{_number(facts['alive'], 'worker')} alive{dead}"
        case HealthCode.WRITING:
            return f"the write lock is had after {_span(facts['wait_s'])}"
        case HealthCode.INTEGRITY:
            if facts["problems"]:
                return f"the file is damaged: {'; '.join(facts['problems'])}"
            whole = "sound" if facts["is_whole"] else f"sound as far as was read in {facts['limit_s']:g} s"
            return f"the file is {whole}"
        case HealthCode.LOG:
            return f"the write-ahead log has {_megabytes(facts['size_bytes'])}"
        case HealthCode.LEFT_BEHIND:
            if not facts["tasks"]:
                return "dead workers have left nothing behind"
            return f"{_number(facts['tasks'], 'task')} held by {_number(facts['workers'], 'dead worker')}"
        case HealthCode.OLDEST_TASK:
            if facts["age_s"] is None:
                return "no runnable task waits"
            return f"the oldest runnable task waits for {_span(facts['age_s'])}, in queue {facts['queue']}"
        case HealthCode.DISK:
            return f"{_megabytes(facts['free_bytes'])} free on the disk of {facts['folder']}"
        case HealthCode.WAKE_UPS:
            silent = ", ".join(map(str, facts["silent"]))
            answered = f"{_number(facts['answered'], 'working process', 'working processes')} answered a wake-up"
            return f"{answered}, process {silent} did not" if silent else answered
        case HealthCode.UNKNOWN_FUNCTIONS:
            if not facts["functions"]:
                return "workers find the functions of all their tasks"
            return f"not found: {', '.join(_unknown(each, facts['alive']) for each in facts['functions'])}"
        case HealthCode.LOST_WAKES:
            if not facts["count"]:
                return "no wake-up was lost"
            last = f", the last {_span(facts['seconds_ago'])} ago"
            return f"work was found {_number(facts['count'], 'time')} that nobody had announced{last}"
        case HealthCode.SCHEDULES:
            late = ", ".join(f"{each['name']} ({_span(each['late_s'])})" for each in facts["late"])
            return f"schedules are late: {late}" if late else f"{_number(facts['active'], 'schedule')} on time"
        case HealthCode.FILE_SYSTEM:
            if facts["type"] is None:
                return "which file system holds the file cannot be seen on this system"
            where = "on this machine" if finding.is_healthy else "which another machine serves: nothing was opened"
            return f"{facts['path']} lies on {facts['type']}, {where}"
        case HealthCode.LIBRARY:
            race = " has the WAL-reset race, which our own checkpoints avoid" if facts["has_race"] else ""
            several = f"; several libraries in one process: {', '.join(facts['files'])}"
            return f"SQLite {facts['version']}{race}{'' if finding.is_healthy else several}"
        case HealthCode.STRANGERS:
            if facts["programs"] is None:
                return "other programs that have the file open cannot be seen on this system"
            named = ", ".join(f"{program['name']} (process {program['pid']})" for program in facts["programs"])
            return f"other programs have the file open: {named}" if named else "no other program has the file open"
        case HealthCode.STALE_WORKERS:
            named = ", ".join(f"process {each['pid']} ({each['name'] or each['id']})" for each in facts["workers"])
            return f"workers are registered and dead: {named}" if named else "every registered worker lives"
        case HealthCode.STALE_LOCKS:
            named = ", ".join(facts["files"])
            return f"files of workers that are gone: {named}" if named else "every lock file has its worker"
        case HealthCode.ORPHANS:
            named = ", ".join(f"process {each['pid']}" for each in facts["children"])
            return f"children of dead workers still run: {named}" if named else "no child has outlived its worker"
        case HealthCode.PERMISSIONS:
            opened = ", ".join(f"{each['path']} ({each['mode']})" for each in facts["open"])
            return (
                f"others than the owner may use {opened}" if opened else "only the owner may read and write the files"
            )
        case HealthCode.FREE_SPACE:
            return f"{_megabytes(facts['free_bytes'])} of the file's {_megabytes(facts['size_bytes'])} are free"
        case HealthCode.CLOCK:
            ahead_s = facts["ahead_s"]
            return (
                f"the newest submit lies {_span(ahead_s)} in the future" if ahead_s else "no submit lies in the future"
            )
        case HealthCode.FUNCTIONS:
            if not facts["missing"]:
                return f"{_number(facts['count'], 'function')} of unfinished tasks found"
            missing = "; ".join(f"{each['function']}: {each['error']}" for each in facts["missing"])
            return f"functions of unfinished tasks that are not found here: {missing}"


def remedy(finding: Finding) -> str | None:  # noqa: C901, PLR0912  # as above
    """Return what to do about it; ``None`` when all is as it should be."""
    if finding.is_healthy:
        return None
    facts = finding.facts
    match finding.code:
        case HealthCode.WORKERS:
            return "start one: `thirdshift worker`, or `thirdshift up`"
        case HealthCode.INTEGRITY:
            return (
                "stop all workers, keep the file together with its -wal and -shm, and restore a backup or start with a "
                "new file"
            )
        case HealthCode.LOG:
            return (
                f"over {_megabytes(facts['limit_bytes'])}: some program keeps a read transaction open on the file, so "
                "that nobody can shorten it; end that program, or start a worker if there is none"
            )
        case HealthCode.LEFT_BEHIND:
            return (
                "a live worker takes them over within a second: start one; if there is one, look in its log for "
                "store.unavailable, and for a child process of the dead one that cannot be killed"
            )
        case HealthCode.OLDEST_TASK:
            return (
                f"longer than {_span(facts['limit_s'])}: `thirdshift tasks list --status pending` names it and "
                "`thirdshift why ID` says what holds it; start more workers, or raise --max-wait if that is usual here"
            )
        case HealthCode.DISK:
            return (
                f"less than {_megabytes(facts['limit_bytes'])}: free some space, or `thirdshift tasks prune` and "
                "`thirdshift tasks vacuum`"
            )
        case HealthCode.WAKE_UPS:
            return (
                "it is stopped (SIGSTOP, a suspended container), stuck, or does not share the folder FILE.run beside "
                "the database; kill -USR2 shows its stacks on its standard error"
            )
        case HealthCode.UNKNOWN_FUNCTIONS:
            return (
                "install the code where a worker runs, name its folder with --app-dir, or say by `aliases` where the "
                "function is now; `thirdshift why ID` shows how each worker looked for it"
            )
        case HealthCode.LOST_WAKES:
            return f"such tasks may start up to a second late. Probable cause: {LOST_WAKES}"
        case HealthCode.SCHEDULES:
            return (
                "no worker makes their tasks, or it does not know their zone: start one (`thirdshift worker`) whose "
                "configuration says scheduler: {enabled: true}, and look for schedule.unusable in its log"
            )
        case HealthCode.FILE_SYSTEM:
            return (
                "locks cannot be trusted there, so tasks would be lost: stop who uses the file, copy it with its -wal "
                "to a local disk, and name it there by `database` in thirdshift.yaml, --workspace or --database"
            )
        case HealthCode.LIBRARY:
            return (
                "closing a file in one drops the locks of the other: do without the package that brings a SQLite of "
                "its own, or use it in another process"
            )
        case HealthCode.STRANGERS:
            return (
                "on this version of SQLite their checkpoints can damage the file: end them, let them read a copy "
                "(`VACUUM INTO`), or use SQLite 3.51.3 or newer everywhere"
            )
        case HealthCode.STALE_WORKERS:
            return "a live worker forgets them within a second: start one (`thirdshift worker`)"
        case HealthCode.STALE_LOCKS:
            return "nobody uses them: `rm` them; they cost a look at each start, and nothing else"
        case HealthCode.ORPHANS:
            return (
                "a live worker ends them before it takes over their tasks: start one, or end them with kill -9; a "
                "stopped one (SIGSTOP) and one in a sleep of the kernel (state D) are the usual reasons"
            )
        case HealthCode.PERMISSIONS:
            return "tasks' arguments and results stand in them: chmod go-rwx, unless that is meant"
        case HealthCode.FREE_SPACE:
            return "`thirdshift tasks vacuum` gives it back to the disk"
        case HealthCode.CLOCK:
            return (
                "the clock was set back after that, and tasks become due by it: set it (`timedatectl`), or wait until "
                "it has caught up"
            )
        case HealthCode.FUNCTIONS:
            return (
                "run this where the workers run, with their --app-dir; install the code, or say by `aliases` where the "
                "function is now"
            )
        case HealthCode.STORE | HealthCode.WRITING:
            return None


def _unknown(facts: Mapping[str, Any], alive: int) -> str:
    return f"{facts['function']} (by {facts['workers']} of {_number(alive, 'worker')}, {_span(facts['waits_s'])})"


def _number(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _span(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
