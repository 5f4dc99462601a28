"""CloudEvents in their three forms: what is taken, what is refused and where, what is filled in."""

import base64
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.cloudevents import (
    BATCH_BYTES_MAX,
    BATCH_MAX,
    EVENT_BYTES_MAX,
    BadEvent,
    dedupe_key,
    filled,
    is_json_type,
    of_batch,
    of_binary,
    of_structured,
)
from tests.properties import examples

PAID: dict[str, Any] = {"type": "order.paid"}
CAUSE = "inv_01ARZ3NDEKTSV4RRFFQ69G5FAV"
OF_THE_SPECIFICATION: list[dict[str, Any]] = [
    {
        "specversion": "1.0",
        "type": "com.example.someevent",
        "source": "/mycontext",
        "id": "A234-1234-1234",
        "time": "2018-04-05T17:31:00Z",
        "comexampleextension1": "value",
        "comexampleothervalue": 5,
        "datacontenttype": "application/vnd.apache.thrift.binary",
        "data_base64": "AAECAwQ=",
    },
    {
        "specversion": "1.0",
        "type": "com.example.someevent",
        "source": "/mycontext",
        "subject": "larger-context",
        "id": "C234-1234-1234",
        "time": "2018-04-05T17:31:00Z",
        "comexampleextension1": "value",
        "comexampleothervalue": 5,
        "datacontenttype": "application/json",
        "data": {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True},
    },
    {
        "specversion": "1.0",
        "type": "com.github.pull_request.opened",
        "source": "https://github.com/cloudevents/spec/pull",
        "subject": "123",
        "id": "A234-1234-1234",
        "time": "2018-04-05T17:31:00+02:00",
        "dataschema": "https://example.com/schema#1",
        "datacontenttype": "text/xml",
        "data": '<much wow="xml"/>',
    },
]


def fault(given_: object, path: str = "") -> BadEvent:
    with pytest.raises(BadEvent) as raised:
        of_structured(given_, path)
    return raised.value


@pytest.mark.parametrize("event", OF_THE_SPECIFICATION)
def test_the_examples_of_the_specification_are_taken(event: dict[str, Any]) -> None:
    """As they are, alone and in a batch."""
    assert of_structured(event) == event
    assert of_batch([event, event]) == [event, event]
    assert of_batch({"events": [event]}) == [event]


TAKEN: list[dict[str, Any]] = [
    {},
    {"data": None},
    {"data": 0},
    {"data": "\0"},
    {"data": {"\0": ["é", 1e308, 10**300]}},
    {"data_base64": ""},
    {"type": "é" * 256},
    {"time": "2026-12-01t09:00:00.123456789z"},
    {"time": "2024-02-29T23:59:59-23:59"},
    {"cakeworkuserid": "cust:1@x.y_z-" + "a" * 115},
    {"cakeworkcause": CAUSE},
    {"a" * 64: "x" * 4096},
    {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "sampled": False},
    {"price": 9.99, "count": -(2**53), "empty": ""},
    {f"x{number}": 1 for number in range(63)},
]


@pytest.mark.parametrize("fields", TAKEN)
def test_what_is_at_a_bound_is_taken(fields: dict[str, Any]) -> None:
    """And stays as it is."""
    event = PAID | fields
    assert of_structured(event) == event


def test_attributes_that_are_null_are_not_there() -> None:
    """As the specification has it; data may be ``null``."""
    event = {**PAID, "id": None, "subject": None, "data": None, "data_base64": None, "x": None}
    assert of_structured(event) == {**PAID, "data": None}


