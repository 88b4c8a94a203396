"""What checkpoints cost the trainer: stall of a save, steps while one is written, and the way back after a kill -9.

    python benchmarks/checkpoints.py [saves] [kills]

The bars: p99 of the stall for 120 MB of state at most 25 ms; from the kill to the next optimizer step at most 12 s.
"""

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

importlib.import_module("thirdshift.apps.training")  # before torch: it says how threads wait for each other

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from thirdshift.apps.training.saving.checkpoint_saver import CheckpointSaver  # noqa: E402
from thirdshift.apps.training.saving.checkpoints import CheckpointFacts, CheckpointStore  # noqa: E402
from thirdshift.apps.training.saving.state import MOMENTS, make_optimizer  # noqa: E402
from thirdshift.apps.training.saving.state_image import StateImage  # noqa: E402
from thirdshift.apps.training.settings import PlanSettings  # noqa: E402
from thirdshift.host.files import sync_directory, sync_file  # noqa: E402
from thirdshift.host.garbage import loaded_objects_frozen  # noqa: E402

FACTS = CheckpointFacts(plan_hash="", base_hash="", data_name="", step=1, total_steps=2, numerics={})
STEPS_A_BLOCK = 8
CHILD = """
import json, sys  # noqa: E402
from pathlib import Path  # noqa: E402
from thirdshift.apps.training.job import TrainingJob  # noqa: E402
from thirdshift.apps.training.settings import TrainingSettings  # noqa: E402
from thirdshift.apps.training.runs.train_file import train_here  # noqa: E402
root = Path(sys.argv[1])
settings = TrainingSettings(epochs=200, checkpoint_steps=1, held_out_percent=0)
job = TrainingJob(data=root / "rows.jsonl", current_model=root / "model", checkpoints=root / "checkpoints",
                  work=root / "work", settings=settings)
train_here(job, report=lambda progress: print(progress.step, flush=True), should_stop=lambda: False)
"""


def main(saves: int, kills: int) -> None:
    """Print all figures."""
    torch.set_num_threads(2)
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as root:
        stalls(Path(root), saves)
        recoveries(Path(root), kills)


def stalls(root: Path, saves: int) -> None:
    """Time *saves* staged saves, plain copies and synchronous saves in turn, then steps with and without a writer.

    The plain copies are of as many bytes, between two arrays: what they show too is the machine's.
    """
    config = LlamaConfig(
        hidden_size=320, num_hidden_layers=8, num_attention_heads=8, intermediate_size=864, vocab_size=512
    )
    model = LlamaForCausalLM(config)
    optimizer = make_optimizer(model, PlanSettings())
    step(model, optimizer)
    store = CheckpointStore(root / "checkpoints")
    image = StateImage(model=model, optimizer=optimizer, tokenizer_files={}, rows=1000, scratch=root / "scratch")
    size_bytes = sum(size for _, _, size in image.stage(b""))
    print(f"state: {size_bytes / 1e6:.0f} MB, staged directly: {image.is_direct}")
    source, target = torch.ones(size_bytes, dtype=torch.uint8), torch.zeros(size_bytes, dtype=torch.uint8)
    with closing(image), closing(CheckpointSaver(store, image.buffer, keep_last=2)) as saver, loaded_objects_frozen():
        save(saver, image, 0)
        saver.wait()  # from here on at normal priority: beside much else an idle writer takes too long to wait for
        staged, of_processor, copied, synchronous = [], [], [], []
        for number in range(1, saves + 1):
            before = time.process_time()
            staged.append(save(saver, image, number))
            of_processor.append((time.process_time() - before) * 1000)
            while saver.is_busy:
                saver.poll()
                time.sleep(0.001)
            if saver.trouble:
                raise SystemExit(saver.trouble)
            copied.append(copy(source, target))
            if number % 5 == 0:
                synchronous.append(save_synchronously(root, model, optimizer, number))
        print(f"stall of a staged save: {figures(staged)}")
        print(f"processor time of a staged save: {figures(of_processor)}")
        print(f"plain copy of as many bytes: {figures(copied)}")
        print(f"synchronous save, fsynced: {figures(synchronous)}")
        alone, beside = [], []
        with closing(CheckpointSaver(store, image.buffer, keep_last=2)) as idle:
            for _ in range(5):
                alone += [step(model, optimizer) for _ in range(STEPS_A_BLOCK)]
                for number in range(STEPS_A_BLOCK):
                    idle.poll()
                    if not idle.is_busy:
                        save(idle, image, number)
                    beside.append(step(model, optimizer))
        print(f"step alone: {figures(alone)}; with a checkpoint always in flight: {figures(beside)}")
        print(f"median step with the writer: {statistics.median(beside) / statistics.median(alone):.3f} x")


