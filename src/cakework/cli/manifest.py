"""``cakework.toml``: what a folder says of its function.

Its keys are those of ``HEAD`` and the function's settings, named as the API has them, and its
triggers. A key that there is none of is refused with its line and the one that was meant; so is a
value that cannot be.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.manifest_faults import Fault, Place, check_known, fault_of, line_of, names_of
from cakework.cli.manifest_triggers import KEY as TRIGGERS
from cakework.cli.manifest_triggers import DeclaredTrigger, read_triggers
from cakework.domain.functions import (
    NAME_PATTERN,
    NEWEST,
    USER_ID_PATTERN,
    FunctionKind,
    FunctionSettings,
    Runtime,
)

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
    triggers: tuple[DeclaredTrigger, ...] = ()


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
        line = _nearest_line(text, fault.place)
        where = f"{path}, line {line}" if line else f"{path}"
        raise _refusal(f"{where}: {fault}.") from fault


def _manifest(given: dict[str, Any]) -> Manifest:
    check_known(given, (*HEAD, *names_of(FunctionSettings), TRIGGERS), ())
    for name, model in _inner():
        if isinstance(given.get(name), dict):
            check_known(given[name], names_of(model), (name,))
    for name in NEEDED:
        if name not in given:
            raise Fault((name,), "is missing")
    for name, (pattern, said) in HEAD.items():
        value = given.get(name)
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            raise Fault((name,), said)
    settings = {name: each for name, each in given.items() if name not in (*HEAD, TRIGGERS)}
    try:
        checked = FunctionSettings.model_validate(settings)
    except ValidationError as error:
        raise fault_of(error, otherwise=tuple(settings)[:1]) from error
    return Manifest(
        name=given["name"],
        runtime=given["runtime"],
        settings=checked.model_dump(mode="json", by_alias=True, exclude_unset=True),
        entry=given.get("entry"),
        kind=given.get("kind"),
        user_id=given.get("userId"),
        signature=given.get("signature"),
        triggers=read_triggers(given.get(TRIGGERS, [])),
    )


def _inner() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the settings that are tables of their own, with what is in them."""
    for name, field in FunctionSettings.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield field.alias or name, kind


def _nearest_line(text: str, place: Place) -> int | None:
    """Return the line of a value, or of the table of several that should have it."""
    line = line_of(text, place)
    numbers = [index for index, part in enumerate(place) if isinstance(part, int)]
    return line_of(text, place[: numbers[0] + 1]) if line is None and numbers else line


def _refusal(detail: str) -> CommandFailed:
    detail = f"{detail.removesuffix('?.')}?" if detail.endswith("?.") else detail
    return CommandFailed(detail, ExitCode.USAGE, code="invalid_manifest")
