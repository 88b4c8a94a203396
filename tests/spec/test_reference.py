"""A function is stored by its name, and found again by it in any process."""

import functools
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thirdshift.core import reference
from thirdshift.core.errors import NotImportable, UsageError
from thirdshift.core.reference import add_aliases, bare_name, reference_of, resolve
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


# What has moved


def test_what_has_moved_is_found_under_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it moved; what was not moved is found as before."""
    monkeypatch.setattr(reference, "_aliases", {})
    add_aliases({"shop.old:send": "shop.newer:send", "shop.newer:send": "thirdshift.testing.functions:Kitchen.boil"})
    assert resolve("shop.old:send") == resolve("shop.newer:send") == Kitchen.boil
    add_aliases({"shop.old:send": "shop.newer:send"})
    assert reference_of(Kitchen.boil) == "thirdshift.testing.functions:Kitchen.boil"
    with pytest.raises(ImportError):
        resolve("shop.old:receive")


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ({"shop.send": "math:sqrt"}, "'shop.send' is not MODULE:NAME, such as shop.mail:send"),
        ({"shop:send": "math.sqrt"}, "'math.sqrt' is not MODULE:NAME"),
        ({"shop:send": "no_such_module:f"}, "shop:send is to be no_such_module:f, which cannot be imported"),
        ({"shop:send": "math:no_such_name"}, "math:no_such_name, which cannot be imported"),
        ({"shop:send": "math:pi"}, "math:pi, which is no function and no class but 3.14"),
        ({"a:f": "b:f", "b:f": "a:f"}, "a:f → b:f → a:f goes round in a circle"),
        ({"a:f": "a:f"}, "a:f → a:f goes round in a circle"),
        ({"math:sqrt": "math:floor"}, "math:sqrt is math:ceil in this process already"),
    ],
)
def test_an_alias_that_leads_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, moved: dict[str, str], words: str
) -> None:
    """By name, and none of its neighbours holds then."""
    monkeypatch.setattr(reference, "_aliases", {"math:sqrt": "math:ceil"})
    with pytest.raises(UsageError, match=words):
        add_aliases({"good:f": "math:floor", **moved})
    assert reference.aliases() == {"math:sqrt": "math:ceil"}


def test_an_alias_whose_module_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises is named."""
    (tmp_path / "a_module_that_fails.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="RuntimeError: no licence"):
        add_aliases({"shop:send": "a_module_that_fails:send"})
