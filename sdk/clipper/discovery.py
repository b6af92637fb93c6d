"""Finds decorated functions by reading source, not by running it.

The interpreter that deploys need not have the model's dependencies, and user code runs in replicas only. So options in
a decorator must be readable too: literals, module constants, arithmetic on numbers, lists, tuples and dicts of these.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clipper.contract.spec import FunctionSpec, SpecError, check_name, nearest

__all__ = ["Discovered", "SourceModule", "read_module"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """A decorated function or class: its name in the project, where it is, and what its decorator says.

    `twice = clipper.function(name="twice")(partial(repeat, times=2))` decorates too.
    """

    name: str
    target: str  # the name in its module
    module: str  # dotted, relative to the project
    file: str  # relative to the project, for messages
    line: int
    options: Mapping[str, Any]

    @property
    def entrypoint(self) -> str:
        return f"{self.module}:{self.target}"

    @property
    def where(self) -> str:
        return f"decorator ({self.file}:{self.line})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModule:
    """One module of a project, as read: its decorated functions and every name that it binds at the top."""

    module: str
    file: str
    functions: tuple[Discovered, ...]
    names: frozenset[str] = field(default=frozenset())
    open_ended: bool = False  # holds `from x import *`: any name may exist

    def check_target(self, target: str, *, where: str) -> None:
        """Raises SpecError, with the nearest name, unless the module binds `target`."""
        if target in self.names or self.open_ended:
            return
        guess = nearest(target, self.names)
        hint = f"did you mean {guess!r}?" if guess else "define it there, or correct the entrypoint"
        raise SpecError(f"{self.file} has no {target!r}; {hint}", where=where, key="entrypoint")


def read_module(directory: Path, module: str, *, where: str) -> SourceModule:
    """Read `module` ("app", "package.models") of the project in `directory`.

    Raises SpecError for a module that is not there, source that is not Python, and a decorator that cannot be read.
    """
    path = _path_of(directory, module, where)
    file = path.relative_to(directory).as_posix()
    try:
        tree = ast.parse(path.read_bytes(), filename=file)
    except SyntaxError as error:
        raise SpecError(f"not valid Python: {error.msg}", where=f"{file}:{error.lineno or 1}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte; brackets nested past the parser's stack
        raise SpecError(f"not valid Python: {error}", where=file) from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=file) from None
    reader = _Reader(module, file, tree)
    return SourceModule(
        module=module,
        file=file,
        functions=tuple(reader.functions()),
        names=frozenset(_bound_names(tree.body)),
        open_ended=any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(tree)),
    )


def _path_of(directory: Path, module: str, where: str) -> Path:
    base = directory.joinpath(*module.split("."))
    for path in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if path.is_file():
            return path
    known = [p.stem for p in directory.glob("*.py")] + [p.parent.name for p in directory.glob("*/__init__.py")]
    guess = nearest(module, known)
    hint = f"did you mean {guess!r}?" if guess else "write the module as in app:Classify, for app.py"
    raise SpecError(f"the module {module!r} is not in the project; {hint}", where=where, key="entrypoint")


class _Reader:
    """Walks a module's top level in order, keeping the constants that are known at each decorator."""

    def __init__(self, module: str, file: str, tree: ast.Module) -> None:
        self._module, self._file, self._tree = module, file, tree
        self._constants: dict[str, Any] = {}
        self._packages, self._decorators = _imported_names(tree)

    def functions(self) -> Iterator[Discovered]:
        yield from self._walk(self._tree.body)

    def _walk(self, body: Iterable[ast.stmt]) -> Iterator[Discovered]:
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from self._definition(statement)
                self._constants.pop(statement.name, None)
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                yield from self._assigned(statement)
                self._assign(statement)
            else:
                # What a branch or a loop assigns depends on how the code runs, so it is not known here.
                for name in _bound_names([statement]):
                    self._constants.pop(name, None)
                for inner in _inner_bodies(statement):
                    kept = dict(self._constants)
                    yield from self._walk(inner)
                    self._constants = kept

    def _assign(self, statement: ast.Assign | ast.AnnAssign) -> None:
        for name in _bound_names([statement]):
            self._constants.pop(name, None)
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if statement.value is None:
            return
        try:
            value = self._evaluate(statement.value)
        except _Unreadable:
            return
        for target in targets:
            if isinstance(target, ast.Name):
                self._constants[target.id] = value

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[Discovered]:
        for decorator in node.decorator_list:
            if self._is_ours(decorator):
                yield self._discovered(node.name, decorator)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and any(
                    map(self._is_ours, inner.decorator_list)
                ):
                    raise SpecError(
                        f"{node.name}.{inner.name} is a method; decorate the class {node.name}, "
                        "whose __call__ is what a deployed class runs",
                        where=f"{self._file}:{inner.lineno}",
                    )

    def _assigned(self, statement: ast.Assign | ast.AnnAssign) -> Iterator[Discovered]:
        """The function of `target = clipper.function(…)(code)` and of `target = clipper.function(code)`."""
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        call, target = statement.value, targets[0]
        if not (isinstance(call, ast.Call) and len(call.args) == 1 and isinstance(target, ast.Name)):
            return
        if isinstance(call.func, ast.Call) and not call.keywords and self._is_ours(call.func):
            decorator: ast.expr = call.func
        elif self._is_ours(call.func):
            decorator = ast.copy_location(ast.Call(func=call.func, args=[], keywords=call.keywords), call)
        else:
            return
        code = call.args[0]
        own_name = code.id if isinstance(code, ast.Name) else getattr(code, "attr", "")
        yield self._discovered(target.id, decorator, needs_name=own_name != target.id)

    def _is_ours(self, decorator: ast.expr) -> bool:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name):
            return target.id in self._decorators
        return (
            isinstance(target, ast.Attribute)
            and target.attr == "function"
            and isinstance(target.value, ast.Name)
            and target.value.id in self._packages
        )

    def _discovered(self, target: str, decorator: ast.expr, *, needs_name: bool = False) -> Discovered:
        where = f"decorator ({self._file}:{decorator.lineno})"
        options: dict[str, Any] = {}
        if isinstance(decorator, ast.Call):
            if decorator.args:
                raise SpecError("takes keywords only, as in max_batch_size=32", where=where)
            for keyword in decorator.keywords:
                options |= self._option(keyword, where)
        if needs_name and not options.get("name"):
            # The code has another name of its own, or none, and `target.remote(…)` would call that.
            raise SpecError(f"write its name, as in clipper.function(name={target!r})(…)", where=where, key="name")
        name = check_name(options.pop("name", None) or target, "function", where=where)
        FunctionSpec.check_options(options, where=where)
        return Discovered(
            name=name,
            target=target,
            module=self._module,
            file=self._file,
            line=decorator.lineno,
            options=options,
        )

    def _option(self, keyword: ast.keyword, where: str) -> dict[str, Any]:
        if keyword.arg is None:
            raise SpecError(
                "options are read without running the code, so **mappings cannot be followed; "
                "write each keyword, or set the options in clip.toml",
                where=where,
            )
        try:
            return {keyword.arg: self._evaluate(keyword.value)}
        except _Unreadable as error:
            raise SpecError(
                f"{keyword.arg} = {ast.unparse(keyword.value)[:80]} cannot be read without running the code ({error}); "
                "write a literal, or set it in clip.toml",
                where=f"decorator ({self._file}:{keyword.value.lineno})",
                key=keyword.arg,
            ) from None

    def _evaluate(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str()):
                return node.value
            case ast.Name():
                if node.id not in self._constants:
                    raise _Unreadable(f"{node.id} is not a constant of the module")
                return self._constants[node.id]
            case ast.List() | ast.Tuple():
                return [self._evaluate(item) for item in node.elts]
            case ast.Dict():
                return {
                    self._key(key): self._evaluate(value) for key, value in zip(node.keys, node.values, strict=True)
                }
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                value = _number(self._evaluate(node.operand))
                return -value if isinstance(node.op, ast.USub) else value
            case ast.BinOp():
                return _arithmetic(node.op, _number(self._evaluate(node.left)), _number(self._evaluate(node.right)))
        raise _Unreadable("it is neither a literal nor arithmetic on numbers")

    def _key(self, node: ast.expr | None) -> str:
        if node is None:
            raise _Unreadable("it unpacks another mapping")
        key = self._evaluate(node)
        if not isinstance(key, str):
            raise _Unreadable("its keys must be strings")
        return key


