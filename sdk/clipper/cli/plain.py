"""Reads a command line that is as it should be, from the same declarations as typer does.

Typer takes 0.35 s of CPU to load and to read one line (it builds its types with pydantic), more than most commands take
for their work. So a line is read here first; whatever is not plainly right (help, a mistake, a spelling that only typer
knows) gives None and is left to it, with its messages.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from clipper.cli.declare import Argument, Option

__all__ = ["read"]


class _NotPlain(Exception):
    """The line is for typer."""


class _Parameter:
    """One parameter of a command: where it stands on the line, and what its words become."""

    def __init__(self, name: str, annotation: Any, default: Any, required: bool) -> None:
        self.name, self.default, self.required = name, default, required
        if get_origin(annotation) is not Annotated:
            raise _NotPlain
        self.type, self.declared = get_args(annotation)[:2]
        if get_origin(self.type) in (types.UnionType, Union):
            self.type = next(kind for kind in get_args(self.type) if kind is not types.NoneType)
        self.several = get_origin(self.type) is list
        if self.several:
            (self.type,) = get_args(self.type)

    @property
    def names(self) -> tuple[str, ...]:
        """As an option; none of an argument."""
        if not isinstance(self.declared, Option):
            return ()
        return self.declared.names or (f"--{self.name.replace('_', '-')}",)

    def value(self, word: str) -> Any:
        """`word` as the parameter's type. Raises _NotPlain."""
        kind = self.type
        if kind is str:
            return word
        if kind is Path:
            return Path(word)
        if get_origin(kind) is Literal and word in get_args(kind):
            return word
        if kind in (int, float):
            return self._number(word)
        raise _NotPlain

    def _number(self, word: str) -> int | float:
        # Digits, and for a float one point: typer reads more spellings, and says what is wrong with others.
        whole, point, part = word.partition(".")
        if not (whole.isascii() and whole.isdigit()) or (point and not (part.isascii() and part.isdigit())):
            raise _NotPlain
        if point and self.type is int:
            raise _NotPlain
        number: int | float = self.type(word)
        low, high = self.declared.min, self.declared.max
        if (low is not None and number < low) or (high is not None and number > high):
            raise _NotPlain
        return number


def read(command: Callable[..., Any], words: Sequence[str]) -> dict[str, Any] | None:
    """The keyword arguments that `words` mean to `command`; None when typer has to look at them."""
    try:
        return _read(_parameters(command), words)
    except _NotPlain:
        return None


def _parameters(command: Callable[..., Any]) -> list[_Parameter]:
    hints = get_type_hints(command, include_extras=True)
    code, defaults = command.__code__, command.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    required = len(names) - len(defaults)
    return [
        _Parameter(name, hints[name], None if index < required else defaults[index - required], index < required)
        for index, name in enumerate(names)
    ]


def _read(parameters: list[_Parameter], words: Sequence[str]) -> dict[str, Any]:
    options = {name: parameter for parameter in parameters for name in parameter.names}
    arguments = [parameter for parameter in parameters if isinstance(parameter.declared, Argument)]
    values: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if word == "-" or not word.startswith("-"):
            if not arguments:
                raise _NotPlain
            parameter = arguments.pop(0)
            values[parameter.name] = parameter.value(word)
            continue
        name, equals, inline = word.partition("=") if word.startswith("--") else (word, "", "")
        option = options.get(name)
        if option is None or (option.name in values and not option.several):
            raise _NotPlain
        if option.type is bool:
            if equals:
                raise _NotPlain
            values[option.name] = True
            continue
        text = inline if equals else next(rest, None)
        if text is None or (not equals and text.startswith("-") and text != "-"):
            raise _NotPlain
        value = option.value(text)
        values[option.name] = [*values.get(option.name, ()), value] if option.several else value
    if any(parameter.required and parameter.name not in values for parameter in parameters):
        raise _NotPlain
    return {parameter.name: values.get(parameter.name, parameter.default) for parameter in parameters}
