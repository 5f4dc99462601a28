"""Bodies of ``multipart/form-data`` (RFC 7578), for calls that take an archive.

The body is here already, and bounded. Its fields become what JSON would have said; the archive is
kept beside them as the bytes it is.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from email.message import Message

from cakework.domain.errors import FieldError, InvalidRequest
from cakework.server.api.wire import shown_name

ARCHIVE = "archive"
PARTS_MAX = 20
_HEAD_BYTES_MAX = 4096
_FIELD_BYTES_MAX = 64 << 10
_BOUNDARY_CHARS_MAX = 70


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form by name, and its archive, if one came."""

    fields: dict[str, str | bool]
    archive: bytes | None = field(default=None, repr=False)


def is_form(content_type: str) -> bool:
    """Say whether a body of this type is a form."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def read_form(content_type: str, body: bytes, flags: Collection[str] = ()) -> Form:
    """Return the form that ``body`` is; the values of ``flags`` are true or false.

    Raises:
        InvalidRequest: it is none.
    """
    fields: dict[str, str | bool] = {}
    archive: bytes | None = None
    for number, (name, content) in enumerate(_parts(_boundary(content_type), body)):
        if number >= PARTS_MAX:
            raise _refused("body", f"has more than {PARTS_MAX} parts")
        if name in fields or (name == ARCHIVE and archive is not None):
            raise _refused(name, "is there more than once")
        if name == ARCHIVE:
            archive = content
        else:
            fields[name] = _value(name, content, flag=name in flags)
    return Form(fields, archive)


def _value(name: str, content: bytes, *, flag: bool) -> str | bool:
    if len(content) > _FIELD_BYTES_MAX:
        raise _refused(name, f"is longer than {_FIELD_BYTES_MAX} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _refused(name, "must be text in UTF-8") from error
    if not flag:
        return text
    if text not in ("true", "false"):
        raise _refused(name, "should be true or false")
    return text == "true"


def _boundary(content_type: str) -> bytes:
    head = Message()
    head["content-type"] = content_type.encode("ascii", "replace").decode()
    boundary = head.get_boundary("")
    if not 0 < len(boundary) <= _BOUNDARY_CHARS_MAX:
        raise _refused("body", "is a form without a boundary that can be")
    return boundary.encode()


def _parts(boundary: bytes, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each part."""
    between = b"\r\n--" + boundary
    # The first boundary may be where the body begins.
    start = 0 if body.startswith(between[2:]) else body.find(between) + 2
    if start == 1:
        raise _refused("body", "is a form without its boundary")
    at = start + len(between) - 2
    while not body.startswith(b"--", at):
        line_end, head_end = body.find(b"\r\n", at), body.find(b"\r\n\r\n", at)
        end = body.find(between, head_end)
        if line_end < 0 or head_end < 0 or end < 0 or head_end - at > _HEAD_BYTES_MAX:
            raise _refused("body", "is a form that is cut off, or none")
        yield _name(body[line_end:head_end]), body[head_end + 4 : end]
        at = end + len(between)


def _name(head: bytes) -> str:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() != "content-disposition":
            continue
        said = Message()
        said["content-disposition"] = value.strip()
        name = said.get_param("name", header="content-disposition")
        if isinstance(name, str) and name:
            return name
    raise _refused("body", "is a form with a part that has no name")


def _refused(name: str, message: str) -> InvalidRequest:
    shown = shown_name(name)
    return InvalidRequest(
        f"The form is not valid: {shown} {message}.", [FieldError(shown, message)]
    )
