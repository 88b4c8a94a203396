"""How long `thirdshift status` takes while a daemon trains and takes snapshots: p50 and maximum of 20 calls.

    python benchmarks/status_latency.py [calls]

The promise is under a second. It starts a daemon of its own on a temporary workspace and stops it at the end.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("thirdshift"))
CONFIGURATION = """
training:
  disk: {min_free_gb: 0, warn_free_gb: 0}
  generator: {count: 4000, min_queue_size: 1}
"""
START_LIMIT_S = 300


def main(calls: int) -> None:
    """Print p50 and maximum of *calls* calls in milliseconds, and what ran meanwhile."""
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "thirdshift.yaml").write_text(CONFIGURATION)
        daemon = subprocess.Popen([COMMAND, "--workspace", root, "up"], stderr=subprocess.DEVNULL)
        try:
            wait_for_training(root)
            latencies_ms, states = [], []
            for _ in range(calls):
                subprocess.run(
                    [COMMAND, "--workspace", root, "train", "trigger", "snapshot"], capture_output=True, check=True
                )
                before = time.perf_counter()
                document = status(root)
                latencies_ms.append((time.perf_counter() - before) * 1000)
                states.append((document["training"].get("phase"), len(document["background_tasks"]["running"])))
        finally:
            daemon.terminate()
            daemon.wait()
    training = sum(phase == "training" for phase, _ in states)
    chores = sum(running > 0 for _, running in states)
    print(f"status: p50 {statistics.median(latencies_ms):.0f} ms, maximum {max(latencies_ms):.0f} ms of {calls} calls")
    print(f"during {training} of them a model was trained, during {chores} a chore ran")


def wait_for_training(root: str) -> None:
    """Wait until steps are made and a checkpoint is there to be copied."""
    deadline = time.monotonic() + START_LIMIT_S
    checkpoints = Path(root) / "models" / "current_model" / "checkpoints"
    while not (any(checkpoints.glob("ckpt-*")) and (status(root)["training"] or {}).get("phase") == "training"):
        if time.monotonic() > deadline:
            raise SystemExit(f"no training within {START_LIMIT_S} s")
        time.sleep(0.2)


def status(root: str) -> dict:
    """Run the command as a person does."""
    done = subprocess.run([COMMAND, "--workspace", root, "--json", "status"], capture_output=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
