"""Values in an event: where they are, and keys that stand for them.

A path names one value: ``subject``, ``data``, ``data.customer.id``; ``data.items.0.sku`` is in the
first element of a list. ``userId`` is what the extension ``cakeworkuserid`` says.
"""

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, cast

PATH_PATTERN = r"^(?:data(?:\.[^.\x00-\x1f\x7f]{1,64}){0,15}|userId|[a-z0-9]{1,64})$"  # of an event
PATH_CHARS_MAX = 256
USER_ID = "userId"
USER_ID_EXTENSION = "cakeworkuserid"
KEY_CHARS_MAX = 64
_KEY_OF_ABSENT = "absent"
_READABLE_CHARS_MAX = 48
_INDEX_CHARS_MAX = 7


class Absent(Enum):
    """What is in the place of a value that is not there; ``null`` is there."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


def field_of(event: Mapping[str, Any], name: str) -> object:
    """Return a field of an event itself; ``ABSENT`` if it has none of that name."""
    if name in event:
        return event[name]
    return event.get(USER_ID_EXTENSION, ABSENT) if name == USER_ID else ABSENT


def value_at(event: Mapping[str, Any], path: str) -> object:
    """Return what is at a path, ``ABSENT`` if there is nothing."""
    first, *others = path.split(".")
    value = field_of(event, first)
    for part in others:
        value = _inside(value, part)
    return value


def key_of(event: Mapping[str, Any], path: str) -> str:
    """Return what stands for the value at a path: at most 64 printable characters of ASCII.

    Equal values have one key, and others another; so has what is absent. ``1.0`` is ``1``, but in
    lists and objects numbers go by how they are written.
    """
    value = value_at(event, path)
    if value is ABSENT:
        return _KEY_OF_ABSENT
    written = _canonical(value)
    if len(written) <= _READABLE_CHARS_MAX:
        return written
    return "#" + hashlib.sha224(written.encode()).hexdigest()


def _inside(value: object, part: str) -> object:
    if isinstance(value, dict):
        return cast(dict[str, object], value).get(part, ABSENT)
    if isinstance(value, list) and _is_index(part):
        elements = cast(list[object], value)
        return elements[int(part)] if int(part) < len(elements) else ABSENT
    return ABSENT


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= _INDEX_CHARS_MAX


def _canonical(value: object) -> str:
    """Return a value as JSON of ASCII, names in order."""
    if isinstance(value, float) and value.is_integer():
        return json.dumps(int(value))
    try:
        return _written(value)
    except RecursionError:
        return _written_deep(value)


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class _Sign(str):
    """Text that is written as it is, among values that are written as JSON."""

    __slots__ = ()


def _written_deep(value: object) -> str:
    """Return what :func:`_written` would, without recursion, and slower."""
    written: list[str] = []
    left: list[object] = [value]
    while left:
        each = left.pop()
        if isinstance(each, _Sign):
            written.append(each)
        elif isinstance(each, dict):
            left.extend(reversed(_of_object(cast(dict[str, object], each))))
        elif isinstance(each, list):
            left.extend(reversed(_of_list(cast(list[object], each))))
        else:
            written.append(_written(each))
    return "".join(written)


def _of_object(given: dict[str, object]) -> list[object]:
    parts: list[object] = [_Sign("{")]
    for name in sorted(given):
        parts += [name, _Sign(":"), given[name], _Sign(",")]
    return _ended(parts, "}")


def _of_list(given: list[object]) -> list[object]:
    parts: list[object] = [_Sign("[")]
    for each in given:
        parts += [each, _Sign(",")]
    return _ended(parts, "]")


def _ended(parts: list[object], end: str) -> list[object]:
    """Put an end in the place of the last comma, if there is one."""
    return [*(parts[:-1] if len(parts) > 1 else parts), _Sign(end)]