def step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> float:
    """Make one optimizer step and return its milliseconds."""
    begin = time.perf_counter()
    ids = torch.randint(0, 512, (4, 64))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return (time.perf_counter() - begin) * 1000


def save(saver: CheckpointSaver, image: StateImage, number: int) -> float:
    """Stage and ask, and return for how many milliseconds that held up the trainer."""
    begin = time.perf_counter()
    saver.save(image.stage(b""), replace(FACTS, step=number))
    return (time.perf_counter() - begin) * 1000


def copy(source: torch.Tensor, target: torch.Tensor) -> float:
    """Copy with one thread, as a staged save does, and return the milliseconds."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    target.copy_(source)
    took = (time.perf_counter() - begin) * 1000
    torch.set_num_threads(2)
    return took


def save_synchronously(root: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, number: int) -> float:
    """Write the same files from the trainer, durably, and return the milliseconds."""
    begin = time.perf_counter()
    folder = root / f"synchronous-{number}"
    model.save_pretrained(folder)
    state = {f"{id(p)}.{moment}": optimizer.state[p][moment] for p in model.parameters() for moment in MOMENTS}
    safetensors.torch.save_file(state, folder / "optimizer.safetensors")
    for path in folder.iterdir():
        sync_file(path)
    sync_directory(folder)
    sync_directory(root)
    return (time.perf_counter() - begin) * 1000


def recoveries(root: Path, kills: int) -> None:
    """Kill a trainer of the tiny model, start another at once, and time it until it has made a step."""
    from thirdshift.apps.training.models.model import create_tiny_model  # noqa: PLC0415

    create_tiny_model(root / "model")
    rows = (f'{{"prompt": "{number}", "completion": "{number % 7}"}}\n' for number in range(400))
    (root / "rows.jsonl").write_text("".join(rows))
    seconds, of_processor = [], []
    killed_at = 0.0
    for _ in range(kills + 1):
        command = [sys.executable, "-c", CHILD, str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as child:
            assert child.stdout is not None
            steps = (int(line) for line in child.stdout if line.strip().isdigit())
            next(number for number in steps if number)
            if killed_at:
                seconds.append(time.perf_counter() - killed_at)
                of_processor.append(processor_seconds(child.pid))
            while not any((root / "checkpoints").glob("ckpt-*/manifest.json")):
                next(steps)
            child.kill()
            killed_at = time.perf_counter()
    shown = ", ".join(f"{each:.1f}" for each in sorted(seconds))
    print(f"from kill -9 to the next optimizer step: median {statistics.median(seconds):.1f} s ({shown})")
    print(f"processor time of the new trainer until then: median {statistics.median(of_processor):.1f} s")


def processor_seconds(pid: int) -> float:
    """Return the processor time that the process *pid* has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def figures(values: list[float]) -> str:
    """Return median, p99 and maximum of milliseconds."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {statistics.median(ordered):.1f} ms, p99 {p99:.1f} ms, maximum {ordered[-1]:.1f} ms of {len(ordered)}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
