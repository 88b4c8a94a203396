"""How long until a dropped file is seen, and until it is checked and waits: a paused daemon, files one by one.

python benchmarks/intake.py [files] [level]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 1000
CONFIGURATION = """
training:
  model: {{size: nano}}
  disk: {{min_free_gb: 0, warn_free_gb: 0}}
  generator: {{enabled: false}}
  validation: {{level: {level}}}
"""
THIRDSHIFT = Path(sys.executable).with_name("thirdshift")


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    level = sys.argv[2] if len(sys.argv) > 2 else "standard"
    with tempfile.TemporaryDirectory(prefix="thirdshift-intake-") as folder:
        root = Path(folder)
        (root / "thirdshift.yaml").write_text(CONFIGURATION.format(level=level))
        command = [str(THIRDSHIFT), "--workspace", folder]
        subprocess.run([*command, "train", "pause"], check=True, capture_output=True)
        daemon = subprocess.Popen([*command, "up"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(root / "status" / "training_status.json")
            drop(root, 0)  # starts the child process and loads the tokenizer
            times = [drop(root, number) for number in range(1, files + 1)]
        finally:
            daemon.terminate()
            daemon.wait()
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"{files} files of {ROWS} rows, level {level}, {load}")
    for name, values in zip(("seen", "accepted"), zip(*times, strict=True), strict=True):
        ordered = sorted(values)
        print(f"  {name:9} median {statistics.median(values):7.1f} ms   p90 {ordered[int(0.9 * len(ordered))]:7.1f} ms")


def drop(root: Path, number: int) -> tuple[float, float]:
    """Write one file; return milliseconds from its closing until it left the inbox, and until it waits."""
    path = root / "inbox" / f"{number}.jsonl"
    with path.open("w") as file:
        for row in range(ROWS):
            file.write(f'{{"prompt": "{number} + {row} =", "completion": "{number + row}"}}\n')
    begin = time.perf_counter()
    while path.exists():
        time.sleep(0.0005)
    seen = time.perf_counter()
    wait_for(root / "queue" / "normal" / path.name)
    return (seen - begin) * 1000, (time.perf_counter() - begin) * 1000


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