class _Unreadable(Exception):
    """An expression whose value cannot be known without running code."""


# Options are durations, sizes and counts: larger numbers are mistakes, and `**` must not build huge ones.
_LARGEST: Final = 1 << 64
_LARGEST_EXPONENT: Final = 64

_OPERATORS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Unreadable("arithmetic is read on numbers only")
    return value


def _arithmetic(op: ast.operator, left: float, right: float) -> int | float:
    if type(op) not in _OPERATORS:
        raise _Unreadable(f"the operator {type(op).__name__} is not read")
    if isinstance(op, (ast.Pow, ast.LShift)) and not 0 <= right <= _LARGEST_EXPONENT:
        raise _Unreadable(f"the exponent {right} is out of range")
    try:
        value = _OPERATORS[type(op)](left, right)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise _Unreadable(str(error)) from None
    if isinstance(value, complex) or abs(value) > _LARGEST:
        raise _Unreadable("the number is too large")
    return value  # type: ignore[no-any-return]  # the operators are typed for any operand


def _imported_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names by which this module knows the package `clipper`, and those by which it knows the decorator."""
    packages, decorators = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "clipper" or (alias.name.startswith("clipper.") and alias.asname is None):
                    packages.add(alias.asname or "clipper")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in ("clipper", "clipper.function"):
            decorators |= {alias.asname or alias.name for alias in node.names if alias.name == "function"}
    return packages, decorators


def _inner_bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        inner = getattr(statement, name, None)
        if isinstance(inner, list):
            yield inner
    for handler in getattr(statement, "handlers", []):
        yield handler.body
    for case in getattr(statement, "cases", []):
        yield case.body


def _bound_names(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Every name that the statements bind in their own scope."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
                continue  # what is inside is another scope
            case ast.Lambda():
                continue
            case ast.Import():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)
            case ast.Name(ctx=ast.Store() | ast.Del()):
                yield node.id
            case ast.ExceptHandler(name=str()) | ast.MatchAs(name=str()) | ast.MatchStar(name=str()):
                yield node.name or ""
        pending.extend(ast.iter_child_nodes(node))