def deep(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


REFUSED: list[tuple[object, str, str]] = [
    ([], "", "must be an event"),
    ("x", "", "must be an event"),
    ({}, "type", "is needed"),
    ({"type": None}, "type", "is needed"),
    ({"type": ""}, "type", "must not be empty"),
    ({"type": 5}, "type", "must be text"),
    ({"type": "x" * 257}, "type", "is longer than 256 characters"),
    ({"type": "a\nb"}, "type", "must not have control characters"),
    ({"type": "a\0"}, "type", "must not have control characters"),
    ({"type": "a\x85"}, "type", "must not have control characters"),
    ({"type": "\ud800"}, "type", "halves of characters"),
    ({"type": "cakework.invocation.failed"}, "type", "is the platform's"),
    ({**PAID, "id": ""}, "id", "must not be empty"),
    ({**PAID, "id": 7}, "id", "must be text"),
    ({**PAID, "id": "x" * 257}, "id", "is longer than 256"),
    ({**PAID, "source": "\0"}, "source", "must not have control characters"),
    ({**PAID, "source": "x" * 1025}, "source", "is longer than 1024"),
    ({**PAID, "subject": []}, "subject", "must be text"),
    ({**PAID, "dataschema": ""}, "dataschema", "must not be empty"),
    ({**PAID, "specversion": "0.3"}, "specversion", 'must be "1.0"'),
    ({**PAID, "specversion": 1.0}, "specversion", 'must be "1.0"'),
    ({**PAID, "time": "yesterday"}, "time", "must be a time of RFC 3339"),
    ({**PAID, "time": "2026-12-01T09:00:00"}, "time", "must be a time of RFC 3339"),
    ({**PAID, "time": "2026-12-01"}, "time", "must be a time of RFC 3339"),
    ({**PAID, "time": "2026-02-30T09:00:00Z"}, "time", "must be a time of RFC 3339"),
    ({**PAID, "time": "2026-02-20T09:00:00+99:99"}, "time", "must be a time of RFC 3339"),
    ({**PAID, "time": "٢026-02-20T09:00:00Z"}, "time", "must be a time of RFC 3339"),
    ({**PAID, "time": 1}, "time", "must be text"),
    ({**PAID, "datacontenttype": {}}, "datacontenttype", "must be text"),
    ({**PAID, "dataContentType": "x"}, "dataContentType", "did you mean datacontenttype?"),
    ({**PAID, "userId": "x"}, "userId", "did you mean cakeworkuserid?"),
    ({**PAID, "a_b": "x"}, "a_b", "is no name of an attribute"),
    ({**PAID, "": "x"}, "", "is no name of an attribute"),
    ({**PAID, "a\n": "x"}, "a\\n", "is no name of an attribute"),
    ({**PAID, "a" * 5000: "x"}, "a" * 64, "is no name of an attribute"),
    ({**PAID, "\ud800": "x"}, "\\ud800", "is no name of an attribute"),
    ({**PAID, "ext": {}}, "ext", "the rest goes into data"),
    ({**PAID, "ext": []}, "ext", "the rest goes into data"),
    ({**PAID, "ext": "x" * 4097}, "ext", "is longer than 4096"),
    ({**PAID, "ext": "\0"}, "ext", "must not have control characters"),
    ({**PAID, "ext": float("nan")}, "ext", "must be a number that there is"),
    ({**PAID, "ext": 2**53 + 1}, "ext", "must be a number within"),
    ({**PAID, "cakeworkdepth": 0}, "cakeworkdepth", "begins as the platform's do"),
    ({**PAID, "cakework": "x"}, "cakework", "begins as the platform's do"),
    ({**PAID, "cakeworkuserid": ""}, "cakeworkuserid", "must be 1 to 128"),
    ({**PAID, "cakeworkuserid": "a\n"}, "cakeworkuserid", "must be 1 to 128"),
    ({**PAID, "cakeworkuserid": 5}, "cakeworkuserid", "must be 1 to 128"),
    ({**PAID, "cakeworkcause": CAUSE.lower()}, "cakeworkcause", "must be the id of an invocation"),
    ({**PAID, "cakeworkcause": CAUSE + "\n"}, "cakeworkcause", "must be the id of an invocation"),
    ({**PAID, "data": 1, "data_base64": "AA=="}, "data_base64", "must not be there beside data"),
    ({**PAID, "data_base64": "AA"}, "data_base64", "must be base64"),
    ({**PAID, "data_base64": "AA==\n"}, "data_base64", "must be base64"),
    ({**PAID, "data_base64": "é"}, "data_base64", "must be base64"),
    ({**PAID, "data_base64": [0]}, "data_base64", "must be base64"),
    ({**PAID, "data": float("inf")}, "data", "has a number that there is not"),
    ({**PAID, "data": {"a": ["\udfff"]}}, "data", "has text that is no Unicode"),
    ({**PAID, "data": {"\udfff": 1}}, "data", "has text that is no Unicode"),
    ({**PAID, "data": b"x"}, "data", "must be JSON"),
    ({**PAID, "data": deep(256)}, "data", "has more than 256 lists and objects"),
    ({**PAID, "data": deep(5000)}, "data", "has more than 256 lists and objects"),
    ({**PAID, "data": "x" * EVENT_BYTES_MAX}, "", "is larger than 262144 bytes"),
    ({**PAID, "data": "é" * (EVENT_BYTES_MAX // 2)}, "", "is larger than 262144 bytes"),
    ({**PAID, "data_base64": "A" * EVENT_BYTES_MAX}, "", "is larger than 262144 bytes"),
    ({**PAID, **{f"x{number}": 1 for number in range(64)}}, "", "has 65 attributes"),
]


@pytest.mark.parametrize(("event", "path", "said"), REFUSED)
def test_what_is_no_event_is_refused(event: object, path: str, said: str) -> None:
    """Each fault leads to its place, in a batch too, and says what to do."""
    refused = fault(event)
    assert (refused.path, said in str(refused)) == (path, True), str(refused)
    with pytest.raises(BadEvent) as raised:
        of_batch({"events": [PAID, event]})
    assert raised.value.path.startswith(f"events.1.{path}" if path else "events.1")


def test_events_are_as_large_and_as_deep_as_may_be() -> None:
    """To the byte, and to the last list."""
    written = len(json.dumps({**PAID, "data": ""}, separators=(",", ":")))
    assert of_structured({**PAID, "data": "x" * (EVENT_BYTES_MAX - written)})
    assert fault({**PAID, "data": "x" * (EVENT_BYTES_MAX - written + 1)})
    assert of_structured({**PAID, "data": [deep(254), deep(254)]})
    assert fault({**PAID, "data": [deep(254), deep(255)]})
    assert of_structured({**PAID, "data": [deep(1)] * 60_000})


BAD_BATCHES: list[tuple[object, str, str]] = [
    ("x", "", "must be a list of events"),
    (None, "", "must be a list of events"),
    ({}, "events", "must be a list of events"),
    ({"events": {}}, "events", "must be a list of events"),
    ({"events": [], "userId": "x"}, "userId", "is unknown"),
    ([PAID] * (BATCH_MAX + 1), "", "has 1001 events, and 1000 are allowed"),
    ({"events": [PAID] * (BATCH_MAX + 1)}, "events", "has 1001 events"),
    ([PAID, {}], "1.type", "is needed"),
    ([PAID, [PAID]], "1", "must be an event"),
    ([{**PAID, "data": "x" * 200_000}] * 21, "", f"is larger than {BATCH_BYTES_MAX} bytes in all"),
]


@pytest.mark.parametrize(("batch", "path", "said"), BAD_BATCHES)
def test_a_batch_is_taken_as_a_whole_or_refused(batch: object, path: str, said: str) -> None:
    """With the place of the first fault."""
    with pytest.raises(BadEvent) as raised:
        of_batch(batch)
    assert (raised.value.path, said in str(raised.value)) == (path, True), str(raised.value)


def test_batches_may_be_empty_and_full() -> None:
    """From none to 1,000."""
    assert of_batch([]) == []
    assert of_batch({"events": []}) == []
    assert of_batch([PAID] * BATCH_MAX) == [PAID] * BATCH_MAX


HEADERS = [
    ("Host", "webhook.example.com"),
    ("ce-specversion", "1.0"),
    ("ce-type", "com.example.someevent"),
    ("ce-time", "2018-04-05T03:56:24Z"),
    ("CE-Id", "1234-1234-1234"),
    ("ce-source", "/mycontext/subcontext"),
]
ATTRIBUTES = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": "/mycontext/subcontext",
}


def test_the_example_of_the_http_binding_is_taken() -> None:
    """Attributes from headers, data from the body."""
    headers = [*HEADERS, ("Content-Type", "application/json; charset=utf-8")]
    assert of_binary(headers, b'{"a": 1}', {"a": 1}) == {
        **ATTRIBUTES,
        "datacontenttype": "application/json; charset=utf-8",
        "data": {"a": 1},
    }


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b"", {}),
        ("application/cloud+JSON", b"null", {"data": None}),
        ("text/plain", "é".encode(), {"data": "é"}),
        ("text/plain; charset=UTF-8", b"a", {"data": "a"}),
        ('text/plain; charset="utf-8"', b"a", {"data": "a"}),
        ("text/plain; charset=latin-1", b"a", {"data_base64": "YQ=="}),
        ("text/plain", b"\xff", {"data_base64": "/w=="}),
        ("application/xml", b"<a/>", {"data_base64": "PGEvPg=="}),
        ("", b"a", {"data_base64": "YQ=="}),
        ("", b"", {}),
    ],
)
def test_a_body_becomes_data_by_its_type(content_type: str, body: bytes, data: object) -> None:
    """JSON a value, text a string, all else base64, nothing none."""
    named = {"datacontenttype": content_type} if content_type else {}
    headers = [*HEADERS, *([("content-type", content_type)] if content_type else [])]
    event = of_binary(headers, body, None)
    assert event == ATTRIBUTES | named | (data if isinstance(data, dict) else {})


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ('"quoted \\"text\\" 100%25"', 'quoted "text" 100%'),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("%25%32%30", "%20"),
        ("a+b", "a+b"),
        ('"', '"'),
        ("  a  ", "a"),
    ],
)
def test_headers_are_decoded_as_the_binding_says(written: str, value: str) -> None:
    """Quotes first, then one round of percent signs."""
    assert of_binary([*HEADERS, ("ce-subject", written)], b"")["subject"] == value


