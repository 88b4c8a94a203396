"""What Prometheus gets: the real text, and the rules that we ship for it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from thirdshift import BackgroundTaskManager, UsageError
from thirdshift.monitor.metrics_server import MetricsServer
from thirdshift.testing import functions

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
COMMAND = str(Path(sys.executable).with_name("thirdshift"))
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundTaskManager]:
    path = tmp_path_factory.mktemp("store") / "tasks.db"
    with BackgroundTaskManager(database=path, pools={"process": 0}) as manager:
        for _ in range(3):
            manager.submit(functions.sleep, 0.002).result(timeout=120)
        manager.options(name='say "a\\b"\n', queue="mail", max_retries=0).submit(functions.fail, "x").wait(timeout=120)
        yield manager


@pytest.fixture(scope="module")
def text(manager: BackgroundTaskManager) -> str:
    return manager.monitor.export_metrics("prometheus")


def test_histograms_add_up(text: str) -> None:
    """Each limit counts what is below, and the last one all."""
    found = re.findall(r'thirdshift_run_seconds_bucket\{task="sleep",queue="default",le="(.*)"\} (\d+)', text)
    counts = [int(count) for _, count in found]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 3)
    (spent_s,) = re.findall(r'thirdshift_run_seconds_sum\{task="sleep",queue="default"\} (\S+)', text)
    assert float(spent_s) >= 0.006


def test_no_label_holds_an_id(manager: BackgroundTaskManager, text: str) -> None:
    """Of a task or a worker: each would be a new series for ever."""
    assert set(re.findall(r'[{,](\w+)="', text)) == {"task", "queue", "outcome", "le", "state", "file", "kind"}
    assert not [worker.id for worker in manager.workers() if worker.id in text]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_rules_ask_for_what_a_worker_says(text: str, rule: dict[str, str]) -> None:
    """Names and labels: a misspelt one never fires."""
    for name, labels in re.findall(r"(thirdshift_\w+)(\{[^}]*\})?", rule["expr"]):
        samples = [line for line in text.splitlines() if re.match(rf"{name}[ {{]", line)]
        assert samples, f"nobody says {name}"
        for label, _, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', labels):
            assert any(re.search(rf'{label}="({value})"', line) for line in samples), f"{name} has no {label}={value}"


@needs_promtool
def test_promtool_finds_nothing_to_say_about_the_text(text: str) -> None:
    """Names, units, help, types."""
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_promtool
@pytest.mark.parametrize(
    "check",
    [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]],
)
def test_promtool_accepts_what_we_ship(check: list[str]) -> None:
    """Every rule is shown firing, and silent where all is well."""
    done = subprocess.run([PROMTOOL, *check], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tested() -> None:
    """Firing and silent."""
    cases = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"][0]["alert_rule_test"]
    for rule in RULES:
        assert {bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]} == {True, False}


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_scrape_reads_the_store(manager: BackgroundTaskManager) -> None:
    """On the loopback interface, for callers that mean this machine, and nothing but the metrics."""
    with MetricsServer(0, lambda: manager.monitor.export_metrics("prometheus")) as server:
        status, answer = get(server.url)
        assert (status, "thirdshift_attempts_total" in answer) == (200, True)
        assert get(server.url.replace("/metrics", "/"))[0] == 404
        assert get(server.url, Host="thirdshift.example.org:9464")[0] == 403
        port = int(server.url.split(":")[2].split("/")[0])
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 cannot be listened on"):
            MetricsServer(port, str)


def test_a_worker_answers_prometheus(tmp_path: Path) -> None:
    """thirdshift worker --metrics-port says where."""
    command = [COMMAND, "--workspace", str(tmp_path), "worker", "--metrics-port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as worker:
        assert worker.stderr is not None
        try:
            url = next(line.split()[1] for line in worker.stderr if line.startswith("metrics"))
            status, answer = get(url)
        finally:
            worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=120)
    assert (status, worker.returncode) == (200, 0)
    assert 'thirdshift_workers{state="alive"} 1' in answer
