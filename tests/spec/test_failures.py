"""What a failure says of its cause, and what functions declare about theirs."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from thirdshift import Retry, RetryPolicy, UsageError, task
from thirdshift.core import codec
from thirdshift.core.declare import declaration_of
from thirdshift.core.outcome import Ending
from thirdshift.core.task import TaskError
from thirdshift.runtime.attempt import run_attempt
from thirdshift.runtime.clock import SystemClock
from thirdshift.runtime.context import TaskContext
from thirdshift.testing import functions

Make = Callable[[str, str], ModuleType]
SHOP = """
import json
from functools import partial

def send(text):
    return parse(text)

def parse(text):
    return json.loads(text)

def deep(levels):
    return deep(levels - 1) if levels else find({})[1]

def find(stock):
    return stock["missing"]

def in_lambda():
    return (lambda value: value / 0)(1)

def in_closure():
    def inner():
        raise ValueError
    return inner()
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a module in a folder of the test, which is on the import path."""

    def made(code: str, folder: str) -> ModuleType:
        place = tmp_path / folder
        place.mkdir(parents=True)
        (place / "failing_shop.py").write_text(code)
        monkeypatch.syspath_prepend(place)
        monkeypatch.delitem(sys.modules, "failing_shop", raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("failing_shop")

    return made


def ending(name: str, *args: object) -> Ending:
    """Run one attempt of the shop's function *name*."""
    context = TaskContext("1" * 32, name, 1)
    return run_attempt(f"failing_shop:{name}", codec.encode_arguments(args, {}), context, SystemClock())


def error(name: str, *args: object) -> TaskError:
    found = ending(name, *args).error
    assert found is not None
    return found


def test_values_and_line_numbers_do_not_matter(make: Make) -> None:
    """The same error of the same functions is the same cause, also in the next version of the file."""
    make(SHOP, "app")
    first, second = error("send", "{"), error("send", "[1, 2")
    assert first.message != second.message
    make(f"# a line more\n{SHOP}", "app2")
    assert {first.fingerprint, second.fingerprint, error("send", "{").fingerprint} == {
        "JSONDecodeError@failing_shop:parse,failing_shop:send"
    }


def test_other_errors_and_other_functions_are_other_causes(make: Make) -> None:
    """Of each the innermost functions count, at most three."""
    make(SHOP, "app")
    assert error("parse", "{").fingerprint == "JSONDecodeError@failing_shop:parse"
    assert error("parse", 1).fingerprint == "TypeError@failing_shop:parse"
    assert error("deep", 2).where == ("failing_shop:find", "failing_shop:deep", "failing_shop:deep")
    assert error("deep", 2) == error("deep", 2)


def test_a_fingerprint_can_be_typed_into_a_shell(make: Make) -> None:
    """Functions without a name of their own have no brackets in it."""
    make(SHOP, "app")
    assert error("in_lambda").where == ("failing_shop:in_lambda.lambda", "failing_shop:in_lambda")
    assert error("in_closure").where == ("failing_shop:in_closure.inner", "failing_shop:in_closure")


def test_an_application_that_is_installed_as_a_package_has_fingerprints_too(make: Make) -> None:
    """Where all code is that of packages, all of it counts."""
    make(SHOP, "lib/site-packages/app")
    assert error("parse", "{").where[0] == "json.decoder:JSONDecoder.raw_decode"
    assert json.loads("1") == 1


def test_an_error_that_came_from_nowhere_is_known_by_its_type(make: Make) -> None:
    """As those that Thirdshift records itself."""
    assert TaskError(type="TimedOut", message="…").fingerprint == "TimedOut"


@pytest.mark.parametrize("option", ["retry_on", "give_up_on"])
@pytest.mark.parametrize("given", [("ValueError",), "ValueError", (int,), (ValueError("x"),), [None], 5])
def test_what_is_no_exception_class_is_refused(option: str, given: object) -> None:
    """Where it is written."""
    with pytest.raises(UsageError, match=f"{option} was given .* no exception class"):
        task(**{option: given})  # type: ignore[call-overload]


@pytest.mark.parametrize("given", [5, Retry(1)])
def test_what_is_no_backoff_is_refused(given: object) -> None:
    """Where it is written."""
    with pytest.raises(UsageError, match=r"backoff was given .* write backoff=RetryPolicy"):
        task(backoff=given)  # type: ignore[call-overload]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "5", None])
def test_a_backoff_that_makes_no_sense_is_refused(seconds: object) -> None:
    """Where it is written."""
    for name in ("first_s", "most_s"):
        with pytest.raises(UsageError, match=rf"RetryPolicy\({name}=…\) was given"):
            RetryPolicy(**{name: seconds})  # type: ignore[arg-type]


def test_one_class_needs_no_tuple() -> None:
    """As with ``except``."""
    declared = declaration_of(task(retry_on=OSError, give_up_on=[TimeoutError])(functions.Kitchen.boil))  # type: ignore[call-overload]
    assert [declared.gives_up(kind()) for kind in (OSError, ConnectionError, TimeoutError, ValueError)] == [
        False,
        False,
        True,
        True,
    ]


def test_a_function_that_declares_nothing_is_always_tried_again() -> None:
    """Whatever it raises."""
    assert not declaration_of(functions.fail).gives_up(KeyboardInterrupt())
