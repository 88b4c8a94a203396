"""The configuration file: every problem at once, each with its place and with what may stand there."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from thirdshift import BackgroundTaskManager, ConfigurationError, MonitoringConfig, auto_load_config, load_config
from thirdshift.config import (
    BackgroundTaskConfig,
    ThreadedWorkerConfig,
    find_workspace,
    load_section,
    load_settings,
)
from thirdshift.testing import functions


def problems_of(folder: Path, text: str | bytes) -> list[str]:
    """Load *text* and return what is wrong with it, each beginning with line:column."""
    file = folder / "thirdshift.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(folder)
    assert all(problem.startswith(f"{file}:") for problem in caught.value.problems)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(f"{file}:").strip() for problem in caught.value.problems]


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    """Also for an empty one, and for one of comments."""
    assert load_settings(tmp_path) == BackgroundTaskConfig()
    for text in ("", "# nothing yet\n", "---\n", "\ufeff", "threaded_worker:\n"):
        (tmp_path / "thirdshift.yaml").write_text(text)
        assert load_settings(tmp_path) == BackgroundTaskConfig()


def test_values_are_typed(tmp_path: Path) -> None:
    """A whole number is a number too; null takes the default back."""
    (tmp_path / "thirdshift.yaml").write_text(
        "worker_type: process\ndatabase: my.db\nshutdown_timeout_seconds: 5\nlog_level: DEBUG\n"
        "threaded_worker: {max_workers: 2, queue_size: null, queue_wait_seconds: 5}\ntraining: {anything: 1}\n"
        "aliases:\n  old.module:send: new.module:send\n"
    )
    found = load_settings(tmp_path)
    assert found == BackgroundTaskConfig(
        worker_type="process",
        database="my.db",
        shutdown_timeout_seconds=5.0,
        log_level="DEBUG",
        threaded_worker=ThreadedWorkerConfig(max_workers=2, queue_wait_seconds=5.0),
        aliases={"old.module:send": "new.module:send"},
    )
    assert type(found.shutdown_timeout_seconds) is float


def test_the_sizes_of_all_pools(tmp_path: Path) -> None:
    """Those of threads and child processes together, that of the event loop apart."""
    assert load_settings(tmp_path).pools == {"thread": 4, "process": 4, "async": 100}
    (tmp_path / "thirdshift.yaml").write_text("threaded_worker: {max_workers: 2}\nasync_worker: {max_workers: 500}\n")
    assert load_settings(tmp_path).pools == {"thread": 2, "process": 2, "async": 500}
    assert problems_of(tmp_path, "async_worker: {max_workers: 0}") == ["1:16: max_workers is 0; it must be 1 or more"]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Each with line and column."""
    text = "worker_tipe: threaded\nthreaded_worker:\n  max_workers: many\n  queue_size: 1.5\nlog_level: [INFO]\n"
    assert problems_of(tmp_path, text) == [
        "1:1: unknown key worker_tipe; did you mean worker_type?",
        "3:16: threaded_worker.max_workers must be a whole number, not 'many'",
        "4:15: threaded_worker.queue_size must be a whole number, not 1.5",
        "5:12: log_level must be text, not a list",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("zzz: 1", "1:1: unknown key zzz; known are aliases, "),
        ("? [a, b]\n: 1", "1:3: unknown key a list"),
        ("database: a\ndatabase: b", "2:1: the key database stands here twice"),
        ("training: {}\ntraining: {}", "2:1: the key training stands here twice"),
        (
            "threaded_worker:\n  max_workers: 1\n  max_workers: 2",
            "3:3: the key threaded_worker.max_workers stands here",
        ),
        ("threaded_worker: {max_workers: true}", "1:32: threaded_worker.max_workers must be a whole number, not True"),
        ("threaded_worker: {max_workers: '4'}", "1:32: threaded_worker.max_workers must be a whole number, not '4'"),
        ("threaded_worker: {max_workers: }", "1:31: threaded_worker.max_workers must be a whole number, not None"),
        ("threaded_worker: 4", "1:18: threaded_worker must hold keys with values"),
        ("threaded_worker: [4]", "1:18: threaded_worker must hold keys with values"),
        ("- worker_type", "1:1: the file must hold keys with values"),
        ("worker_type", "1:1: the file must hold keys with values"),
        ("database: 7", "1:11: database must be text, not 7"),
        ("database: yes", "1:11: database must be text, not True"),
        ("database: 2030-01-01", "1:11: database must be text, not datetime.date(2030, 1, 1)"),
        ("database: 2030-99-99", "1:11: database must be text, not '2030-99-99'"),
        ("database: !shell 'rm -rf'", "1:11: database must be text, not 'rm -rf'"),
        ("database: !!python/object/apply:os.system ['true']", "1:11: database must be text, not a list"),
        ("shutdown_timeout_seconds: soon", "1:27: shutdown_timeout_seconds must be a number, not 'soon'"),
        ("threaded_worker:\n\tmax_workers: 1", "2:1: found character '\\t' that cannot start any token"),
        ("database: [", "1:12: expected the node content, but found '<stream end>'"),
        ("database: {", "1:12: expected"),
        ("a: b: c", "1:5: mapping values are not allowed here"),
        ("database: *nowhere", "1:11: found undefined alias 'nowhere'"),
        ("database: a\n---\ndatabase: b", "2:1: but found another document"),
        ("threaded_worker: {max_workers: 0}", "1:19: max_workers is 0; it must be 1 or more"),
        (
            "threaded_worker: {queue_wait_seconds: -1}",
            "1:19: queue_wait_seconds is -1; it must be 0 or more",
        ),
        ("aliases: [a]", "1:10: aliases must hold keys with values"),
        ("aliases: {'a:f': 1}", "1:18: aliases.a:f must be text, not 1"),
        ("aliases: {1: 'a:f'}", "1:11: a key of aliases must be text, not 1"),
        ("aliases:\n  a:f: b:f\n  a:f: c:f", "3:3: the key aliases.a:f stands here twice"),
        ("threaded_worker: {queue_size: -1}", "1:19: queue_size is -1; it must be 1 or more"),
        (
            "worker_type: thread",
            "1:1: worker_type is 'thread'; it may be threaded, process, async, celery; did you mean",
        ),
        ("log_level: LOUD", "1:1: log_level is 'LOUD'; it may be DEBUG, INFO, WARNING, ERROR"),
        ("unknown_after_hours: -1", "1:1: unknown_after_hours is -1; it must be 0 or more"),
        ("shutdown_timeout_seconds: -1", "1:1: shutdown_timeout_seconds is -1.0; it must be 0 or more"),
        ("shutdown_timeout_seconds: .nan", "1:1: shutdown_timeout_seconds is nan; it must be 0 or more"),
        (b"database: caf\xe9", "not UTF-8 text (unexpected end of data at byte 13)"),
        (b"\xff\xfed\x00", "not UTF-8 text (invalid start byte at byte 0)"),
        (b"database: \x07", "unacceptable character #x0007"),
        (b"#" * 1_000_001, "1,000,001 bytes; a configuration has at most 1,000,000"),
    ],
)
def test_a_problem_names_its_place_and_what_may_stand_there(tmp_path: Path, text: str | bytes, problem: str) -> None:
    """File, line, column; the key; what was found."""
    (found,) = problems_of(tmp_path, text)
    assert found.startswith(problem)


