"""The demo as a measure: seconds from an empty folder to 0.9 exact match on held-out puzzles of three words.

    python benchmarks/demo.py [--kills 3] [--limit 600]

Runs what `make run` runs, with its configuration, in a folder of its own, and reads what the daemon says of each file.
With ``--kills`` the daemon is killed with SIGKILL that often, each time a few seconds after it went on training, and
started again at once. The bar: 120 seconds without kills; the goal: 45 seconds with three.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIGURATION = Path(__file__).parents[1] / "examples" / "demo-workspace.yaml"
WANTED = 0.9
LEVEL = "3"
"""Three words."""


def main() -> None:
    """Print how long it took, and how good the model was after each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600, help="seconds after which it counts as failed")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        shutil.copy(CONFIGURATION, workspace / "thirdshift.yaml")
        took = run(workspace, arguments.kills, arguments.limit, random.Random(arguments.seed))
    if took is None:
        raise SystemExit(f"{WANTED} was not reached in {arguments.limit:g} s")
    print(f"{WANTED:.0%} of the held-out puzzles of three words after {took:.1f} s, with {arguments.kills} kills")


def run(workspace: Path, kills: int, limit_s: float, chance: random.Random) -> float | None:
    """Return the seconds until the model is good enough, None when it is not in *limit_s*."""
    began = time.monotonic()
    daemon = start(workspace)
    told: set[str] = set()
    kill_at: float | None = None
    try:
        while (passed := time.monotonic() - began) < limit_s:
            time.sleep(0.05)
            for report in sorted((workspace / "archive").glob("*.report.json")):
                if report.name not in told:
                    told.add(report.name)
                    score = score_of(json.loads(report.read_bytes()))
                    print(f"{passed:6.1f} s  {report.name.removesuffix('.report.json')}: {score:.1%}", flush=True)
                    if score >= WANTED:
                        return passed
            if kills and kill_at is None and is_training(workspace, daemon.pid):
                kill_at = time.monotonic() + chance.uniform(1, 6)
            if kill_at is not None and time.monotonic() >= kill_at:
                kills, kill_at = kills - 1, None
                print(f"{passed:6.1f} s  kill -9", flush=True)
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
                daemon = start(workspace)
            if daemon.poll() is not None:
                daemon = start(workspace)  # two files were not enough: two more
        return None
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def start(workspace: Path) -> "subprocess.Popen[bytes]":
    """Start the daemon as the leader of a group of its own."""
    command = [str(Path(sys.executable).with_name("thirdshift")), "--workspace", str(workspace), "up", "--until-idle"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def is_training(workspace: Path, daemon: int) -> bool:
    """Say whether the daemon of that process id has said that it makes steps."""
    try:
        status: dict[str, Any] = json.loads((workspace / "status" / "training_status.json").read_bytes())
    except FileNotFoundError:
        return False
    return status["pid"] == daemon and bool(status["training"].get("step"))


def score_of(report: dict[str, Any]) -> float:
    """Return the exact match on the held-out puzzles of three words after the file."""
    right, asked = report["after"]["syllo.jsonl"]["by_level"][LEVEL]
    return float(right / asked)


if __name__ == "__main__":
    main()
