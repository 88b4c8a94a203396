"""A daemon whose processes are killed at random moments trains every file exactly once. See ``daemon_kills``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = os.environ.get("THIRDSHIFT_DAEMON_KILLS", "5")
SEED = os.environ.get("THIRDSHIFT_SEED", "1")

pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(sys.platform != "linux", reason="finds and kills processes by /proc"),
]


def test_five_files_are_trained_once_whatever_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    """Daemon, one process or all, from the drop on; started again, it ends with the weights of one left alone.

    Nobody helps it. The files are trained in the order in which they were dropped. By the
    ledger every row was trained exactly its epochs; each file has one report, one archive and one snapshot.
    """
    program = Path(__file__).with_name("daemon_kills.py")
    command = [sys.executable, str(program), KILLS, SEED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    with capsys.disabled():
        sys.stdout.write(f"\n{done.stdout}")
    assert json.loads(done.stdout)["hits"] == int(KILLS)
