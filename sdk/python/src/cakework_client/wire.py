"""Between the API's JSON, in camelCase, and Python's names and types.

Reading is tolerant, so that an older client works with a newer server: what it does not know is
passed over, and a word that is new in an enumeration is handed on as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, TypeVar, cast, get_args, get_origin, get_type_hints

A = TypeVar("A", bound="Answer")
SPECIAL = {"from_": "from", "volume_gb": "volumeGB"}


class Unset(Enum):
    """Type of :data:`UNSET`."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET
"""Says that a field stays as it is, where None would change it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What every answer of the API is.

    ``CHOICES`` has fields that may be of one of several kinds: the field that says which, and these
    by its words. Of a word that is not among them, the field is handed on as it is.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, Mapping[str, type["Answer"]]]]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as the API writes it: camelCase, without what is absent."""
        return {
            wire_name(field.name): _written(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }


def wire_name(name: str) -> str:
    """Return a Python name as the API spells it: ``image_id`` is ``imageId``."""
    if name in SPECIAL:
        return SPECIAL[name]
    return re.sub(r"_([a-z])", lambda found: found.group(1).upper(), name)


def given(**values: object) -> dict[str, Any]:
    """Return what is not None, under the API's names."""
    return {wire_name(k): _written(v) for k, v in values.items() if v is not None}


def changed(**values: object) -> dict[str, Any]:
    """Return what is not UNSET, under the API's names; None is sent as null."""
    return {wire_name(k): _written(v) for k, v in values.items() if v is not UNSET}


def read(kind: type[A], value: object) -> A:
    """Return the API's JSON object as an answer of this kind.

    Raises:
        ValueError: It is not one.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    given = cast("dict[str, object]", value)
    found: dict[str, object] = {}
    for name, wire, type_, required in _fields(kind):
        if given.get(wire) is not None:
            found[name] = _read(_chosen(kind, name, given, type_), given[wire])
        elif required:
            raise ValueError(f"{wire} is missing")
    return kind(**found)


def narrowed(kind: type[A], answer: Answer) -> A:
    """Return an answer as one of a kind that promises more of the same fields."""
    return kind(**{field.name: getattr(answer, field.name) for field in fields(answer)})


@cache
def _fields(kind: type[Answer]) -> list[tuple[str, str, Any, bool]]:
    hints = get_type_hints(kind)
    return [
        (field.name, wire_name(field.name), _bare(hints[field.name]), field.default is MISSING)
        for field in fields(kind)
    ]


def _chosen(kind: type[Answer], name: str, given: Mapping[str, object], type_: Any) -> Any:
    """Return the type of a field, of which there may be several."""
    if name not in kind.CHOICES:
        return type_
    word, kinds = kind.CHOICES[name]
    return kinds.get(str(given.get(wire_name(word))), Any)


def _bare(type_: Any) -> Any:
    """Return a type without its None."""
    if get_origin(type_) is not UnionType:
        return type_
    return next(each for each in get_args(type_) if each is not NoneType)


def _read(type_: Any, value: object) -> object:
    if get_origin(type_) is list and isinstance(value, list):
        return [_read(get_args(type_)[0], each) for each in cast("list[object]", value)]
    if type_ is datetime and isinstance(value, str):
        return datetime.fromisoformat(value)
    if isinstance(type_, type) and issubclass(type_, Answer):
        return read(type_, value)
    return value


def _written(value: object) -> object:
    if isinstance(value, datetime):
        return written_time(value)
    if isinstance(value, Answer):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _written(each) for name, each in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_written(each) for each in cast("list[object]", value)]
    return value


def written_time(moment: datetime) -> str:
    """Return a moment in RFC 3339, in UTC, with milliseconds; without a zone it is local time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
