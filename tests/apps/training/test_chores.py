"""The chores beside the training, without a worker: what is asked for, and what is remembered of it."""

from pathlib import Path

from thirdshift import BackgroundTaskManager, TaskFilter
from thirdshift.apps.training.chores import Chores
from thirdshift.apps.training.config import GeneratorConfig
from thirdshift.apps.training.workspace import TrainingWorkspace


def seeds_of(manager: BackgroundTaskManager, workspace: TrainingWorkspace, times: int) -> list[int]:
    """Ask for so many files, each at a start of its own, and forget each one's task as pruning does."""
    seeds = []
    for _ in range(times):
        chores = Chores(workspace, manager, GeneratorConfig(seed=7), lambda _notice: None)
        chores.generate(waiting=0, limit=None)
        (task,) = manager.find_tasks()
        seeds.append(task.arguments[0][2])
        manager.cancel_tasks(TaskFilter())
        manager.delete_tasks(TaskFilter())
    return seeds


def test_every_generated_file_has_a_seed_of_its_own(tmp_path: Path) -> None:
    """Also after restarts, and when the tasks that made the earlier ones are pruned."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as manager:
        assert seeds_of(manager, workspace, 3) == [7, 8, 9]
        workspace.generations.write_text("half a num")
        assert seeds_of(manager, workspace, 1) == [7]


def test_a_workspace_without_the_number_counts_its_tasks(tmp_path: Path) -> None:
    """As it did before there was a number."""
    workspace = TrainingWorkspace(tmp_path)
    workspace.create()
    with BackgroundTaskManager(database=tmp_path / "tasks.db", start=False) as manager:
        for expected in (7, 8):
            workspace.generations.unlink(missing_ok=True)
            chores = Chores(workspace, manager, GeneratorConfig(seed=7), lambda _notice: None)
            chores.generate(waiting=0, limit=None)
            assert manager.find_tasks()[0].arguments[0][2] == expected
            manager.cancel_tasks(TaskFilter())
