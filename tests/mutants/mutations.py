"""The mutants: Cosmic Ray's operators at every place of the sources where a test could notice something."""

import ast
import hashlib
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from tree import ROOT, SOURCES

_FOR_READERS = {"abstractmethod", "overload", "override", "final", "runtime_checkable"}
"""Decorators that change nothing of what a program does."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of one file; *occurrence* counts the places where Cosmic Ray's *operator* could be used."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int
    function_line: int
    """Where the function around it has its first statement; 0 outside of functions."""
    source: str
    """Of the file, as a digest: a result is about this mutant of this text."""

    @property
    def key(self) -> str:
        return f"{self.module}:{self.operator}:{self.occurrence}:{self.source}"

    def text(self) -> str:
        """Return the file with the change."""
        changed = mutate_code((ROOT / self.module).read_text(), get_operator(self.operator)(), self.occurrence)
        assert changed is not None, "the place was counted with the same text"
        return str(changed)


def draw(seed: int, count: int | None, only: str = "") -> list[Mutant]:
    """Return *count* mutants whose module has *only* in its name, in the order of *seed*: more of them begin alike."""
    found: list[Mutant] = []
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            if only in path.as_posix():
                found += _of_file(path, random.Random(f"{seed}:{path.name}"))
    random.Random(seed).shuffle(found)
    chosen: list[Mutant] = []
    for mutant in found:
        if count is not None and len(chosen) == count:
            break
        if _is_possible(mutant) and not _is_for_readers(mutant):
            chosen.append(mutant)
    return chosen


def _of_file(path: Path, draws: random.Random) -> Iterator[Mutant]:
    """Yield one mutant of each kind at each place; `+` has eleven others, which the same tests tell apart from it."""
    text = path.read_text()
    module = ast.parse(text)
    silent, functions = _silent(module), _functions(module)
    places: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = defaultdict(list)
    nodes = list(ast_nodes(get_ast(text)))
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue  # those that put one variable for another are told which
        positions = [start for node in nodes for start, _ in operator().mutation_positions(node)]
        for occurrence, position in enumerate(positions):
            if not any(begin <= position < end for begin, end in silent):
                places[_kind(name), position].append((name, occurrence))
    for (_, (line, column)), choices in sorted(places.items()):
        name, occurrence = draws.choice(choices)
        inner = [first for begin, end, first in functions if begin <= line <= end]
        yield Mutant(
            module=path.relative_to(ROOT).as_posix(),
            operator=name,
            occurrence=occurrence,
            line=line,
            column=column,
            function_line=inner[-1] if inner else 0,
            source=hashlib.sha256(text.encode()).hexdigest()[:16],
        )


def _kind(operator: str) -> str:
    """Return ``core/ReplaceBinaryOperator`` for ``core/ReplaceBinaryOperator_Add_Sub``."""
    return operator.split("_", maxsplit=1)[0]


def _silent(module: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where a change does nothing, or breaks the import, whatever the code is for.

    That are annotations, options of dataclasses (they forbid, and do nothing), and decorators for readers.
    """
    silent: list[ast.expr] = []
    for node in ast.walk(module):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            silent.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            silent += [found for found in node.decorator_list if _is_silent(found)]
            silent += [node.returns] if not isinstance(node, ast.ClassDef) and node.returns else []
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and _is_type(node.value):
            silent.append(node.value)
    return [
        ((node.lineno, node.col_offset - 1), (node.end_lineno or node.lineno, (node.end_col_offset or 0) + 1))
        for node in silent
    ]


def _is_silent(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _FOR_READERS or name == "dataclass"


def _is_type(value: ast.expr) -> bool:
    """Return whether *value* is a union such as ``int | None``."""
    if isinstance(value, ast.BinOp):
        return isinstance(value.op, ast.BitOr) and _is_type(value.left) and _is_type(value.right)
    if isinstance(value, ast.Subscript):
        return _is_type(value.value)
    return (isinstance(value, ast.Name) and value.id[:1].isalpha()) or (
        isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, str))
    )


def _functions(module: ast.Module) -> list[tuple[int, int, int]]:
    """Return first line, last line and first statement of each function, outer ones first."""
    found = [
        (node.lineno, node.end_lineno or node.lineno, _first_statement(node))
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sorted(found)


def _first_statement(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body
    has_more = ast.get_docstring(function) is not None and len(body) > 1
    return body[1 if has_more else 0].lineno


def _is_possible(mutant: Mutant) -> bool:
    """Return whether it is Python; Cosmic Ray cannot mutate ``except module.Error``."""
    try:
        with warnings.catch_warnings(action="ignore"):  # such as "is" with a literal
            compile(mutant.text(), "mutant", "exec")
    except (SyntaxError, AttributeError):
        return False
    return True


def _is_for_readers(mutant: Mutant) -> bool:
    """Return whether only a type checker could notice: a contract without decorators, `/` for `*` in a signature."""
    text = (ROOT / mutant.module).read_text()
    if mutant.operator.endswith("RemoveDecorator"):
        contracts = [
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
        ]
        return any(node.lineno <= mutant.line <= (node.end_lineno or 0) for node in contracts)
    return text.splitlines()[mutant.line - 1][mutant.column :].startswith("*,")