@pytest.mark.parametrize(
    ("headers", "path", "said"),
    [
        ([("ce-id", "1")], "type", "is needed"),
        ([*HEADERS, ("ce-type", "x")], "type", "is given twice"),
        ([*HEADERS, ("Ce-Type", "x")], "type", "is given twice"),
        ([*HEADERS, ("ce-data", "x")], "data", "goes into the body"),
        ([*HEADERS, ("ce-data_base64", "x")], "data_base64", "goes into the body"),
        ([*HEADERS, ("ce-datacontenttype", "x")], "datacontenttype", "Content-Type"),
        ([*HEADERS, ("ce-subject", "é")], "subject", "must be percent-encoded"),
        ([*HEADERS, ("ce-subject", "%ff")], "subject", "must be percent-encoded UTF-8"),
        ([*HEADERS, ("ce-subject", "%ed%a0%80")], "subject", "must be percent-encoded UTF-8"),
        ([*HEADERS, ("ce-subject", "a%00")], "subject", "must not have control characters"),
        ([*HEADERS, ("ce-subject", "a%0d%0ab")], "subject", "must not have control characters"),
        ([*HEADERS, ("ce-ext", "x" * 50_000)], "ext", "is longer than 4096"),
        ([*HEADERS, ("ce-", "x")], "", "is no name of an attribute"),
        ([*HEADERS, ("ce-a-b", "x")], "a-b", "is no name of an attribute"),
        ([*HEADERS, ("ce-cakeworkheaders", "x")], "cakeworkheaders", "begins as the platform's"),
        ([*HEADERS, ("content-type", "a/b"), ("Content-Type", "a/c")], "datacontenttype", "twice"),
        ([*HEADERS, ("content-type", "x" * 257)], "datacontenttype", "is longer than 256"),
        ([*HEADERS, ("content-type", "application/json")], "data", "must be JSON"),
        ([("ce-type", "a"), *((f"ce-x{n}", "1") for n in range(64))], "", "has 66 attributes"),
        ([("ce-type", "a"), *((f"ce-x{n}", "1") for n in range(999))], "x64", "too many"),
    ],
)
def test_what_is_no_event_in_headers_is_refused(
    headers: list[tuple[str, str]], path: str, said: str
) -> None:
    """With the name of the attribute, whatever the header was called."""
    with pytest.raises(BadEvent) as raised:
        of_binary(headers, b"x")
    assert (raised.value.path, said in str(raised.value)) == (path, True), str(raised.value)


