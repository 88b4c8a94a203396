"""`thirdshift tasks prune` and `vacuum`: what keeps the file small."""


def test_what_the_configuration_keeps_no_longer_is_deleted(shell, work) -> None:
    """Counted first with --dry-run; what waits stays."""
    (shell.workspace / "thirdshift.yaml").write_text("pruning: {completed_days: 0, failed_rows: 1, enabled: false}\n")
    done = [shell.submit("functions:add", "1") for _ in range(3)]
    failed = [shell.submit("functions:fail", "no", "--max-retries", "0") for _ in range(2)]
    manager = work()
    for task_id in [*done, *failed]:
        manager.handle(task_id).wait(timeout=120)
    manager.shutdown()
    waiting = shell.submit("functions:add", "2")
    counts = {"completed": 3, "failed": 1, "cancelled": 0}
    dry = shell("tasks", "prune", "--dry-run")
    assert dry.stdout == "would delete 4 tasks (3 completed, 1 failed, 0 cancelled)\n"
    assert shell.json("tasks", "prune", "--dry-run") == {"dry_run": True, "pruned": 0, "prunable": 4, "counts": counts}
    assert len(shell.json("tasks", "list")) == 6
    assert shell("tasks", "prune").stdout == "deleted 4 tasks (3 completed, 1 failed, 0 cancelled)\n"
    assert {task["id"] for task in shell.json("tasks", "list")} == {waiting, failed[1]}
    assert shell.json("tasks", "prune")["pruned"] == 0


def test_free_space_goes_back_to_the_disk(shell) -> None:
    """The file is smaller afterwards, and what is left can be read."""
    from thirdshift import BackgroundTaskManager, TaskFilter
    from thirdshift.testing import functions

    with BackgroundTaskManager(database=shell.database, start=False) as manager:
        manager.submit_many(functions.echo, [("x" * 2_000,) for _ in range(2_000)])
        manager.cancel_tasks(TaskFilter())
        manager.delete_tasks(TaskFilter())
        kept = manager.submit_task(functions.echo, 1)
    before = shell.database.stat().st_size
    assert before > 2_000_000
    found = shell.json("tasks", "vacuum")
    assert found["before_bytes"] > 2_000_000 > found["after_bytes"]
    assert shell.database.stat().st_size == found["file_bytes"] == found["after_bytes"]
    assert shell.json("tasks", "show", kept)["status"] == "pending"
    words = shell("tasks", "vacuum").stdout.split()
    assert words[1:3] + words[4:] == ["MB", "before,", "MB", "after"]
    assert words[0] == words[3]
