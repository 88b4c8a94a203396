"""Functions and classes by name: ``package.module:Qualified.name``, found again in any process.

Only what another process can import may be stored. The refusals say what to do instead.
"""

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from thirdshift.core.errors import NotImportable, UsageError

_MOVE_IT = "Move it to the top level of a module and pass its data as arguments."
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_known: WeakKeyDictionary[Callable[..., Any], str] = WeakKeyDictionary()
_aliases: dict[str, str] = {}
"""Old references and what they are called now. Where code lives is one fact for the whole process; so is this table."""


class NotThere(ImportError):
    """The module of a reference, or the name in it, cannot be found in this process; ``__cause__`` says which."""


def reference_of(function: Callable[..., Any]) -> str:
    """Return the reference of *function*; raises :class:`NotImportable` when no other process could find it."""
    try:
        found = _known.get(function)
    except TypeError:  # not a function: it cannot even be remembered, and the check says what it is
        return _checked_reference(function)
    if found is None:
        found = _checked_reference(function)
        _known[function] = found
    return found


def resolve(reference: str) -> Any:
    """Import what *reference* names, under its new name if it has moved.

    Raises :class:`NotThere`, an ``ImportError``, when the module or the name in it does not exist, and whatever the
    module raises while it is imported.
    """
    module_name, _, qualified_name = _followed(reference, _aliases).partition(":")
    found = _imported(module_name) or _main_module_as(module_name) or _import(module_name)
    try:
        for part in qualified_name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise NotThere(str(error)) from error
    return found


def is_imported(reference: str) -> bool:
    """Return whether :func:`resolve` finds *reference* without importing anything, and without waiting for who does."""
    module_name = _followed(reference, _aliases).partition(":")[0]
    if module_name in sys.modules:
        return _imported(module_name) is not None
    return _main_module_as(module_name) is not None


def bare_name(reference: str) -> str:
    """Return the last part of *reference*: the function's bare ``__name__``."""
    return reference.rpartition(":")[2].rpartition(".")[2]


def add_aliases(moved: Mapping[str, str]) -> None:
    """Find what *moved* has as keys under the references that are their values, from now on in the whole process.

    Functions and classes that have been moved or renamed are found by what was stored under their old references. Each
    target is imported at once. Raises ``UsageError`` naming the first entry that is wrong; then nothing is changed.
    """
    table = {**_aliases}
    for old, new in moved.items():
        for each in (old, new):
            if not _REFERENCE.fullmatch(each):
                raise UsageError(f"aliases: {each!r} is not MODULE:NAME, such as shop.mail:send")
        if table.setdefault(old, new) != new:
            raise UsageError(f"aliases: {old} is {table[old]} in this process already, it cannot be {new} too")
    for old in moved:
        _check_target(old, _followed(old, table))
    _aliases.update(table)


def aliases() -> Mapping[str, str]:
    """Return all aliases of this process, for its children."""
    return {**_aliases}


def adopt_aliases(found: Mapping[str, str]) -> None:
    """Take over the aliases of the parent process, which has checked them."""
    _aliases.update(found)


def _followed(reference: str, table: Mapping[str, str]) -> str:
    """Return the newest name of what was once called *reference*; it may have moved more than once."""
    if reference not in table:
        return reference
    seen: list[str] = []
    while reference in table:
        seen.append(reference)
        reference = table[reference]
        if reference in seen:
            raise UsageError(f"aliases: {' → '.join([*seen, reference])} goes round in a circle")
    return reference


def _check_target(old: str, new: str) -> None:
    try:
        found = resolve(new)
    except Exception as error:  # whatever the module raises while it is imported
        raise UsageError(
            f"aliases: {old} is to be {new}, which cannot be imported ({type(error).__name__}: {error}). "
            "Say what it is called now, and where it can be imported from."
        ) from error
    if not callable(found):
        raise UsageError(f"aliases: {old} is to be {new}, which is no function and no class but {found!r}")


def _checked_reference(function: Callable[..., Any]) -> str:
    name = _qualified_name(function)
    reference = f"{_module_name(function)}:{name}"
    try:
        found = resolve(reference)
    except (ImportError, AttributeError) as error:
        raise NotImportable(repr(function), f"{reference} cannot be imported ({error})", _MOVE_IT) from error
    if found != function:
        raise NotImportable(
            repr(function),
            f"{reference} names another object",
            "If a decorator replaced it, let the decorator use functools.wraps and submit the decorated function.",
        )
    return reference


def _qualified_name(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        raise NotImportable(repr(function), "it is a partial", "Submit the function itself with all its arguments.")
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        raise NotImportable(repr(function), "it is an object, not a function", "Submit a function.")
    if "<lambda>" in name:
        raise NotImportable(repr(function), "it is a lambda", "Give it a name at the top level of a module.")
    if "<locals>" in name:
        raise NotImportable(repr(function), "it is defined inside another function", _MOVE_IT)
    owner = getattr(function, "__self__", None)
    if owner is not None and not inspect.isclass(owner) and not inspect.ismodule(owner):
        raise NotImportable(
            repr(function),
            "it is bound to one object, which exists only in this process",
            "Submit a plain function that makes or finds the object, and pass what identifies it as an argument.",
        )
    return name


def _module_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__module__", None)
    if not name:
        raise NotImportable(repr(function), "it belongs to no module", _MOVE_IT)
    return _name_of_main(function) if name == "__main__" else str(name)


def _name_of_main(function: Callable[..., Any]) -> str:
    """Return the name under which another process imports the script that runs here as ``__main__``."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if not file or not Path(file).stem.isidentifier():
        raise NotImportable(
            repr(function),
            "it is defined in an interactive session or in a script whose name cannot be imported",
            "Put it into a module file with a plain name (letters, digits, underscores).",
        )
    return Path(file).stem


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):  # what it imports itself is its own affair
            raise
        importlib.invalidate_caches()  # so that the next try finds what is installed meanwhile
        raise NotThere(str(error)) from error


def _imported(module_name: str) -> Any:
    """Return the module if it is imported, and not just being imported by another thread."""
    module = sys.modules.get(module_name)
    is_unfinished = getattr(getattr(module, "__spec__", None), "_initializing", False)  # as importlib itself asks
    return None if is_unfinished else module


def _main_module_as(module_name: str) -> Any:
    """Return the running script when it is *module_name*, so that it is not imported a second time."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or not file or module_name in sys.modules:
        return None
    spec = getattr(main, "__spec__", None)
    name = spec.name if spec is not None else Path(file).stem
    return main if name == module_name else None
