"""Rules of filters: what one value of an event is compared with.

    "DE"  120  true  null                       this very value; 1 is 1.0 and not true
    {"prefix": "a"}  {"suffix": "z"}            text that begins or ends so
    {"wildcard": "a*z"}                         text; ``*`` is anything, ``\\*`` a star
    {"equalsIgnoreCase": "de"}                  text, upper and lower case alike
    {"anythingBut": "DE"}  {"anythingBut": ["DE", 1]}  {"anythingBut": {"prefix": "a"}}
    {"numeric": [">", 0, "<=", 5]}              a number
    {"cidr": "10.0.0.0/8"}                      text that is an address in this network
    {"exists": false}                           whether the field is there, whatever is in it

All but ``exists`` look at text, numbers, ``true``, ``false`` and ``null``; at objects none does.
Work is counted in looks, so that neither filters nor events of strangers can make it grow.
"""

import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

STARS_MAX = 8
LOOKS_MAX = 25_000
"""A look takes about 0.2 microseconds."""
TEXT_SHOWN_MAX = 64
NUMBER_BITS_MAX = 1024
ADDRESS_CHARS_MAX = 64
_CIDR_LOOKS = 20
_CIDR6_LOOKS = 80
_CHARS_A_FOLD = 8
"""Of ASCII; of others one takes a look."""
_CHARS_A_LOOK = 128
_PAIRS_A_LOOK = 512
_TEXTS_A_LOOK = 24
_PLAIN_FIND_MAX = 1 << 16
"""Characters of a text times those that are sought in it, up to which these are sought as they are.
Beyond, the text is made so long that Python seeks in a time that grows with its length alone."""
_LONG = "\0" * 32_768

Scalar = str | int | float | bool | None


class BadPattern(ValueError):
    """No such filter can be. ``str()`` of it is what follows the name of the wrong part in a
    sentence for people; ``path`` leads to the part, such as ``data.total.0.numeric``."""

    def __init__(self, said: str, path: str = "") -> None:
        super().__init__(said)
        self.path = path


class TooMuch(Exception):
    """A comparison takes more looks than there are."""


class Looks:
    """How many looks are left for one comparison of a filter with an event."""

    __slots__ = ("_left",)

    def __init__(self, most: int = LOOKS_MAX) -> None:
        self._left = most

    def spend(self, looks: int) -> None:
        """Take some. Raises TooMuch when there are not so many."""
        self._left -= looks
        if self._left < 0:
            raise TooMuch


class Rule(Protocol):
    """What a value is compared with; ``text`` says it to people."""

    @property
    def text(self) -> str:
        """What it asks for, for people."""
        ...

    def takes(self, value: object, looks: Looks) -> bool:
        """Return whether a text, number, bool or None is what is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these very values."""

    values: frozenset[object]
    bools: frozenset[bool]
    text: str

    @classmethod
    def of(cls, values: list[Scalar], text: str) -> "OneOf":
        """Return the rule for these values. Python's ``True`` is its 1, so they are kept apart."""
        bools = frozenset(each for each in values if isinstance(each, bool))
        others = frozenset(each for each in values if not isinstance(each, bool))
        return cls(others, bools, text)

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        return value in (self.bools if isinstance(value, bool) else self.values)


