"""`thirdshift queues`: look at queues, pause, resume and limit them, and limit keys."""

from thirdshift.testing import functions


def test_a_queue_is_paused_for_everybody_until_it_is_resumed(shell, work) -> None:
    """A worker that starts later leaves it alone; other queues go on."""
    held = shell.submit("functions:add", "1", "--queue", "mail")
    assert shell("queues", "pause", "mail").stdout == "mail is paused\n"
    assert shell("queues", "pause", "mail").stdout == "mail is paused already\n"
    manager = work()
    other = shell.submit("functions:add", "2", "--queue", "other")
    assert manager.handle(other).result(timeout=120) == 2
    assert shell.json("tasks", "show", held)["status"] == "pending"
    assert shell("queues", "list").stdout.splitlines() == [
        "queue\tstate\tlimits\ttasks",
        "mail\tpaused\tnone\t1 pending",
        "other\trunning\tnone\tnone",
    ]
    assert shell.json("queues", "resume", "mail") == {"queue": "mail", "state": "running", "changed": True}
    assert manager.handle(held).result(timeout=120) == 1


def test_queues_as_json(shell) -> None:
    """Names, since when they are paused, and how many tasks wait."""
    assert shell.json("queues", "list") == []
    shell.submit("functions:add", "1")
    (queue,) = shell.json("queues", "list")
    limits = {"concurrency": None, "rate": None, "burst": None}
    assert queue == {"name": "default", "paused_at": None, **limits, "pending": 1}


def test_a_queue_is_limited_and_freed(shell) -> None:
    """What is set replaces what was there, and is shown."""
    assert shell("queues", "limit", "mail", "--concurrency", "4").stdout == "mail: 4 at once\n"
    assert shell("queues", "limit", "mail", "--rate", "2.5").stdout == "mail: 2.5 a second, 3 in a burst\n"
    assert shell("queues", "list").stdout.splitlines()[1] == "mail\trunning\t2.5 a second, 3 in a burst\tnone"
    found = shell.json("queues", "limit", "mail", "--rate", "1", "--burst", "9")
    assert found == {"queue": "mail", "concurrency": None, "rate": 1.0, "burst": 9}
    assert shell("queues", "limit", "mail").stdout == "mail: none\n"
    refused = shell("queues", "limit", "mail", "--burst", "3")
    assert refused.returncode == 64
    assert "belongs to a rate" in refused.stderr


def test_tasks_of_a_limit_key_are_shown_and_found(shell, work) -> None:
    """In both forms; and the listing of keys counts them."""
    manager = work()
    manager.pause_queue("default")
    ids = [manager.options(limit_key="customer-7").submit(functions.add, number, 1).id for number in range(2)]
    shell.submit("functions:add", "1")
    assert {task["id"] for task in shell.json("tasks", "list", "--limit-key", "customer-7")} == set(ids)
    assert shell.json("tasks", "show", ids[0])["limit_key"] == "customer-7"
    assert "limit key" in shell("tasks", "show", ids[0]).stdout
    assert shell("queues", "keys").stdout.splitlines()[1:] == ["customer-7\t0 of 1\t2"]


def test_a_limit_key_is_listed_and_limited(shell) -> None:
    """What is set replaces what was there; 1 is what every key has."""
    assert shell("queues", "keys").stdout == "key\trunning\tpending\n"
    assert shell("queues", "limit-key", "customer-7", "--concurrency", "2").stdout == "customer-7: 2 at once\n"
    assert shell("queues", "keys").stdout.splitlines()[1:] == ["customer-7\t0 of 2\t0"]
    facts = {"key": "customer-7", "concurrency": 3}
    assert shell.json("queues", "limit-key", "customer-7", "--concurrency", "3") == facts
    assert shell.json("queues", "keys") == [{**facts, "pending": 0, "running": 0}]
    shell("queues", "limit-key", "customer-7", "--concurrency", "1")
    assert shell.json("queues", "keys") == []
    assert shell("queues", "limit-key", "customer-7", "--concurrency", "0").returncode == 64
