"""``cakework.toml``: what a folder says of its function.

Its keys are those of ``HEAD`` and the function's settings, named as the API has them. A key that
there is none of is refused with its line and the one that was meant; so is a value that cannot be.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.domain.functions import (
    NAME_PATTERN,
    NEWEST,
    USER_ID_PATTERN,
    FunctionKind,
    FunctionSettings,
    Runtime,
)
from cakework.nearest import nearest

FILE = "cakework.toml"
_RUNTIMES = (*NEWEST, *(runtime.value for runtime in Runtime if runtime is not Runtime.IMAGE))
_NAME = "should be of lower-case letters, digits and -, at most 63"
HEAD = {
    "name": (re.compile(NAME_PATTERN), _NAME),
    "runtime": (
        re.compile("|".join(map(re.escape, _RUNTIMES))),
        f"should be {', '.join(_RUNTIMES)}",
    ),
    "entry": (re.compile(".{1,1024}"), "should be the path of a file"),
    "kind": (re.compile("|".join(FunctionKind)), f"should be {' or '.join(FunctionKind)}"),
    "userId": (
        re.compile(USER_ID_PATTERN),
        "should be of letters, digits and . _ : @ -, at most 128",
    ),
    "signature": (re.compile("rest"), "should be rest"),
}
"""Keys that are no settings: what their value is like, and how that is said."""
NEEDED = ("name", "runtime")
Place = tuple[str, ...]


class Fault(Exception):
    """Something in the file is wrong: where, and what."""

    def __init__(self, place: Place, said: str) -> None:
        super().__init__(said)
        self.place = place
        self.said = said


@dataclass(frozen=True)
class Manifest:
    """What a file says. ``settings`` are those that it names, as the API takes them."""

    name: str
    runtime: str
    settings: dict[str, Any]
    entry: str | None = None
    kind: str | None = None
    user_id: str | None = None
    signature: str | None = None


def has_manifest(folder: Path) -> bool:
    """Say whether a folder has one."""
    return (folder / FILE).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Return what the ``cakework.toml`` of a folder says.

    Raises:
        CommandFailed: It cannot be read, or something in it is wrong.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise _refusal(f"Cannot read {path}: {error}") from error
    try:
        return _manifest(given)
    except Fault as fault:
        line = line_of(text, fault.place)
        where = f"{path}, line {line}" if line else f"{path}"
        raise _refusal(f"{where}: {'.'.join(fault.place)} {fault.said}.") from fault


def _manifest(given: dict[str, Any]) -> Manifest:
    _check_known(given, (*HEAD, *_names(FunctionSettings)), ())
    for name, model in _inner():
        if isinstance(given.get(name), dict):
            _check_known(given[name], _names(model), (name,))
    for name in NEEDED:
        if name not in given:
            raise Fault((name,), "is missing")
    for name, (pattern, said) in HEAD.items():
        value = given.get(name)
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            raise Fault((name,), said)
    settings = {name: value for name, value in given.items() if name not in HEAD}
    try:
        checked = FunctionSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(part for part in first["loc"] if isinstance(part, str))
        raise Fault(place or tuple(settings)[:1], _said(first["msg"])) from error
    return Manifest(
        name=given["name"],
        runtime=given["runtime"],
        settings=checked.model_dump(mode="json", by_alias=True, exclude_unset=True),
        entry=given.get("entry"),
        kind=given.get("kind"),
        user_id=given.get("userId"),
        signature=given.get("signature"),
    )


def _check_known(given: dict[str, Any], known: Sequence[str], inside: Place) -> None:
    for name in given:
        if name not in known:
            meant = nearest(name, known)
            raise Fault((*inside, name), f"is unknown{f'; did you mean {meant}?' if meant else ''}")


def _names(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _inner() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the settings that are tables of their own, with what is in them."""
    for name, field in FunctionSettings.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield field.alias or name, kind


def _said(message: str) -> str:
    said = message.removeprefix("Value error, ").removeprefix("Input ")
    return f"{said[:1].lower()}{said[1:]}"


def line_of(text: str, place: Iterable[str]) -> int | None:
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
    for name in place:
        if not isinstance(found, dict) or name not in found:
            return False
        found = cast("dict[str, object]", found)[name]
    return True


def _refusal(detail: str) -> CommandFailed:
    detail = f"{detail.removesuffix('?.')}?" if detail.endswith("?.") else detail
    return CommandFailed(detail, ExitCode.USAGE, code="invalid_manifest")
