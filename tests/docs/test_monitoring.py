"""docs/monitoring.md names what there is, and all of it."""

import re
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, load_config
from thirdshift.core.alerts import AlertKind

DOCUMENT = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text("utf-8")


def test_every_metric_is_named(tmp_path: Path) -> None:
    """And no other one."""
    with BackgroundTaskManager(database=tmp_path / "a.db", start=False) as manager:
        said = set(re.findall(r"^# TYPE (\w+)", manager.monitor.export_metrics("prometheus"), re.MULTILINE))
    assert set(re.findall(r"`(thirdshift_\w+)`", DOCUMENT)) == said


def test_every_rule_is_named() -> None:
    """With what it looks at."""
    assert set(re.findall(r"^\| `(\w+)` \| (?:a|the) ", DOCUMENT, re.MULTILINE)) == {kind.value for kind in AlertKind}


def test_the_configuration_loads(tmp_path: Path) -> None:
    """As it stands."""
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "c.yaml").write_text(text)
    rules = {rule.kind: rule for rule in load_config(tmp_path / "c.yaml").monitoring.rules}
    assert (rules[AlertKind.ERROR_RATE].limit, rules[AlertKind.DISK_FREE].limit) == (0.05, 10e9)
    assert rules[AlertKind.QUEUE_LATENCY].hold_s == 120
    assert AlertKind.STUCK_PROGRESS not in rules


def test_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a store in which one task has ended."""
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    monkeypatch.setenv("THIRDSHIFT_WORKSPACE", str(tmp_path))
    from thirdshift import get_task_manager

    manager = get_task_manager()
    try:
        manager.options(name="send").submit(int, 1).result(timeout=10)
        exec(compile(program, "monitoring.md", "exec"), {})
    finally:
        manager.shutdown()
