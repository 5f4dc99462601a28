"""What is wrong in a ``cakework.toml``: where, and how that is told with its line."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from cakework.nearest import nearest

Place = tuple[str | int, ...]
"""Keys from the top, and of what is several the number from 0."""


class Fault(Exception):
    """Something in the file is wrong: where, and what."""

    def __init__(self, place: Place, said: str) -> None:
        super().__init__(said)
        self.place = place
        self.said = said

    def __str__(self) -> str:
        """Name the key and say what is wrong with it; the line says of which table it is."""
        return f"{'.'.join(part for part in self.place if isinstance(part, str))} {self.said}"


def check_known(given: Mapping[str, Any], known: Sequence[str], inside: Place) -> None:
    """Raise a Fault for a name that is none of ``known``, with the one that was meant."""
    for name in given:
        if name not in known:
            meant = nearest(name, known)
            raise Fault((*inside, name), f"is unknown{f'; did you mean {meant}?' if meant else ''}")


def names_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys of a table, as the API names them."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def fault_of(error: ValidationError, inside: Place = (), otherwise: Place = ()) -> Fault:
    """Return the first of what is wrong with a table; at ``otherwise`` if it has no place."""
    first = error.errors()[0]
    place = tuple(part for part in first["loc"] if isinstance(part, str))
    return Fault((*inside, *place) if place else (inside or otherwise), _said(first["msg"]))


def _said(message: str) -> str:
    said = message
    for start in ("Value error, ", "Input ", "Tuple "):
        said = said.removeprefix(start)
    return f"{said[:1].lower()}{said[1:]}"


def line_of(text: str, place: Iterable[str | int]) -> int | None:
    """Return the line, from 1, on which the value at ``place`` begins; None if it has none.

    That is the line behind the longest beginning of the text that can be read and has no such
    value.
    """
    wanted = tuple(place)
    lines = text.splitlines(keepends=True)
    without = 0
    for count in range(len(lines) + 1):
        try:
            found = tomllib.loads("".join(lines[:count]))
        except ValueError:
            continue
        if _has(found, wanted):
            return without + 1
        without = count
    return None


def _has(found: object, place: Place) -> bool:
    for part in place:
        if isinstance(part, int):
            if not isinstance(found, list) or part >= len(cast("list[object]", found)):
                return False
            found = cast("list[object]", found)[part]
        elif isinstance(found, dict) and part in found:
            found = cast("dict[str, object]", found)[part]
        else:
            return False
    return True