@dataclass(frozen=True, slots=True)
class Prefix:
    """Text that begins with one of these."""

    texts: tuple[str, ...]
    text: str

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        looks.spend(len(self.texts) // _TEXTS_A_LOOK)
        return isinstance(value, str) and value.startswith(self.texts)


@dataclass(frozen=True, slots=True)
class Suffix:
    """Text that ends with one of these."""

    texts: tuple[str, ...]
    text: str

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        looks.spend(len(self.texts) // _TEXTS_A_LOOK)
        return isinstance(value, str) and value.endswith(self.texts)


@dataclass(frozen=True, slots=True)
class EqualsIgnoreCase:
    """One of these texts, upper and lower case alike."""

    texts: frozenset[str]
    longest: int
    text: str

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        # Folding makes no text shorter.
        if not isinstance(value, str) or len(value) > self.longest:
            return False
        looks.spend(2 + len(value) // (_CHARS_A_FOLD if value.isascii() else 1))
        return value.casefold() in self.texts


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Text in which the parts follow each other, with anything between them.

    Each part is taken where it comes first: if the others do not fit behind it there, they fit
    behind no later one.
    """

    first: str
    middle: tuple[str, ...]
    last: str
    at_least: int
    text: str

    @classmethod
    def of(cls, given: str, path: str) -> "Rule":
        """Return the rule of a text with stars. Raises BadPattern."""
        parts = _between_stars(given, path)
        if len(parts) - 1 > STARS_MAX:
            raise BadPattern(f"has {len(parts) - 1} stars, and {STARS_MAX} are allowed", path)
        text = f"wildcard {quoted(given)}"
        if len(parts) == 1:
            return OneOf.of([parts[0]], text)
        first, *middle, last = parts
        return cls(first, tuple(filter(None, middle)), last, sum(map(len, parts)), text)

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        if not isinstance(value, str) or len(value) < self.at_least:
            return False
        if not (value.startswith(self.first) and value.endswith(self.last)):
            return False
        at, end = len(self.first), len(value) - len(self.last)
        for part in self.middle:
            at = _found(value, part, at, looks)
            if at < 0 or at + len(part) > end:
                return False
            at += len(part)
        return True


@dataclass(frozen=True, slots=True)
class AnyWildcard:
    """Text that one of these takes."""

    rules: tuple[Rule, ...]
    text: str

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        looks.spend(2 * len(self.rules))
        return any(rule.takes(value, looks) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Not:
    """Any value that another rule does not take."""

    rule: Rule
    text: str

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        return not self.rule.takes(value, looks)


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number within bounds."""

    bounds: tuple[tuple[Callable[[float, float], bool], float], ...]
    text: str

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        looks.spend(len(self.bounds))
        return all(compare(value, bound) for compare, bound in self.bounds)


@dataclass(frozen=True, slots=True)
class Cidr:
    """Text that is an address in a network; one of IPv4 may be written as one of IPv6."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    text: str

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        if not isinstance(value, str) or len(value) > ADDRESS_CHARS_MAX:
            return False
        looks.spend(_CIDR6_LOOKS if ":" in value else _CIDR_LOOKS)
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and self.network.version == 4:
            address = address.ipv4_mapped or address
        return address.version == self.network.version and address in self.network


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether a field is there. It is not asked of values: see :mod:`cakework.domain.patterns`."""

    wanted: bool

    @property
    def text(self) -> str:
        """See :class:`Rule`."""
        return "exists" if self.wanted else "exists false"

    def takes(self, value: object, looks: Looks) -> bool:
        """See :class:`Rule`."""
        return self.wanted


def quoted(value: object) -> str:
    """Return a value of JSON for people, of at most 64 characters."""
    if isinstance(value, str):
        return cut(json.dumps(value[: TEXT_SHOWN_MAX + 1], ensure_ascii=False))
    if isinstance(value, int) and value.bit_length() > NUMBER_BITS_MAX:
        return "a large number"
    return cut(json.dumps(value))


def cut(text: str, most: int = TEXT_SHOWN_MAX) -> str:
    """Return the beginning of a text that is too long, with a sign that there is more."""
    whole = text.encode("utf-8", "replace").decode()
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def _between_stars(given: str, path: str) -> list[str]:
    """Return what is before, between and after runs of stars, with ``\\*`` and ``\\\\`` undone."""
    parts = [""]
    after_star = False
    signs = iter(given)
    for sign in signs:
        if sign == "*":
            if not after_star:
                parts.append("")
            after_star = True
            continue
        if sign == "\\" and (sign := next(signs, "")) not in ("*", "\\"):
            raise BadPattern("has a \\ that is followed by neither * nor \\", path)
        parts[-1] += sign
        after_star = False
    return parts


def _found(text: str, part: str, at: int, looks: Looks) -> int:
    """Return where ``part`` is in ``text``, from ``at`` on; -1 if nowhere."""
    chars = len(text) - at
    if (pairs := chars * len(part)) <= _PLAIN_FIND_MAX:
        looks.spend(2 + pairs // _PAIRS_A_LOOK)
        return text.find(part, at)
    looks.spend((chars + len(_LONG)) // _CHARS_A_LOOK)
    return (text + _LONG).find(part, at)
