"""``thirdshift config``: a file to begin with, what is wrong, and where each value comes from."""

import re
from dataclasses import fields

from thirdshift.apps.training.config import DaemonConfig
from thirdshift.config import BackgroundTaskConfig, load_section, load_settings

UNSET = re.compile(r"^( *)#([a-z_0-9]+:.*)$", re.MULTILINE)


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


def test_a_file_to_begin_with_holds_every_key_and_sets_nothing(shell) -> None:
    """Its comments are the defaults: each one holds when its # is taken away, alone or with all the others."""
    file = shell.workspace / "thirdshift.yaml"
    assert shell("config", "init").stdout == f"{file} says what can be set; nothing is set yet\n"
    written = file.read_text()
    assert load_settings(shell.workspace) == BackgroundTaskConfig()
    assert load_section(shell.workspace, "training", DaemonConfig) == DaemonConfig()
    for key in ("max_workers: 4", "broker_url: redis://localhost:6379/0", "completed_days: 7.0", "aliases: {}"):
        assert f"#{key}\n" in written
    assert "# Tasks that run at once in threads, and as many in child processes.\n" in written
    said = " ".join(written.replace("#", "").split())  # wherever its lines are broken
    assert "Below each: enabled, threshold, window_seconds, hold_seconds, quiet_seconds." in said
    file.write_text(UNSET.sub(r"\1\2", written))
    assert load_settings(shell.workspace) == BackgroundTaskConfig()
    assert load_section(shell.workspace, "training", DaemonConfig) == DaemonConfig()
    named = {row["key"] for row in shell.json("config", "show") if row["origin"] != "default"}
    assert named == {row["key"] for row in shell.json("config", "show")}  # no key is missing there


def test_no_file_is_overwritten(shell) -> None:
    """Neither one with settings nor a link that leads nowhere; one that held so far is named."""
    file = shell.workspace / "thirdshift.yaml"
    file.write_text("log_level: DEBUG\n")
    done = shell("config", "init")
    assert done.returncode == 64
    assert f"{file} exists, and is left as it is" in done.stderr
    assert file.read_text() == "log_level: DEBUG\n"
    file.unlink()
    file.symlink_to(shell.workspace / "nowhere")
    assert shell("config", "init").returncode == 64
    file.unlink()
    old = shell.workspace / "omni_dev_bg_config.yaml"
    old.write_text("log_level: DEBUG\n")
    assert f"until now {old} held" in shell("config", "init").stderr


def test_the_schema_knows_every_key_with_its_type_default_and_choices(shell) -> None:
    """As the JSON that editors read."""
    found = shell.json("config", "schema")
    assert found["properties"]["worker_type"]["enum"] == ["threaded", "process", "async", "celery"]
    size = {
        "type": ["integer", "null"],
        "default": None,
        "description": "Most tasks that may wait to run; null: no limit.",
    }
    assert found["properties"]["threaded_worker"]["properties"]["queue_size"] == size
    assert found["properties"]["aliases"]["additionalProperties"] == {"type": "string"}
    rule = found["properties"]["monitoring"]["properties"]["alert_rules"]["additionalProperties"]
    assert rule["properties"]["threshold"]["type"] == ["number", "null"]
    training = found["properties"]["training"]["properties"]
    assert training["generator"]["properties"]["levels"]["items"] == {"type": "integer"}
    assert training["training"]["properties"]["epochs"]["default"] == 2
    assert set(training) == {field.name for field in fields(DaemonConfig)}
    assert set(found["properties"]) == {field.name for field in fields(BackgroundTaskConfig)} | {"training"}
    for section in objects(found):
        assert section["additionalProperties"] is False
        assert all(key["description"] for key in section["properties"].values())


def objects(schema):
    """Return all sections of a schema."""
    return [schema, *(inner for key in schema["properties"].values() if "properties" in key for inner in objects(key))]
