"""Jobs and results travel between processes as JSON and arrive as they left."""

import json
import subprocess
import sys
from pathlib import Path

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
