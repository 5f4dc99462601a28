"""The grammar of filters: JSON of strangers, bounded, becomes what events are compared with."""

import json
from dataclasses import dataclass
from typing import cast

from cakework.domain.pattern_operators import rule_of
from cakework.domain.pattern_rules import BadPattern, Exists, OneOf, Rule, cut, quoted

PATTERN_BYTES_MAX = 4096
LEAVES_MAX = 64
DEPTH_MAX = 8
OR = "$or"
_NESTING_MAX = 2 * DEPTH_MAX + 8
"""Lists and objects in one another: two for each ``$or``, and those of a rule."""
_RULES_SHOWN_MAX = 256


@dataclass(frozen=True, slots=True)
class Leaf:
    """The rules of one field, of which one has to take its value.

    ``if_there`` and ``if_absent``: that is enough. ``text`` says all of it to people.
    """

    rules: tuple[Rule, ...]
    if_there: bool
    if_absent: bool
    text: str


@dataclass(frozen=True, slots=True)
class Fields:
    """Fields by their names, and choices; all of them have to match."""

    parts: tuple[tuple[str, "Leaf | Fields | Choice"], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Patterns for one object, of which one has to match."""

    patterns: tuple[Fields, ...]


def tree_of(given: object) -> Fields:
    """Return what a filter asks for; ``{}`` takes everything.

    Raises:
        BadPattern: it is none, or is over 4 KiB as JSON, 64 rules, or fields 8 deep.
    """
    _check_size(given)
    return _Compiler().fields(given, "", 1)


def joined(path: str, name: str) -> str:
    """Return a path one name longer, in one line whatever the name is."""
    written = json.dumps(name, ensure_ascii=False)[1:-1]
    return f"{path}.{written}" if path else written


class _Compiler:
    """Makes one filter; counts its rules."""

    def __init__(self) -> None:
        self._leaves = 0

    def fields(self, given: object, path: str, depth: int) -> Fields:
        if not isinstance(given, dict):
            raise BadPattern('must be an object of fields, such as {"type": ["order.paid"]}', path)
        found = cast(dict[str, object], given)
        if not found and depth > 1:
            raise BadPattern("must have a field", path)
        if found and depth > DEPTH_MAX:
            raise BadPattern(f"is deeper than {DEPTH_MAX} fields in one another", path)
        parts = ((name, self._part(name, each, path, depth)) for name, each in found.items())
        return Fields(tuple(parts))

    def _part(self, name: str, given: object, path: str, depth: int) -> Leaf | Fields | Choice:
        inside = joined(path, name)
        if name == OR:
            return self._choice(given, inside, depth)
        if name.startswith("$"):
            raise BadPattern(f"is unknown: of names that begin with $ there is {OR}", inside)
        if depth == 1 and "." in name:
            outer, inner = name.split(".", 1)
            example = json.dumps({outer: {inner: ["…"]}}, ensure_ascii=False)
            raise BadPattern(f"must be written as fields in one another: {example}", inside)
        if isinstance(given, dict):
            return self.fields(cast(object, given), inside, depth + 1)
        if isinstance(given, list):
            return self._leaf(cast(list[object], given), inside)
        raise BadPattern(f"must be a list of what is asked for, such as [{quoted(given)}]", inside)

    def _choice(self, given: object, path: str, depth: int) -> Choice:
        if not isinstance(given, list) or not given:
            raise BadPattern('must be a list of patterns, such as [{"type": ["order.paid"]}]', path)
        patterns = enumerate(cast(list[object], given))
        return Choice(
            tuple(self.fields(each, f"{path}.{index}", depth + 1) for index, each in patterns)
        )

    def _leaf(self, given: list[object], path: str) -> Leaf:
        if not given:
            raise BadPattern("must not be empty", path)
        self._leaves += len(given)
        if self._leaves > LEAVES_MAX:
            raise BadPattern(f"is one rule too many: {LEAVES_MAX} are allowed in all", path)
        rules = [rule_of(each, f"{path}.{index}") for index, each in enumerate(given)]
        text = cut(" or ".join(rule.text for rule in rules), _RULES_SHOWN_MAX)
        asked = [rule.wanted for rule in rules if isinstance(rule, Exists)]
        return Leaf(_merged(rules), True in asked, False in asked, text)


def _merged(rules: list[Rule]) -> tuple[Rule, ...]:
    """Return the rules that look at values, with all that name one as the first."""
    named = [rule for rule in rules if isinstance(rule, OneOf)]
    others = [rule for rule in rules if not isinstance(rule, (OneOf, Exists))]
    if not named:
        return tuple(others)
    values = frozenset[object]().union(*(rule.values for rule in named))
    bools = frozenset[bool]().union(*(rule.bools for rule in named))
    return (OneOf(values, bools, ""), *others)


def _check_size(given: object) -> None:
    """Check what is given before anything else is made of it; it may be large, and deep."""
    size = 0
    left: list[tuple[object, int]] = [(given, 1)]
    while left:
        value, nesting = left.pop()
        size += _size_of(value)
        if size > PATTERN_BYTES_MAX:
            raise _too_large()
        if nesting > _NESTING_MAX:
            raise BadPattern(f"is deeper than {DEPTH_MAX} fields in one another")
        left.extend((each, nesting + 1) for each in _inside(value))
    try:
        written = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise BadPattern("has text that is no Unicode") from error
    if len(written) > PATTERN_BYTES_MAX:
        raise _too_large()


def _size_of(value: object) -> int:
    """Return at most as many bytes as a value has in JSON, without what is in its elements."""
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, int):
        return 1 + value.bit_length() // 4
    if isinstance(value, dict):
        names = cast(dict[object, object], value)
        if len(names) <= PATTERN_BYTES_MAX and not all(isinstance(name, str) for name in names):
            raise BadPattern("must be JSON")
        return len(names) if len(names) > PATTERN_BYTES_MAX else sum(map(len, map(str, names)))
    if isinstance(value, list):
        return len(cast(list[object], value))
    if value is None or isinstance(value, float):
        return 1
    raise BadPattern("must be JSON")


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast(dict[str, object], value).values())
    return cast(list[object], value) if isinstance(value, list) else []


def _too_large() -> BadPattern:
    return BadPattern(f"is larger than {PATTERN_BYTES_MAX} bytes")
