"""What the body of a delivery is in an event.

    JSON (application/json, …+json)        data: what it says
    application/x-www-form-urlencoded      data: an object of its fields
    text/*, in UTF-8                       data: the text
    anything else                          data_base64

A field of a form is a string; one that is there several times is a list of them, in order. The
``datacontenttype`` of a form's event is that of an object of JSON, which it has become.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from cakework.domain.errors import InvalidRequest, TooLarge

FIELDS_MAX = 1_000
KIND_CHARS_MAX = 256
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_UTF_8 = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})


@dataclass(frozen=True, slots=True)
class Data:
    """What an event has of a body, in ``fields``; ``value`` is what it says if it is JSON."""

    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    value: object = None


def is_json(kind: str) -> bool:
    """Return whether a content type is one of JSON."""
    media = _media(kind)
    return media == _JSON or (media.startswith("application/") and media.endswith("+json"))


def of_json(kind: str, value: object) -> Data:
    """Return what a body is whose JSON says ``value``."""
    return Data({"datacontenttype": _media(kind), "data": value}, value)


def of_bytes(kind: str, body: bytes) -> Data:
    """Return what a body is that is no JSON.

    Raises:
        TooLarge, InvalidRequest: it is a form with too many fields, or none.
    """
    if not body:
        return Data()
    if _media(kind) == _FORM:
        return Data({"datacontenttype": _JSON, "data": _form(body)})
    told = {"datacontenttype": kind} if 0 < len(kind) <= KIND_CHARS_MAX else {}
    if _media(kind).startswith("text/") and _charset(kind) in _UTF_8:
        try:
            return Data({**told, "data": body.decode()})
        except UnicodeDecodeError:
            pass
    return Data({**told, "data_base64": base64.b64encode(body).decode()})


def _form(body: bytes) -> dict[str, str | list[str]]:
    if body.count(b"&") >= FIELDS_MAX:
        raise TooLarge(f"A form may have {FIELDS_MAX} fields.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise InvalidRequest("The body is no form, or not in UTF-8.") from error
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def _media(kind: str) -> str:
    return kind[:KIND_CHARS_MAX].partition(";")[0].strip().lower()


def _charset(kind: str) -> str:
    """Return the charset that a content type names, in lower case; empty where it names none."""
    for parameter in kind[:KIND_CHARS_MAX].split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""
