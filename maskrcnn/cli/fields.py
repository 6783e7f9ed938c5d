"""Flags made from a dataclass: one per field, with the type, default and docstring of the field."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from maskrcnn.cli.common import UsageError

Config = TypeVar("Config")


def field_docstrings(cls: type) -> dict[str, str]:
    """The string below each annotated field in the source of ``cls``, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    strings = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            strings[field.target.id] = " ".join(str(text.value.value).replace("`", "").split())
    return strings


def field_names(cls: type) -> list[str]:
    """The names of a dataclass's fields."""
    return [field.name for field in dataclasses.fields(cls)]


def add_flags(parser: argparse.ArgumentParser, cls: type, title: str) -> None:
    """A flag for every field: ``warmup_steps: int`` becomes ``--warmup-steps``.

    Booleans become ``--name`` and ``--no-name``, tuples take several values, ``float | None`` also ``none``.
    """
    group = parser.add_argument_group(title)
    helps, hints = field_docstrings(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        flag = "--" + field.name.replace("_", "-")
        shown = helps.get(field.name, "").replace("%", "%%").rstrip(".")
        group.add_argument(flag, default=field.default, help=shown, **_options(hints[field.name]))


def from_flags(cls: type[Config], arguments: argparse.Namespace) -> Config:
    """The dataclass with the values of its flags; a value that it refuses becomes a ``UsageError``."""
    names = field_names(cls)
    values = {name: getattr(arguments, name) for name in names}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(name_flags(cls, str(error))) from error


def name_flags(cls: type, message: str) -> str:
    """A message about ``Class.field:`` as one about its flag."""
    for name in field_names(cls):
        message = message.replace(f"{cls.__name__}.{name}:", f"--{name.replace('_', '-')}:")
    return message


def _options(hint: Any) -> dict[str, Any]:
    """The options of ``add_argument`` for a type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        count: int | str = "*" if arguments[-1] is Ellipsis else len(arguments)
        return {"type": arguments[0], "nargs": count, "metavar": _metavar(arguments[0])}
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and type(None) in arguments:
        kind = next(argument for argument in arguments if argument is not type(None))
        return {"type": _or_none(kind), "metavar": _metavar(kind)}
    return {"type": hint, "metavar": _metavar(hint)}


def _metavar(kind: type) -> str:
    return {int: "N", float: "X", str: "NAME"}[kind]


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    parse.__name__ = f"{getattr(kind, '__name__', kind)} or none"
    return parse