def test_large_bodies_are_refused_by_their_size_as_json() -> None:
    """Base64 makes a third more of them."""
    assert of_binary(HEADERS, bytes(190_000))
    for size in (200_000, EVENT_BYTES_MAX + 1):
        with pytest.raises(BadEvent, match="is larger than"):
            of_binary(HEADERS, bytes(size))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_any_text_comes_through_headers(text: str) -> None:
    """Encoded as the binding asks for."""
    written = "".join(f"%{byte:02X}" for byte in text.encode())
    assert of_binary([*HEADERS, ("ce-subject", written)], b"")["subject"] == text


@given(st.binary(min_size=1, max_size=100))
def test_any_body_comes_through(body: bytes) -> None:
    """As it was, whatever it is."""
    event = of_binary([*HEADERS, ("content-type", "application/octet-stream")], body)
    assert base64.b64decode(event["data_base64"]) == body


def test_what_lacks_is_filled_in_and_put_in_order() -> None:
    """What is there stays."""
    given_ = {"data": 1, "zeta": "z", "alpha": "a", "subject": "s", "type": "t"}
    event = filled(given_, event_id="evt_1", source="/api", now_ms=1_796_115_600_007)
    assert list(event.items()) == [
        ("specversion", "1.0"),
        ("id", "evt_1"),
        ("source", "/api"),
        ("type", "t"),
        ("subject", "s"),
        ("time", "2026-12-01T09:00:00.007Z"),
        ("alpha", "a"),
        ("zeta", "z"),
        ("data", 1),
    ]
    assert filled(event, event_id="other", source="other", now_ms=0) == event
    whole = OF_THE_SPECIFICATION[0]
    assert filled(whole, event_id="x", source="x", now_ms=0) == whole
    assert list(given_) == ["data", "zeta", "alpha", "subject", "type"]


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [
        *(
            ("application/json", True),
            ("application/json; charset=utf-8", True),
            ("A/B+JSON", True),
        ),
        *(("text/json", True), ("application/x-ndjson", False), ("application/jsonx", False)),
        *(("json", False), ("", False), ("text/plain; x=a/json", False), ("+json", False)),
    ],
)
def test_types_of_json_are_known(content_type: str, is_json: bool) -> None:
    """By what they end with, parameters aside."""
    assert is_json_type(content_type) is is_json


