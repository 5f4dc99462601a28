"""Filters of events, in the grammar of EventBridge, over the whole event.

    {"type": ["order.paid"], "data": {"total": [{"numeric": [">", 100]}], "tags": ["vip"],
     "$or": [{"country": ["DE"]}, {"express": [true]}]}}

All fields have to match, of a field's list one rule, of ``$or`` one pattern. A list in the event
matches if one of its elements does; where these are objects, all fields that are asked for have to
match in the same one. A field that is absent is matched by ``{"exists": false}`` alone.
A comparison that takes more than ``LOOKS_MAX`` looks is given up, and does not match.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from cakework.domain.event_values import (
    ABSENT,
    PATH_CHARS_MAX,
    PATH_PATTERN,
    USER_ID,
    Absent,
    field_of,
    key_of,
    value_at,
)
from cakework.domain.pattern_grammar import OR, Choice, Fields, Leaf, joined, tree_of
from cakework.domain.pattern_rules import LOOKS_MAX, BadPattern, Looks, TooMuch, cut, quoted

__all__ = [
    "ABSENT",
    "LOOKS_MAX",
    "PATH_CHARS_MAX",
    "PATH_PATTERN",
    "TYPE_PATTERN",
    "Absent",
    "BadPattern",
    "Pattern",
    "key_of",
    "matches_type",
    "value_at",
]

TYPE_PATTERN = r"^[^*\x00-\x1f\x7f-\x9f]{0,255}(?:\*|[^*\x00-\x1f\x7f-\x9f])$"
LINES_MAX = 64
_ELEMENTS_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Pattern:
    """A filter that events can be compared with."""

    _fields: Fields

    @classmethod
    def compile(cls, given: object) -> "Pattern":
        """Return the filter that a value of JSON is; ``{}`` takes every event.

        Raises:
            BadPattern: it is none, or is over 4 KiB as JSON, 64 rules, or fields 8 deep.
        """
        return cls(tree_of(given))

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Return whether an event, as JSON, is one that the filter asks for."""
        try:
            return _object_matches(self._fields, _with_user(event), Looks())
        except TooMuch:
            return False

    def because(self, event: Mapping[str, Any]) -> list[str]:
        """Return for people how each field compares, in order, in at most 64 lines.

        Of a list of objects the first that matches is told of, or else the first. Of ``$or`` the
        first pattern that matches, or else all.
        """
        lines: list[str] = []
        try:
            told = _lines(self._fields, _with_user(event), "", Looks())
            lines.extend(islice(told, LINES_MAX))
        except TooMuch:
            lines = [*lines[: LINES_MAX - 1], "the rest is too much to compare: does not match"]
        return lines


def matches_type(pattern: str, type_: str) -> bool:
    """Return whether a type is the one that is asked for, or begins as ``order.*`` says."""
    if pattern.endswith("*"):
        return type_.startswith(pattern[:-1])
    return type_ == pattern


def _with_user(event: Mapping[str, Any]) -> Mapping[str, Any]:
    user = field_of(event, USER_ID)
    return event if user is ABSENT else {**event, USER_ID: user}


def _object_matches(fields: Fields, value: object, looks: Looks) -> bool:
    """Return whether an object has all that is asked for; any other value is as one without any.

    As deep as the filter is, however deep the event.
    """
    looks.spend(3)
    return all(_part_matches(name, part, value, looks) for name, part in fields.parts)


def _part_matches(name: str, part: Leaf | Fields | Choice, value: object, looks: Looks) -> bool:
    looks.spend(3)
    if isinstance(part, Choice):
        return any(_object_matches(pattern, value, looks) for pattern in part.patterns)
    inner = _field(value, name)
    if isinstance(part, Leaf):
        return _leaf_matches(part, inner, looks)
    return any(_object_matches(part, each, looks) for each in _objects(inner, looks))


def _leaf_matches(leaf: Leaf, value: object, looks: Looks) -> bool:
    if value is ABSENT:
        return leaf.if_absent
    if leaf.if_there:
        return True
    rules, spent = leaf.rules, 1 + len(leaf.rules)
    for each in _elements(value, looks):
        looks.spend(spent)
        if isinstance(each, dict):
            continue
        for rule in rules:
            if rule.takes(each, looks):
                return True
    return False


def _field(value: object, name: str) -> object:
    return cast(dict[str, object], value).get(name, ABSENT) if isinstance(value, dict) else ABSENT


def _objects(value: object, looks: Looks) -> list[object]:
    """Return what a pattern for an object has to look at: of an empty list, that nothing is in."""
    return _elements(value, looks) or [ABSENT]


def _elements(value: object, looks: Looks) -> list[object]:
    """Return the elements of a list, those of lists in it in their places, or the value itself."""
    if not isinstance(value, list):
        return [value]
    found = cast(list[object], value)
    looks.spend(4 + len(found) // 4)
    if not any(isinstance(each, list) for each in found):
        return found
    return _flat(found, looks)


def _flat(given: list[object], looks: Looks) -> list[object]:
    flat: list[object] = []
    left = [iter(given)]
    while left:
        each = next(left[-1], ABSENT)
        looks.spend(1)
        if each is ABSENT:
            left.pop()
        elif isinstance(each, list):
            left.append(iter(cast(list[object], each)))
        else:
            flat.append(each)
    return flat


def _lines(fields: Fields, value: object, path: str, looks: Looks) -> Iterator[str]:
    for name, part in fields.parts:
        inside = joined(path, name)
        if isinstance(part, Choice):
            yield from _lines_of_choice(part, value, path, looks)
        elif isinstance(part, Leaf):
            inner = _field(value, name)
            verdict = "matches" if _leaf_matches(part, inner, looks) else "does not match"
            yield f"{inside} is {_shown(inner)}: {verdict} {part.text}"
        else:
            inner = _field(value, name)
            index, each = _told_of(part, inner, looks)
            within = f"{inside}.{index}" if isinstance(inner, list) else inside
            yield from _lines(part, each, within, looks)


def _lines_of_choice(choice: Choice, value: object, path: str, looks: Looks) -> Iterator[str]:
    count, name = len(choice.patterns), joined(path, OR)
    for number, pattern in enumerate(choice.patterns, 1):
        if _object_matches(pattern, value, looks):
            yield f"{name}: matches pattern {number} of {count}"
            yield from _lines(pattern, value, path, looks)
            return
    yield f"{name}: does not match any of {count} patterns"
    for pattern in choice.patterns:
        yield from _lines(pattern, value, path, looks)


def _told_of(fields: Fields, value: object, looks: Looks) -> tuple[int, object]:
    """Return the element that matches, or else the first, and its number."""
    found = _objects(value, looks)
    matching = (pair for pair in enumerate(found) if _object_matches(fields, pair[1], looks))
    return next(matching, (0, found[0]))


def _shown(value: object) -> str:
    """Return the beginning of a value, for people."""
    if value is ABSENT:
        return "absent"
    if not isinstance(value, list):
        return _shown_alone(value)
    found = cast(list[object], value)
    shown = [_shown_alone(each) for each in found[:_ELEMENTS_SHOWN_MAX]]
    more = ["…"] if len(found) > _ELEMENTS_SHOWN_MAX else []
    return cut(f"[{', '.join(shown + more)}]")


def _shown_alone(value: object) -> str:
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, list):
        return "[…]" if value else "[]"
    return quoted(value)
