"""Maintenance runs at idle priority, so that it costs the trainer next to nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.alone, pytest.mark.skipif(sys.platform != "linux", reason="SCHED_IDLE is Linux's")]

POLICIES = """
import os, subprocess, sys, threading
from thirdshift.host.scheduling import idle_priority
before = os.sched_getscheduler(0)
with idle_priority():
    inside = os.sched_getscheduler(0)
    in_thread = []
    thread = threading.Thread(target=lambda: in_thread.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    child = subprocess.check_output([sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"])
print(before, inside, in_thread[0], int(child), os.sched_getscheduler(0))
"""

UNPRIVILEGED = """
import os
from thirdshift.host.scheduling import idle_priority
if os.geteuid() == 0:
    os.setuid(65534)
with idle_priority():
    assert os.sched_getscheduler(0) == os.SCHED_IDLE
"""


def test_the_work_its_threads_and_its_children_are_idle() -> None:
    """Inside the block everything started is idle too; afterwards the old policy is back where the system allows."""
    output = subprocess.check_output([sys.executable, "-c", POLICIES], text=True)
    before, inside, in_thread, child, after = map(int, output.split())
    assert (inside, in_thread, child) == (os.SCHED_IDLE, os.SCHED_IDLE, os.SCHED_IDLE)
    if os.geteuid() == 0:
        assert after == before


def test_an_unprivileged_process_can_enter_and_leave() -> None:
    """Where the system does not give the old policy back the block still ends without an error."""
    subprocess.run([sys.executable, "-c", UNPRIVILEGED], check=True)


NICE = """
import sys
from pathlib import Path
from thirdshift.host.scheduling import idle_priority
with idle_priority():
    print(Path("/proc/self/autogroup").read_text(), end="")
"""


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not share among sessions")
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_session_of_its_own_is_nice_to_the_others(is_alone: bool) -> None:
    """The kernel shares the processor among sessions first; one that holds others too is left as it is."""
    inside = subprocess.check_output([sys.executable, "-c", NICE], text=True, start_new_session=is_alone)
    if is_alone:
        assert inside.endswith(" nice 19\n")
    else:  # compared whole: the file is empty in the session the machine started with
        assert inside == Path("/proc/self/autogroup").read_text()
