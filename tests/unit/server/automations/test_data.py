import base64
from typing import Any

import pytest

from cakework.domain.errors import InvalidRequest, TooLarge
from cakework.server.automations.arrivals import digest_of_body, digest_of_id
from cakework.server.automations.data import FIELDS_MAX, is_json, of_bytes, of_json

FORM = "application/x-www-form-urlencoded; charset=UTF-8"
ONES = {"data": {"a": "1", "b": ["2", "", "ü"]}, "datacontenttype": "application/json"}


@pytest.mark.parametrize(
    ("kind", "is_so"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/cloudevents+json", True),
        ("text/json", False),
        ("application/jsonp", False),
        ("", False),
        ("x" * 10_000 + "+json", False),
    ],
)
def test_what_is_said_to_be_json(kind: str, is_so: bool) -> None:
    """By its content type alone."""
    assert is_json(kind) is is_so


def test_json_is_data() -> None:
    """Its type is told without parameters, so that text in it is JSON, too."""
    data = of_json("application/json; charset=utf-8", "text")
    assert data.fields == {"data": "text", "datacontenttype": "application/json"}
    assert data.value == "text"


@pytest.mark.parametrize(
    ("kind", "body", "fields"),
    [
        ("application/json", b"", {}),
        (FORM, b"a=1&b=2&b=&b=%C3%BC", ONES),
        ("text/plain", "ü".encode(), {"data": "ü", "datacontenttype": "text/plain"}),
        ('text/xml; charset="UTF-8"', b"<a/>", {"data": "<a/>"}),
        ("text/plain; charset=utf-16", b"a", {"data_base64": "YQ=="}),
        ("text/plain", b"\xff", {"data_base64": base64.b64encode(b"\xff").decode()}),
        ("", b"a", {"data_base64": "YQ=="}),
        ("x" * 257, b"a", {"data_base64": "YQ=="}),
    ],
)
def test_other_bodies(kind: str, body: bytes, fields: dict[str, Any]) -> None:
    """Forms are objects, text is text, whatever else is base64; a type is told as it came."""
    data = of_bytes(kind, body)
    assert fields.items() <= data.fields.items()
    assert data.value is None
    assert len(data.fields.get("datacontenttype", "")) <= 256


def test_forms_are_bounded() -> None:
    """In their fields; and they are in UTF-8, or none."""
    assert len(of_bytes(FORM, b"&".join(b"%d=" % n for n in range(FIELDS_MAX))).fields["data"])
    with pytest.raises(TooLarge):
        of_bytes(FORM, b"&".join(b"%d=" % n for n in range(FIELDS_MAX + 1)))
    for body in (b"a=%ff", "ü=1".encode(), b"\0\xff"):
        with pytest.raises(InvalidRequest):
            of_bytes(FORM, body)


def test_an_id_is_no_body() -> None:
    """What is known by an id is not taken for what is known by its body."""
    assert digest_of_id("a") != digest_of_body(b"a")
    assert digest_of_id("a") == digest_of_id("a")
    assert len(digest_of_body(b"a" * 1_000_000)) == 64
