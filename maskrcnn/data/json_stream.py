"""Walks a large JSON object without ever holding all of its parsed content.

The standard parser turns a number of 5 characters into 32 bytes of Python objects. Here the elements of
chosen arrays are parsed one by one and handed on at once, so that only the text and the caller's packed form
are in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*")  # two elements, or behind the last
_DECODER = json.JSONDecoder()


def parse_object(text: str, element_handlers: Mapping[str, Callable[[Any, int], None]]) -> Collection[str]:
    """Parse a JSON object; call ``element_handlers[key](element, position)`` for every element of its arrays.

    Members without a handler are parsed, checked and dropped.

    Returns:
        The keys of the object.

    Raises:
        json.JSONDecodeError: the text is not a JSON object, a key with a handler comes twice or is no array.
    """
    keys: set[str] = set()
    at = _expect(text, "{", _skip(text, 0))
    if text[at : at + 1] == "}":
        return _finish(text, at, keys)
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        key, end = _DECODER.raw_decode(text, at)
        value = _expect(text, ":", _skip(text, end))
        if key in element_handlers:
            if key in keys:
                raise json.JSONDecodeError(f"The key {key!r} comes twice", text, at)
            end = _parse_array(text, value, element_handlers[key])
        else:
            _, end = _DECODER.raw_decode(text, value)
        keys.add(key)
        at = _skip(text, end)
        if text[at : at + 1] == "}":
            return _finish(text, at, keys)
        at = _expect(text, ",", at)


def _parse_array(text: str, at: int, handle: Callable[[Any, int], None]) -> int:
    at = _expect(text, "[", at)
    if text[at : at + 1] == "]":
        return at + 1
    position = 0
    while True:
        element, end = _DECODER.raw_decode(text, at)
        handle(element, position)
        position += 1
        between = _BETWEEN.match(text, end)
        if between is None:
            raise json.JSONDecodeError("Expecting ',' delimiter", text, _skip(text, end))
        if between[1] == "]":
            return between.end(1)
        at = between.end()


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # the pattern matches the empty string
    return match.end()


def _expect(text: str, character: str, at: int) -> int:
    """Index of the first non-space after ``character``, which must stand at ``at``."""
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"Expecting {character!r}", text, at)
    return _skip(text, at + 1)


def _finish(text: str, at: int, keys: Collection[str]) -> Collection[str]:
    end = _skip(text, at + 1)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return keys
