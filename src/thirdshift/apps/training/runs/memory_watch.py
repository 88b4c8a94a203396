"""Finds out that the attempt before was ended by the kernel for want of memory, which no handler ever sees.

On Linux a program that asks for too much is seldom refused: it is given the memory, and killed when it uses it. The
kernel counts whom it killed so. An attempt notes the count when its steps begin; when the note is still there at the
next attempt, the process did not end by itself, and when the count has risen since, memory was why.
"""

import json
from pathlib import Path

from thirdshift.apps.training.plans.plan import Plan
from thirdshift.host.files import write_atomically

VMSTAT = Path("/proc/vmstat")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class MemoryWatch:
    """Watches over the attempts of one *plan*. Knows nothing, and says so by False, where the kernel counts nothing."""

    def __init__(self, plan: Plan) -> None:
        directory = plan.directory
        self._note = directory.with_name(f"{directory.name}.memory.json")

    def begin(self) -> bool:
        """Note that steps begin; True when somebody was killed for want of memory while the steps before were made.

        That may have been another process, killed just when this one was killed for another reason: then the next steps
        are made with less memory than they could have.
        """
        now = _kills_of_the_kernel()
        if now is None:
            return False
        before = self._read()
        write_atomically(self._note, json.dumps({"boot_id": now[0], "kills": now[1]}).encode())
        return before is not None and before[0] == now[0] and before[1] < now[1]

    def end(self) -> None:
        """Forget the note: this process has lived to the end of its steps."""
        self._note.unlink(missing_ok=True)

    def _read(self) -> tuple[str, int] | None:
        try:
            document = json.loads(self._note.read_bytes())
            return document["boot_id"], int(document["kills"])
        except (OSError, ValueError, KeyError, TypeError):  # no note, or one that was cut: then nothing is known
            return None


def _kills_of_the_kernel() -> tuple[str, int] | None:
    """Return since which start of the machine the kernel has killed how many processes for want of memory."""
    try:
        figures = dict(line.split() for line in VMSTAT.read_text().splitlines())
        return BOOT_ID.read_text().strip(), int(figures["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None
