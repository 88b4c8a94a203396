"""What the documents say is true: examples run, named files and commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from thirdshift import PruningConfig
from thirdshift.cli.main import cli
from thirdshift.config import BackgroundTaskConfig, load_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
PROGRAM, COROUTINE, TESTS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ALIASES, DEFAULTS, RECYCLING = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


def run_program(path: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)], cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_in_the_readme_runs(tmp_path: Path) -> None:
    """Copied into a file, as a reader would."""
    (tmp_path / "app.py").write_text(PROGRAM)
    assert run_program(tmp_path / "app.py", tmp_path).startswith("18 TaskStatus.")


def test_the_coroutine_in_the_readme_runs(tmp_path: Path) -> None:
    """Beside the function of the program."""
    (tmp_path / "app.py").write_text(PROGRAM)
    (tmp_path / "web.py").write_text(
        f"import asyncio, types\nfrom app import BackgroundTaskManager, send\n\n{COROUTINE}\n"
        "if __name__ == '__main__':\n"
        "    with BackgroundTaskManager(database='app.db') as manager:\n"
        "        print(asyncio.run(sign_up(types.SimpleNamespace(email='a@example.org')))['sent'])\n"
    )
    assert run_program(tmp_path / "web.py", tmp_path) == "18\n"


def test_the_tests_in_the_readme_pass(tmp_path: Path) -> None:
    """As those of a user would."""
    (tmp_path / "app.py").write_text(PROGRAM)
    (tmp_path / "test_app.py").write_text(f"from app import send\n{TESTS}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_example_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert "completed" in run_program(path, tmp_path)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"thirdshift --workspace \S+ ([a-z ]+)", README))))
def test_every_command_in_the_readme_exists(command: str) -> None:
    """Its help can be asked for."""
    done = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert done.exit_code == 0, done.output


def test_the_defaults_in_the_readme_are_the_defaults(tmp_path: Path) -> None:
    """The configuration that it shows changes nothing."""
    (tmp_path / "thirdshift.yaml").write_text(DEFAULTS)
    assert load_settings(tmp_path) == BackgroundTaskConfig()
    assert set(yaml.safe_load(DEFAULTS)["pruning"]) == set(vars(PruningConfig()))
    (tmp_path / "thirdshift.yaml").write_text(RECYCLING)
    assert load_settings(tmp_path) == BackgroundTaskConfig()
    (tmp_path / "thirdshift.yaml").write_text(ALIASES)
    assert load_settings(tmp_path).aliases == {"old.module:send": "new.module:send"}


def test_the_guide_to_schedules_is_true(tmp_path: Path) -> None:
    """Its program runs, its configuration is one, its commands exist."""
    guide = (ROOT / "docs" / "schedules.md").read_text("utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "app.py").write_text(program)
    assert "datetime.datetime(20" in run_program(tmp_path / "app.py", tmp_path)
    (configuration,) = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "thirdshift.yaml").write_text(configuration)
    found = load_settings(tmp_path)
    assert found.scheduler == BackgroundTaskConfig().scheduler
    assert found.schedules["nightly"].schedule.words == "At 03:00 every day, Europe/Berlin time"
    for command in set(re.findall(r"^thirdshift (schedules [a-z-]+)", guide, re.MULTILINE)):
        assert CliRunner().invoke(cli, [*command.split(), "--help"]).exit_code == 0, command


def test_every_test_that_an_invariant_names_exists() -> None:
    """The table of invariants points at real files."""
    rows = re.findall(r"^\| I\d+ \|.*\| (.*) \|$", ARCHITECTURE, re.MULTILINE)
    assert len(rows) >= 15
    for row in rows:
        for name in re.findall(r"`([^`]+)`", row):
            assert any(ROOT.rglob(name.rstrip("/").rpartition("/")[2])), f"{name} is named and does not exist"


def test_every_link_between_the_documents_leads_somewhere() -> None:
    """No dangling reference."""
    for document in (README, ARCHITECTURE, (ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document):
            assert (ROOT / target).exists(), f"{target} does not exist"


def test_decisions_are_short() -> None:
    """An ADR has at most 60 lines."""
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        assert len(path.read_text("utf-8").splitlines()) <= 60, path.name
