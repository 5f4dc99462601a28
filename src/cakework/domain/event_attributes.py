"""Attributes of CloudEvents: their names, and what their values may be.

Those of the specification are text, each with a bound of its own; extensions are short text, a
number, ``true`` or ``false``.
"""

import json
import math
import re
from collections.abc import Callable

from cakework.domain.functions import USER_ID_PATTERN
from cakework.domain.ids import INVOCATION_ID_PATTERN
from cakework.domain.times import parse_time
from cakework.nearest import nearest

TYPE_CHARS_MAX = 256
ID_CHARS_MAX = 256
SOURCE_CHARS_MAX = 1_024
SUBJECT_CHARS_MAX = 1_024
CONTENT_TYPE_CHARS_MAX = 256
EXTENSION_CHARS_MAX = 4_096
NAME_CHARS_MAX = 64
"""CloudEvents advises 20."""
SPEC_VERSION = "1.0"
ORDER = (
    *("specversion", "id", "source", "type", "subject", "time", "datacontenttype"),
    "dataschema",
)
"""Attributes of the specification, in its order."""
DATA = ("data", "data_base64")
OURS = "cakework"
USER_ID = "cakeworkuserid"
CAUSE = "cakeworkcause"
"""The extensions of ours that emitters may set: whose it is, and the invocation it comes from."""
_NAME = re.compile(rf"[a-z0-9]{{1,{NAME_CHARS_MAX}}}")
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TIME = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_TIME_CHARS_MAX = 40
_INTEGER_MAX = 1 << 53


class BadEvent(ValueError):
    """No such event is taken. ``str()`` of it is what follows the name of the wrong part in a
    sentence for people; ``path`` leads to the part, such as ``events.3.type``."""

    def __init__(self, said: str, path: str = "") -> None:
        super().__init__(said)
        self.path = path


class EventTooLarge(BadEvent):
    """An event has more bytes than are taken, or all together have."""


def check_attribute(name: str, value: object, path: str) -> None:
    """Check an attribute of the event at ``path``.

    Raises:
        BadEvent: it has no such name, or no such value.
    """
    if not _NAME.fullmatch(name):
        raise _no_name(name, path)
    inside = joined(path, name)
    if name in _CHECKS:
        _CHECKS[name](value, inside)
    elif name.startswith(OURS):
        raise BadEvent(f"begins as the platform's do; there are {USER_ID} and {CAUSE}", inside)
    else:
        _check_extension(value, inside)


def joined(path: str, name: str) -> str:
    """Return a path that is a name longer."""
    return f"{path}.{name}" if path else name


def _no_name(name: str, path: str) -> BadEvent:
    """Say what is wrong with a name, which may be anything, of any length."""
    shown = json.dumps(name[:NAME_CHARS_MAX])[1:-1]
    meant = nearest(name, (*ORDER, *DATA, USER_ID, CAUSE))
    advice = f"; did you mean {meant}?" if meant else ""
    said = f"is no name of an attribute: these are up to {NAME_CHARS_MAX} of a-z and 0-9{advice}"
    return BadEvent(said, joined(path, shown))


def _text(value: object, path: str, most: int) -> str:
    if not isinstance(value, str):
        raise BadEvent("must be text", path)
    if not value:
        raise BadEvent("must not be empty", path)
    if len(value) > most:
        raise BadEvent(f"is longer than {most} characters", path)
    _check_signs(value, path)
    return value


def _check_signs(text: str, path: str) -> None:
    if _NO_TEXT.search(text):
        raise BadEvent("must not have control characters or halves of characters in it", path)


def _check_type(value: object, path: str) -> None:
    if _text(value, path, TYPE_CHARS_MAX).startswith(f"{OURS}."):
        raise BadEvent(f"begins with {OURS}., which is the platform's", path)


def _check_version(value: object, path: str) -> None:
    if value != SPEC_VERSION:
        raise BadEvent(f'must be "{SPEC_VERSION}"', path)


def _check_time(value: object, path: str) -> None:
    text = _text(value, path, _TIME_CHARS_MAX)
    try:
        if not _TIME.fullmatch(text):
            raise ValueError("another spelling")
        parse_time(text.upper())
    except ValueError as error:
        raise BadEvent("must be a time of RFC 3339, such as 2026-12-01T09:00:00Z", path) from error


def _check_user_id(value: object, path: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(USER_ID_PATTERN, value):
        raise BadEvent("must be 1 to 128 of A-Z a-z 0-9 . _ : @ -", path)


def _check_cause(value: object, path: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(INVOCATION_ID_PATTERN, value):
        raise BadEvent("must be the id of an invocation", path)


def _check_extension(value: object, path: str) -> None:
    if isinstance(value, str):
        if len(value) > EXTENSION_CHARS_MAX:
            raise BadEvent(f"is longer than {EXTENSION_CHARS_MAX} characters", path)
        _check_signs(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BadEvent("must be a number that there is", path)
    elif isinstance(value, int):
        if abs(value) > _INTEGER_MAX:
            raise BadEvent(f"must be a number within {_INTEGER_MAX} of 0, or text", path)
    else:
        raise BadEvent("must be text, a number, true or false; the rest goes into data", path)


def _of_text(most: int) -> Callable[[object, str], None]:
    def check(value: object, path: str) -> None:
        _text(value, path, most)

    return check


_CHECKS: dict[str, Callable[[object, str], None]] = {
    "specversion": _check_version,
    "id": _of_text(ID_CHARS_MAX),
    "source": _of_text(SOURCE_CHARS_MAX),
    "type": _check_type,
    "subject": _of_text(SUBJECT_CHARS_MAX),
    "time": _check_time,
    "datacontenttype": _of_text(CONTENT_TYPE_CHARS_MAX),
    "dataschema": _of_text(SOURCE_CHARS_MAX),
    USER_ID: _check_user_id,
    CAUSE: _check_cause,
}
