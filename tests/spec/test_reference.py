"""A function is stored by its name, and found again by it in any process."""

import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from thirdshift.core.errors import NotImportable
from thirdshift.core.reference import bare_name, reference_of, resolve
from thirdshift.testing import functions
from thirdshift.testing.functions import Kitchen


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (functions.add, "thirdshift.testing.functions:add"),
        (Kitchen.boil, "thirdshift.testing.functions:Kitchen.boil"),
        (Kitchen.fry, "thirdshift.testing.functions:Kitchen.fry"),
        (math.sqrt, "math:sqrt"),
        (len, "builtins:len"),
        (Kitchen, "thirdshift.testing.functions:Kitchen"),
        (str.upper, "builtins:str.upper"),
    ],
)
def test_a_reference_finds_its_function_again(function: Callable[..., Any], reference: str) -> None:
    """Plain functions, static and class methods, classes and builtins."""
    try:
        assert reference_of(function) == reference
    except NotImportable:
        assert reference == "builtins:str.upper"  # a method descriptor names no module
        return
    assert resolve(reference) == function


def test_the_bare_name_is_the_last_part() -> None:
    """The name under which figures are kept."""
    assert bare_name("shop.mail:send") == "send"
    assert bare_name("shop.mail:Mail.send") == "send"


def unwrapped(function: Callable[[], int]) -> Callable[[], int]:
    def inner() -> int:
        return function()

    return inner


def wrapped(function: Callable[[], int]) -> Callable[[], int]:
    @functools.wraps(function)
    def inner() -> int:
        return function()

    return inner


@wrapped
def decorated() -> int:
    return 1


def replaced() -> int:
    return 1


original, replaced = replaced, wrapped(replaced)


class Callable_:  # noqa: N801  # an object that can be called
    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> None: ...


class Outer:
    def method(self) -> None: ...


def test_a_function_that_its_decorator_wraps_is_found() -> None:
    """functools.wraps keeps the name."""
    assert resolve(reference_of(decorated)) is decorated


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda: None, "it is a lambda"),
        (unwrapped(decorated), "defined inside another function"),
        (functools.partial(functions.add, 1), "it is a partial. Submit the function itself with all its arguments"),
        (functions.Kitchen().bake, "it is bound to one object, which exists only in this process"),
        (Callable_(), "it is an object, not a function"),
        (original, "names another object. If a decorator replaced it"),
        (7, "it is an object, not a function"),
        ([], "it is an object, not a function"),
    ],
)
def test_what_nobody_else_can_find_is_refused(what: Any, why: str) -> None:
    """With what to do instead."""
    with pytest.raises(NotImportable, match=why):
        reference_of(what)


def test_a_function_without_a_module_is_refused() -> None:
    """As exec makes them."""
    space: dict[str, Any] = {"__name__": None}
    exec("def orphan(): ...", space)
    with pytest.raises(NotImportable, match="belongs to no module"):
        reference_of(space["orphan"])


def test_a_function_of_a_module_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported to see whether others could."""
    module = types.ModuleType("a_module_of_this_test")
    exec("def here(): ...", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert reference_of(module.here) == "a_module_of_this_test:here"
    exec("def gone(): ...", module.__dict__)
    gone = module.gone
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(NotImportable, match="cannot be imported"):
        reference_of(gone)


@pytest.mark.parametrize("reference", ["no.such.module:f", "math:no_such_name", "math:sqrt.nothing"])
def test_an_unknown_reference_raises_as_an_import_does(reference: str) -> None:
    """ImportError or AttributeError."""
    with pytest.raises((ImportError, AttributeError)):
        resolve(reference)
