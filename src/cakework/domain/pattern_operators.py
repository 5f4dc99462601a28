"""Operators of filters: the rules that elements of a field's list are, see
:mod:`cakework.domain.pattern_rules`. What is given is small already.
"""

import ipaddress
import math
import operator
from collections.abc import Callable
from typing import cast

from cakework.domain.pattern_rules import (
    ADDRESS_CHARS_MAX,
    NUMBER_BITS_MAX,
    AnyWildcard,
    BadPattern,
    Cidr,
    EqualsIgnoreCase,
    Exists,
    Not,
    Numeric,
    OneOf,
    Prefix,
    Rule,
    Scalar,
    Suffix,
    Wildcard,
    quoted,
)
from cakework.nearest import nearest


def rule_of(given: object, path: str) -> Rule:
    """Return the rule that an element of a field's list is.

    Raises:
        BadPattern: it is none.
    """
    if given is None or isinstance(given, (str, int, float)):
        return OneOf.of([_scalar(given, path)], quoted(given))
    if not isinstance(given, dict):
        raise BadPattern("must be a value or an operator, not a list", path)
    found = cast(dict[str, object], given)
    if len(found) != 1:
        raise BadPattern('must have one operator, such as {"prefix": "order."}', path)
    ((word, operand),) = found.items()
    return _operator(_OPERATORS, word, path)(operand, f"{path}.{word}")


_Made = Callable[[object, str], Rule]


def _operator(known: dict[str, _Made], word: str, path: str) -> _Made:
    if made := known.get(word):
        return made
    meant = nearest(word, known)
    said = f"; did you mean {meant}?" if meant else f": there are {', '.join(known)}"
    raise BadPattern(f"is no operator{said}", f"{path}.{word}")


def _scalar(given: object, path: str) -> Scalar:
    if given is None or isinstance(given, (str, bool)):
        return given
    if isinstance(given, (int, float)):
        return _number(given, path)
    raise BadPattern("must be text, a number, true, false or null", path)


def _number(given: object, path: str) -> int | float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise BadPattern("must be a number", path)
    if isinstance(given, float) and not math.isfinite(given):
        raise BadPattern("must be a number that there is", path)
    if isinstance(given, int) and given.bit_length() > NUMBER_BITS_MAX:
        raise BadPattern("must be a number of at most 300 digits", path)
    return given


def _text(given: object, path: str) -> str:
    if not isinstance(given, str) or not given:
        raise BadPattern("must be text that is not empty", path)
    return given


def _texts(given: object, path: str) -> tuple[str, ...]:
    """Return one text, or those of a list."""
    if not isinstance(given, list):
        return (_text(given, path),)
    if not given:
        raise BadPattern("must not be empty", path)
    texts = enumerate(cast(list[object], given))
    return tuple(_text(each, f"{path}.{index}") for index, each in texts)


def _said(word: str, given: object) -> str:
    values = cast(list[object], given) if isinstance(given, list) else [given]
    return f"{word} {' or '.join(map(quoted, values))}"


def _prefix(given: object, path: str) -> Rule:
    return Prefix(_texts(given, path), _said("prefix", given))


def _suffix(given: object, path: str) -> Rule:
    return Suffix(_texts(given, path), _said("suffix", given))


def _equals_ignore_case(given: object, path: str) -> Rule:
    texts = frozenset(text.casefold() for text in _texts(given, path))
    return EqualsIgnoreCase(texts, max(map(len, texts)), _said("equalsIgnoreCase", given))


def _wildcard(given: object, path: str) -> Rule:
    rules = tuple(Wildcard.of(text, path) for text in _texts(given, path))
    return rules[0] if len(rules) == 1 else AnyWildcard(rules, _said("wildcard", given))


def _anything_but(given: object, path: str) -> Rule:
    if isinstance(given, dict):
        found = cast(dict[str, object], given)
        if len(found) != 1:
            raise BadPattern('must have one operator, such as {"prefix": "order."}', path)
        ((word, operand),) = found.items()
        rule = _operator(_INSIDE_ANYTHING_BUT, word, path)(operand, f"{path}.{word}")
        return Not(rule, f"anythingBut {rule.text}")
    if given == []:
        raise BadPattern("must not be empty", path)
    if isinstance(given, list):
        found = enumerate(cast(list[object], given))
        values = [_scalar(each, f"{path}.{index}") for index, each in found]
    else:
        values = [_scalar(given, path)]
    said = _said("anythingBut", cast(object, given))
    return Not(OneOf.of(values, said), said)


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def _numeric(given: object, path: str) -> Rule:
    found = cast(list[object], given) if isinstance(given, list) else []
    if len(found) not in (2, 4):
        raise BadPattern('must be such as [">", 0] or [">", 0, "<=", 5]', path)
    bounds: list[tuple[str, float]] = []
    for index in range(0, len(found), 2):
        sign = found[index]
        if not isinstance(sign, str) or sign not in _COMPARE:
            raise BadPattern("must be one of < <= = >= >", f"{path}.{index}")
        bounds.append((sign, _number(found[index + 1], f"{path}.{index + 1}")))
    if len(bounds) == 2:
        _check_range(dict(bounds), path)
    said = " and ".join(f"{sign} {quoted(number)}" for sign, number in bounds)
    return Numeric(tuple((_COMPARE[sign], number) for sign, number in bounds), f"numeric {said}")


def _check_range(bounds: dict[str, float], path: str) -> None:
    low, high = bounds.get(">", bounds.get(">=")), bounds.get("<", bounds.get("<="))
    if low is None or high is None:
        raise BadPattern("must have one bound below and one above", path)
    if low > high or (low == high and not bounds.keys() <= {">=", "<="}):
        raise BadPattern("has no number within its bounds", path)


def _cidr(given: object, path: str) -> Rule:
    text = _text(given, path)
    try:
        if len(text) > ADDRESS_CHARS_MAX:
            raise ValueError("too long")
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise BadPattern("must be a network, such as 10.0.0.0/8 or 2001:db8::/32", path) from error
    return Cidr(network, f"cidr {network}")


def _exists(given: object, path: str) -> Rule:
    if not isinstance(given, bool):
        raise BadPattern("must be true or false", path)
    return Exists(given)


_INSIDE_ANYTHING_BUT: dict[str, _Made] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "wildcard": _wildcard,
    "equalsIgnoreCase": _equals_ignore_case,
}
_OPERATORS: dict[str, _Made] = _INSIDE_ANYTHING_BUT | {
    "anythingBut": _anything_but,
    "numeric": _numeric,
    "exists": _exists,
    "cidr": _cidr,
}
