"""`thirdshift queues`: look at queues, pause and resume them."""


def test_a_queue_is_paused_for_everybody_until_it_is_resumed(shell, work) -> None:
    """A worker that starts later leaves it alone; other queues go on."""
    held = shell.submit("functions:add", "1", "--queue", "mail")
    assert shell("queues", "pause", "mail").stdout == "mail is paused\n"
    assert shell("queues", "pause", "mail").stdout == "mail is paused already\n"
    manager = work()
    other = shell.submit("functions:add", "2", "--queue", "other")
    assert manager.handle(other).result(timeout=30) == 2
    assert shell.json("tasks", "show", held)["status"] == "pending"
    assert shell("queues", "list").stdout.splitlines() == [
        "queue\tstate\ttasks",
        "mail\tpaused\t1 pending",
        "other\trunning\tnone",
    ]
    assert shell.json("queues", "resume", "mail") == {"queue": "mail", "state": "running", "changed": True}
    assert manager.handle(held).result(timeout=30) == 1


def test_queues_as_json(shell) -> None:
    """Names, since when they are paused, and how many tasks wait."""
    assert shell.json("queues", "list") == []
    shell.submit("functions:add", "1")
    (queue,) = shell.json("queues", "list")
    assert queue == {"name": "default", "paused_at": None, "pending": 1}
