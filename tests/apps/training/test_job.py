"""Jobs and results travel between processes as JSON and arrive as they left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thirdshift.apps.training.job import Evaluation, FileResult, TrainingJob
from thirdshift.apps.training.settings import TrainingSettings


def test_a_job_survives_json() -> None:
    """Paths and settings come back as what they were."""
    job = TrainingJob(
        data=Path("a.jsonl"),
        current_model=Path("models/current_model"),
        checkpoints=Path("checkpoints"),
        work=Path("work"),
        held_out=(Path("b.jsonl"),),
        history=Path("history"),
        settings=TrainingSettings(epochs=7),
        seed=3,
    )
    assert TrainingJob.from_document(json.loads(json.dumps(job.to_document()))) == job


def test_a_result_survives_json() -> None:
    """Examinations come back with their levels."""
    asked = Evaluation(asked=4, right=3, loss=0.5, by_level={"1": (2, 2), "2": (1, 2)})
    result = FileResult(
        finished=True,
        step=8,
        total_steps=8,
        set_aside=("ckpt-000002",),
        before={},
        after={"held_out.jsonl": asked},
        earlier_after={"a.2026": asked},
        held_back=("a.jsonl: worse",),
    )
    assert FileResult.from_document(json.loads(json.dumps(result.to_document()))) == result
    assert (result.accuracy_before, result.accuracy_after) == (0.0, 0.75)


def test_the_light_modules_load_nothing_heavy() -> None:
    """Supervisors and snapshot services use these modules in processes without torch."""
    script = """
import sys
import thirdshift.apps.training.data.rows, thirdshift.apps.training.models.publish
import thirdshift.apps.training.runs.train_file, thirdshift.apps.training.saving.checkpoints
print(sorted({"torch", "transformers", "numpy", "safetensors", "tokenizers"} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(("wanted", "policy"), [(None, ["PASSIVE", "1000"]), ("ACTIVE", ["ACTIVE", "None"])])
def test_waiting_threads_leave_the_processor_to_others(wanted: str | None, policy: list[str]) -> None:
    """It is set before anything can load torch, unless the user has set it."""
    script = """
import os, sys
import thirdshift.apps.training.tasks
assert "torch" not in sys.modules
print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT"))
"""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {} if wanted is None else {"OMP_WAIT_POLICY": wanted}
    printed = subprocess.check_output([sys.executable, "-c", script], text=True, env=environment)
    assert printed.split() == policy
