"""Trainings killed at random moments end with the bits of one that was left alone. See ``training_kills``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("THIRDSHIFT_KILLS", "8"))
SEED = os.environ.get("THIRDSHIFT_SEED", "1")

pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(sys.platform != "linux", reason="finds and kills processes by /proc"),
]


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_training_that_is_hit_anywhere_ends_with_the_same_bits(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Trainer, writer and parent, while they load, compute, save, rename, examine or publish; several times a file.

    Weights, optimizer and ledger are those of a training left alone, and by the ledger every row was trained exactly
    its epochs.
    """
    kills = KILLS if how == "kill" else -(-KILLS // 2)
    program = Path(__file__).with_name("training_kills.py")
    command = [sys.executable, str(program), str(kills), SEED, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with capsys.disabled():
        sys.stdout.write(f"\n{done.stdout}")
    assert json.loads(done.stdout)["hits"] == kills