def test_a_file_that_cannot_be_read_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "thirdshift.yaml").mkdir()
    with pytest.raises(ConfigurationError, match=r"thirdshift\.yaml: cannot be read \(Is a directory\)"):
        load_settings(tmp_path)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Section:
    """As an application declares one."""

    names: tuple[str, ...] = ()
    limit: int | None = 3
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.limit == 13:
            raise ValueError("limit is 13, which brings bad luck")


def test_an_application_reads_its_own_section(tmp_path: Path) -> None:
    """With its own types and checks; the rest of the file is not its business."""
    file = tmp_path / "thirdshift.yaml"
    assert load_section(tmp_path, "training", Section) == Section()
    file.write_text("zzz: 1\ntraining:\n  names: [a, b]\n  limit: null\n  inner: {rate: 1}\n")
    assert load_section(tmp_path, "training", Section) == Section(names=("a", "b"), limit=None, inner=Inner(rate=1.0))
    file.write_text("training:\n  limit: 13\n")
    with pytest.raises(ConfigurationError, match=r":2:3: limit is 13, which brings bad luck"):
        load_section(tmp_path, "training", Section)
    file.write_text("training:\n  names: [a, 2, [b]]\n  inner: {rat: 1}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_section(tmp_path, "training", Section)
    assert [problem.removeprefix(f"{file}:") for problem in caught.value.problems] == [
        "2:14: training.names[1] must be text, not 2",
        "2:17: training.names[2] must be text, not a list",
        "3:11: unknown key training.inner.rat; did you mean rate?",
    ]
    file.write_text("training: {}\nother: 1\ntraining: {}\n")
    with pytest.raises(ConfigurationError, match=":3:1: the key training stands here twice"):
        load_section(tmp_path, "training", Section)


def test_the_workspace_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the current folder."""
    monkeypatch.setenv("THIRDSHIFT_WORKSPACE", str(tmp_path))
    assert find_workspace() == tmp_path
    monkeypatch.delenv("THIRDSHIFT_WORKSPACE")
    monkeypatch.chdir(tmp_path)
    assert find_workspace() == tmp_path


def test_the_environment_lies_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each of its variables; what it does not say comes from the file."""
    file = tmp_path / "my.yaml"
    file.write_text("worker_type: process\nlog_level: DEBUG\nthreaded_worker: {max_workers: 2, queue_size: 5}\n")
    for name, value in {
        "BG_WORKER_TYPE": "async", "BG_THREADED_MAX_WORKERS": "7", "CELERY_BROKER_URL": "redis://a/1",
        "BG_MONITORING_ENABLED": "0", "BG_MONITORING_ERROR_THRESHOLD": "0.5",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = load_config(file)
    assert (found.worker_type, found.log_level) == ("async", "DEBUG")
    assert found.threaded_worker == ThreadedWorkerConfig(max_workers=7, queue_size=5)
    assert found.celery_worker.result_backend == "redis://a/1"
    assert found.monitoring == MonitoringConfig(enabled=False, error_rate_threshold=0.5)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://b/2")
    monkeypatch.setenv("BG_THREADED_QUEUE_SIZE", "9")
    alone = load_config("env")
    assert (alone.celery_worker.result_backend, alone.threaded_worker.queue_size) == ("redis://b/2", 9)
    assert alone.log_level == "INFO"
    assert alone.to_dict()["threaded_worker"] == {"max_workers": 7, "queue_size": 9, "queue_wait_seconds": 0.0}


def test_files_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that exists holds; the switch ignores them all."""
    home, workspace = tmp_path / "home", tmp_path / "workspace"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("THIRDSHIFT_WORKSPACE", str(workspace))
    places = [
        home / "thirdshift" / "config.yaml",
        workspace / "omni_dev_bg_config.yaml",
        workspace / "thirdshift.yaml",
        tmp_path / "named.yaml",
    ]
    for number, place in enumerate(places, 1):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"threaded_worker: {{max_workers: {number}}}\n")
        if place.name == "named.yaml":
            monkeypatch.setenv("THIRDSHIFT_CONFIG", str(place))
        assert auto_load_config().threaded_worker.max_workers == number
    for switch in ("BG_USE_ENV", "OMNI_DEV_BG_USE_ENV"):
        with monkeypatch.context() as patch:
            patch.setenv(switch, "true")
            assert auto_load_config() == BackgroundTaskConfig()


def test_problems_of_file_and_environment_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment with the variable's name."""
    (tmp_path / "thirdshift.yaml").write_text("log_levl: INFO\n")
    monkeypatch.setenv("BG_THREADED_MAX_WORKERS", "many")
    monkeypatch.setenv("BG_MONITORING_ERROR_THRESHOLD", "2")
    monkeypatch.setenv("BG_USE_ENV", "perhaps")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path)
    text = str(caught.value)
    assert "BG_USE_ENV: must be true or false, not 'perhaps'" in text
    assert f"{tmp_path}/thirdshift.yaml:1:1: unknown key log_levl; did you mean log_level?" in text
    assert "BG_THREADED_MAX_WORKERS: threaded_worker.max_workers must be a whole number, not 'many'" in text


def test_a_value_out_of_range_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a check of the section finds it."""
    monkeypatch.setenv("BG_MONITORING_ERROR_THRESHOLD", "2")
    with pytest.raises(ConfigurationError, match=r"^BG_MONITORING_ERROR_THRESHOLD: error_rate_threshold is 2"):
        load_config("env")


def test_a_bomb_of_aliases_is_harmless(tmp_path: Path) -> None:
    """Nodes are never expanded."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    assert len(problems_of(tmp_path, "\n".join(lines))) == 40


def test_field_names_are_arguments_of_the_manager(tmp_path: Path) -> None:
    """So a section can be passed on as it is."""
    found = BackgroundTaskConfig(threaded_worker=ThreadedWorkerConfig(max_workers=1))
    database = tmp_path / "a.db"
    with BackgroundTaskManager(
        worker_type=found.worker_type, **vars(found.threaded_worker), database=database
    ) as manager:
        assert manager.submit_task(functions.echo, 1)


def test_all_problems_of_file_and_environment_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key hides no wrong value, neither of its own section nor of another, and a file hides no variable."""
    (tmp_path / "thirdshift.yaml").write_text(
        "log_level: LOUD\nthreaded_worker:\n  max_workers: 0\n  queue_sise: 3\npruning:\n  enabled: 7\n"
    )
    monkeypatch.setenv("BG_THREADED_QUEUE_SIZE", "many")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path)
    said = str(caught.value)
    for words in ("log_level is 'LOUD'", "max_workers is 0", "queue_sise", "pruning.enabled", "BG_THREADED_QUEUE_SIZE"):
        assert words in said


def test_schedules_in_the_file(tmp_path: Path) -> None:
    """Under their names; arguments are free."""
    (tmp_path / "thirdshift.yaml").write_text(
        "scheduler: {check_interval_seconds: 5}\n"
        "schedules:\n"
        "  nightly: {function: 'thirdshift.testing.functions:echo', cron: '0 3 * * *', timezone: Europe/Berlin}\n"
        "  sync:\n    function: shop.jobs:sync\n    every_seconds: 90\n    overlap: queue\n"
        "    arguments: [7, [1, two, null]]\n    keywords: {full: true, of: {a: 1.5}}\n"
    )
    found = load_settings(tmp_path)
    assert found.scheduler.check_interval_seconds == 5.0
    assert found.schedules["nightly"].schedule.words == "At 03:00 every day, Europe/Berlin time"
    sync = found.schedules["sync"]
    assert (sync.arguments, sync.keywords) == ((7, [1, "two", None]), {"full": True, "of": {"a": 1.5}})
    assert sync.schedule.words == "Every 90 seconds"


def test_what_is_wrong_with_schedules_is_told_at_once(tmp_path: Path) -> None:
    """Bad cron, bad zone, a misspelt key, two rules; each with its place, and no mistake hides another."""
    found = problems_of(
        tmp_path,
        "schedules:\n"
        "  a: {function: 'm:f', cron: '61 * * * *'}\n"
        "  b: {function: 'm:f', cron: '* * * * *', timezone: Europe/Berln}\n"
        "  c: {function: 'm:f', crn: '* * * * *', every_seconds: 5}\n"
        "  d: {function: 'm', every_seconds: 5, at: '2030-01-01'}\n"
        "  e: {function: 'm:f', every_seconds: 5, overlap: allow}\n"
        "  f: {function: 'm:f', cron: '61 * * * *', timezone: Europe/Berln, missed: never}\n",
    )
    expected = [
        ("2:24:", "bad minute"),
        ("3:43:", "this machine does not know"),
        ("4:24:", "did you mean cron?"),
        ("5:7:", "write module:function"),
        ("5:6:", "not two of them"),
        ("6:42:", "'queue'"),
        ("7:24:", "bad minute"),
        ("7:44:", "this machine does not know"),
        ("7:68:", "'run_once'"),
    ]
    assert [problem.partition(" ")[0] for problem in found] == [place for place, _ in expected]
    for problem, (_, words) in zip(found, expected, strict=True):
        assert words in problem


def test_arguments_that_blow_up_are_refused(tmp_path: Path) -> None:
    """A few lines of aliases that stand for billions of values, and one that contains itself."""
    bomb = "".join(f"    - &a{n} [{', '.join(['*a' + str(n - 1)] * 10)}]\n" for n in range(1, 10))
    head = "schedules:\n  a:\n    function: m:f\n    every_seconds: 5\n    arguments:\n"
    for body in (f"    - &a0 [x, y]\n{bomb}", "    - &a [*a]\n"):
        (problem,) = problems_of(tmp_path, head + body)
        assert "schedules.a.arguments" in problem
        assert "more than 10,000 values, or deeper than 50 levels" in problem