def test_events_are_the_same_by_source_and_id() -> None:
    """And not by where one ends and the other begins."""

    def key(source: str, id_: str) -> str:
        return dedupe_key({"source": source, "id": id_})

    assert dedupe_key({"source": "a", "id": "b", "type": "x"}) == key("a", "b")
    keys = {key("a", "bc"), key("ab", "c"), key('a", "b', "c"), key("a", 'b", "c'), key("bc", "a")}
    assert len(keys) == 5
    assert all(len(each) == 64 for each in keys)


def hostile(seed: int) -> object:
    """An envelope with a field or two that are large, deep, of a wrong kind or oddly named."""
    chance = random.Random(seed)
    values: list[object] = [
        *("", "\0", "\ud800", "x" * 300_000, "٣" * 257, "1.0", CAUSE, "cakework.x", "=" * 5000),
        *(None, True, -1, 10**4000, 2**64, 1e308, float("nan"), float("-inf"), b"x", {1}, object()),
        *([], {}, deep(chance.choice([5, 300, 990, 20_000])), [[]] * 90_000, {"\ud800": 1}),
        *({"a": {"a": deep(999)}}, ["\udc00"], "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z"),
    ]
    names = [
        *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"),
        *("dataschema", "data_base64", "cakeworkuserid", "cakeworkcause", "cakeworkx", "ext", ""),
        *("Type", "a" * 100_000, "\0", "\ud800", "data base64", "é", "__proto__", "x" * 40),
    ]
    event: dict[Any, object] = {"type": "order.paid"} if chance.random() < 0.9 else {}
    for _ in range(chance.choice([1, 1, 2, 5])):
        event[chance.choice(names)] = chance.choice(values)
    if chance.random() < 0.05:
        event |= {f"n{number}": chance.choice(values) for number in range(10_000)}
    return event if chance.random() < 0.95 else chance.choice(values)


@pytest.mark.parametrize("seed", range(examples(300)))
def test_a_hostile_envelope_is_refused_or_harmless(seed: int) -> None:
    """It never fails in another way; what is taken can be written as UTF-8, and faults be told."""
    given_ = hostile(seed)
    try:
        event = of_structured(given_)
    except BadEvent as refused:
        assert str(refused)[0].islower()
        assert len(f"{refused.path} {refused}".encode()) < 400
        return
    whole = filled(event, event_id="evt_1", source="/api", now_ms=0)
    assert json.loads(json.dumps(whole, allow_nan=False, ensure_ascii=False).encode()) == whole
    assert len(dedupe_key(whole)) == 64
