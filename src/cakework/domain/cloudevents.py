"""CloudEvents 1.0 as strangers send them over HTTP, in the three forms that there are.

    application/cloudevents+json          one event as an object of JSON
    application/cloudevents-batch+json    a list of them, or ``{"events": []}``
    anything else, with ``ce-`` headers   attributes in headers, data as the body

What is taken is an object of JSON whose attributes are short and of plain text; only ``type`` has
to be there. See https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

from cakework.domain.event_attributes import (
    CAUSE,
    DATA,
    EXTENSION_CHARS_MAX,
    NAME_CHARS_MAX,
    ORDER,
    SPEC_VERSION,
    TYPE_CHARS_MAX,
    USER_ID,
    BadEvent,
    EventTooLarge,
    check_attribute,
    joined,
)

__all__ = [
    "BATCH_BYTES_MAX",
    "BATCH_MAX",
    "CAUSE",
    "EVENT_BYTES_MAX",
    "NOT_JSON",
    "TYPE_CHARS_MAX",
    "USER_ID",
    "BadEvent",
    "dedupe_key",
    "filled",
    "is_json_type",
    "of_batch",
    "of_binary",
    "of_structured",
]

EVENT_BYTES_MAX = 256 << 10
"""Of an event as JSON, data in base64 included."""
BATCH_MAX = 1_000
BATCH_BYTES_MAX = 4 << 20
ATTRIBUTES_MAX = 64
DEPTH_MAX = 256
"""Lists and objects in one another, the event itself included."""
_BYTES_OF_A_VALUE = 2
"""At least: itself, and the comma or bracket behind it."""
_HEADER = "ce-"
_UNESCAPED = re.compile(r"\\(.)")


class NotJson(Enum):
    """In the place of what a body says that is not JSON."""

    NOT_JSON = "not JSON"


NOT_JSON: Final = NotJson.NOT_JSON


def of_structured(given: object, path: str = "") -> dict[str, Any]:
    """Return the event that a value of JSON is, without attributes that are ``null``.

    Raises:
        BadEvent: it is none that is taken; its path begins with ``path``.
    """
    return _checked(given, path)[0]


def of_batch(given: object) -> list[dict[str, Any]]:
    """Return the events of a list, or of ``{"events": []}``: all of them, in order.

    Raises:
        BadEvent: one of them is none that is taken, or there are too many.
    """
    found, path = _listed(given)
    if len(found) > BATCH_MAX:
        raise BadEvent(f"has {len(found)} events, and {BATCH_MAX} are allowed", path)
    events: list[dict[str, Any]] = []
    size = 0
    for index, each in enumerate(found):
        event, bytes_ = _checked(each, joined(path, str(index)))
        size += bytes_
        if size > BATCH_BYTES_MAX:
            raise EventTooLarge(f"is larger than {BATCH_BYTES_MAX} bytes in all", path)
        events.append(event)
    return events


def of_binary(
    headers: Iterable[tuple[str, str]], body: bytes, value: object = NOT_JSON
) -> dict[str, Any]:
    """Return the event whose attributes are ``ce-`` headers and whose data is a body.

    ``value`` is what the body says; it is looked at if the body's type is one of JSON. Text in
    UTF-8 becomes a string, any other body ``data_base64``, and an empty one no data. Paths of
    faults are names of attributes.

    Raises:
        BadEvent: it is none that is taken.
    """
    event: dict[str, Any] = {}
    content_type = ""
    for name, text in headers:
        lowered = name.lower()
        if lowered == "content-type":
            if content_type:
                raise BadEvent("is given twice", "datacontenttype")
            content_type = text.strip()
        elif lowered.startswith(_HEADER):
            _add(event, lowered.removeprefix(_HEADER), text)
    if content_type:
        event["datacontenttype"] = content_type
    if len(body) > EVENT_BYTES_MAX:
        raise _too_large("")
    if body:
        event |= _data_of(content_type, body, value)
    return of_structured(event)


def filled(event: dict[str, Any], *, event_id: str, source: str, now_ms: int) -> dict[str, Any]:
    """Return an event with what it lacks, its attributes in the order of the specification.

    Others follow by name, and data is the last.
    """
    now = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")
    lacking = {
        "specversion": SPEC_VERSION,
        "id": event_id,
        "source": source,
        "time": now.replace("+00:00", "Z"),
    }
    whole = lacking | event
    extensions = sorted(whole.keys() - {*ORDER, *DATA})
    return {name: whole[name] for name in (*ORDER, *extensions, *DATA) if name in whole}


def is_json_type(content_type: str) -> bool:
    """Return whether bodies of a type are JSON: ``application/json``, or any that ends so."""
    _, _, subtype = _media_type(content_type).partition("/")
    return subtype == "json" or subtype.endswith("+json")


def dedupe_key(event: dict[str, Any]) -> str:
    """Return 64 hexadecimal digits that two events share if ``source`` and ``id`` are the same."""
    named = json.dumps([event["source"], event["id"]])
    return hashlib.sha256(named.encode()).hexdigest()


def _listed(given: object) -> tuple[list[object], str]:
    if isinstance(given, list):
        return cast(list[object], given), ""
    if not isinstance(given, dict):
        raise BadEvent('must be a list of events, or {"events": []}')
    found = cast(dict[str, object], given)
    if unknown := next((name for name in found if name != "events"), None):
        raise BadEvent("is unknown: beside events there is nothing", unknown[:NAME_CHARS_MAX])
    events = found.get("events")
    if not isinstance(events, list):
        raise BadEvent("must be a list of events", "events")
    return cast(list[object], events), "events"


def _checked(given: object, path: str) -> tuple[dict[str, Any], int]:
    """Return an event that is taken, and its bytes as JSON."""
    if not isinstance(given, dict):
        raise BadEvent('must be an event, such as {"type": "order.paid", "data": {}}', path)
    found = cast(dict[str, Any], given)
    if len(found) > ATTRIBUTES_MAX:
        raise BadEvent(f"has {len(found)} attributes, and {ATTRIBUTES_MAX} are allowed", path)
    event = {name: value for name, value in found.items() if value is not None or name == "data"}
    for name, value in event.items():
        if name not in DATA:
            check_attribute(name, value, path)
    if "type" not in event:
        raise BadEvent("is needed", joined(path, "type"))
    _check_data(event, path)
    _check_shape(event, path)
    return event, _size(event, path)


def _check_data(event: dict[str, Any], path: str) -> None:
    if "data_base64" not in event:
        return
    inside = joined(path, "data_base64")
    if "data" in event:
        raise BadEvent("must not be there beside data", inside)
    given = event["data_base64"]
    if not isinstance(given, str):
        raise BadEvent("must be base64", inside)
    if len(given) > EVENT_BYTES_MAX:
        raise _too_large(path)
    try:
        base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadEvent("must be base64", inside) from error


def _check_shape(event: dict[str, Any], path: str) -> None:
    """Check how deep an event is, and that it has not more values than can be in so few bytes.

    Before it is written, which takes longer the more there are, and is recursion.
    """
    values = 0
    level: list[Any] = [event]
    for _ in range(DEPTH_MAX):
        values += sum(map(len, level))
        if _BYTES_OF_A_VALUE * values > EVENT_BYTES_MAX:
            raise _too_large(path)
        inner = (each for outer in level for each in _elements(outer))
        level = [each for each in inner if isinstance(each, (dict, list))]
        if not level:
            return
    said = f"has more than {DEPTH_MAX} lists and objects in one another"
    raise BadEvent(said, joined(path, "data"))


def _elements(outer: Any) -> Iterable[Any]:
    return cast(list[Any], outer) if isinstance(outer, list) else outer.values()


def _size(event: dict[str, Any], path: str) -> int:
    """Return the bytes of an event as JSON. Only data can be wrong still."""
    inside = joined(path, "data")
    try:
        text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadEvent("has text that is no Unicode", inside) from error
    except ValueError as error:
        raise BadEvent("has a number that there is not, or one that is too long", inside) from error
    except TypeError as error:
        raise BadEvent("must be JSON", inside) from error
    if size > EVENT_BYTES_MAX:
        raise _too_large(path)
    return size


def _add(event: dict[str, Any], name: str, text: str) -> None:
    """Take an attribute from a header."""
    shown = name[:NAME_CHARS_MAX]
    if name == "datacontenttype":
        raise BadEvent("goes into the header Content-Type", name)
    if name in DATA:
        raise BadEvent("goes into the body", name)
    if name in event:
        raise BadEvent("is given twice", shown)
    if len(event) > ATTRIBUTES_MAX:
        raise BadEvent(f"is one attribute too many: {ATTRIBUTES_MAX} are allowed", shown)
    event[name] = _decoded(text.strip(" \t"), shown)


def _decoded(text: str, path: str) -> str:
    """Return what a header's value says, see 3.1.3.2 of the HTTP binding.

    A ``%`` that begins no byte stands for itself.
    """
    if len(text) > 3 * 4 * EXTENSION_CHARS_MAX:
        raise BadEvent(f"is longer than {EXTENSION_CHARS_MAX} characters", path)
    if not (text.isascii() and text.isprintable()):
        raise BadEvent("must be percent-encoded: what is no printable ASCII cannot stay", path)
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = _UNESCAPED.sub(r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise BadEvent("must be percent-encoded UTF-8", path) from error


def _data_of(content_type: str, body: bytes, value: object) -> dict[str, Any]:
    if is_json_type(content_type):
        if value is NOT_JSON:
            raise BadEvent("must be JSON, as Content-Type says", "data")
        return {"data": value}
    if _is_text(content_type):
        try:
            return {"data": body.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(body).decode()}


def _is_text(content_type: str) -> bool:
    """Return whether it is text in UTF-8, or does not say in what."""
    lowered = content_type.lower().replace('"', "")
    charset = lowered.partition("charset=")[2].partition(";")[0].strip()
    return lowered.startswith("text/") and charset in ("", "utf-8", "utf8", "us-ascii")


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _too_large(path: str) -> EventTooLarge:
    return EventTooLarge(f"is larger than {EVENT_BYTES_MAX} bytes as JSON", path)
