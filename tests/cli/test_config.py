"""``thirdshift config``: what is wrong, and where each value comes from."""


def test_problems_end_with_the_code_of_a_configuration(shell) -> None:
    """All of them, each with its place."""
    assert shell("config", "check").stdout == "the configuration is right\n"
    (shell.workspace / "thirdshift.yaml").write_text("worker_typ: x\nlog_level: 3\n")
    done = shell("config", "check")
    assert done.returncode == 78
    assert "thirdshift.yaml:1:1: unknown key worker_typ; did you mean worker_type?" in done.stderr
    assert "thirdshift.yaml:2:12: log_level must be text" in done.stderr


def test_every_value_has_an_origin_and_no_password_is_shown(shell) -> None:
    """What has no effect yet says so."""
    file = shell.workspace / "thirdshift.yaml"
    file.write_text("celery_worker:\n  broker_url: redis://me:secret@host/0\n")
    rows = {row["key"]: row for row in shell.json("config", "show")}
    url = "redis://me:***@host/0"
    key = "celery_worker.broker_url"
    assert rows[key] == {"key": key, "value": url, "origin": f"{file}:2:15", "has_effect": False}
    assert rows["celery_worker.result_backend"]["value"] == url
    assert rows["log_level"]["origin"] == "default"
    words = shell("config", "show").stdout
    assert "secret" not in words
    assert "no effect yet" in words
