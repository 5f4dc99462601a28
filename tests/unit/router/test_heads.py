import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.router.heads import HeadScanner, RequestHead, parse_head
from cakework.router.refusals import Refusal

LIMIT = 32 * 1024


def read(data: bytes, limit: int = LIMIT) -> tuple[RequestHead, bytes]:
    found = HeadScanner(limit).feed(data)
    assert found is not None
    return parse_head(found[0]), found[1]


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a.localhost", *lines]) + b"\r\n\r\n"


def test_head_says_what_was_asked() -> None:
    """Method, path, host and headers are read; the host loses port, case and final dot."""
    raw = b"GET /a?b=c HTTP/1.1\r\nHost: ABC.LocalHost.:8082\r\nX-A:  b  \r\n\r\nrest"
    parsed, rest = read(raw)
    assert (parsed.method, parsed.target, parsed.path) == (b"GET", b"/a?b=c", "/a")
    assert parsed.host == "abc.localhost"
    assert parsed.values(b"x-a") == [b"b"]
    assert rest == b"rest"
    assert not parsed.has_body
    assert parsed.may_persist


def test_absolute_target_becomes_a_path() -> None:
    """A target in absolute form is taken as its path, for the host it names."""
    raw = b"GET http://a.localhost?x HTTP/1.1\r\nHost: a.localhost\r\n\r\n"
    assert read(raw)[0].target == b"/?x"


def test_one_empty_line_before_a_request_is_skipped() -> None:
    """Old clients send CR LF after a body; RFC 9112, 2.2 has servers skip it."""
    assert read(b"\r\n" + head())[0].method == b"POST"


SMUGGLING = {
    "length and coding": head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "coding and length": head(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": head(b"Content-Length: 5", b"Content-Length: 6"),
    "two equal lengths": head(b"Content-Length: 5", b"Content-Length: 5"),
    "length list": head(b"Content-Length: 5, 5"),
    "signed length": head(b"Content-Length: +5"),
    "negative length": head(b"Content-Length: -5"),
    "hexadecimal length": head(b"Content-Length: 0x5"),
    "underscored digits": head(b"Content-Length: 1_0"),
    "empty length": head(b"Content-Length: "),
    "huge length": head(b"Content-Length: " + b"9" * 30),
    "length with a space before the colon": head(b"Content-Length : 5"),
    "underscore length": head(b"Content_Length: 5"),
    "coding with a space before the colon": head(b"Transfer-Encoding : chunked"),
    "underscore coding": head(b"Transfer_Encoding: chunked"),
    "two codings": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "coding list": head(b"Transfer-Encoding: gzip, chunked"),
    "identity coding": head(b"Transfer-Encoding: identity"),
    "coding twice in one": head(b"Transfer-Encoding: chunked, chunked"),
    "vertical tab coding": head(b"Transfer-Encoding: \x0bchunked"),
    "quoted coding": head(b'Transfer-Encoding: "chunked"'),
    "null in coding": head(b"Transfer-Encoding: chunked\x00"),
    "x-chunked": head(b"Transfer-Encoding: xchunked"),
    "folded coding": head(b"Transfer-Encoding:", b" chunked"),
    "folded header": head(b"X-A: b", b"\tc"),
    "fold before any header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare line feed between headers": head(b"X-A: b\nContent-Length: 5"),
    "bare line feed at the end": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare carriage return": head(b"X-A: b\rContent-Length: 5"),
    "null in a name": head(b"X-\x00A: b"),
    "no colon": head(b"Content-Length 5"),
    "empty name": head(b": 5"),
    "two hosts": head(b"Host: b.localhost"),
    "no host": b"GET / HTTP/1.1\r\nX-A: b\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "other host in the target": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "target of another scheme": b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without slash": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab in the request line": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces in the request line": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "lower-case protocol": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "binary": bytes(range(256)) + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", SMUGGLING.values(), ids=SMUGGLING)
def test_what_can_be_read_in_two_ways_is_refused(raw: bytes) -> None:
    """Ambiguous heads get 400, each of them."""
    with pytest.raises(Refusal) as refusal:
        read(raw)
    assert (refusal.value.status, refusal.value.code) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
        (head(b"X-A: " + b"a" * LIMIT), 431),
        (head(*[b"A: b"] * 200), 431),
    ],
)
def test_what_is_not_for_a_router_is_refused(raw: bytes, status: int) -> None:
    """Other versions, CONNECT and heads beyond the limits get their own status."""
    with pytest.raises(Refusal) as refusal:
        read(raw)
    assert refusal.value.status == status


def test_an_endless_head_is_refused_before_its_end() -> None:
    """Nobody has to wait for the end of a head that is too long already."""
    scanner = HeadScanner(1000)
    assert scanner.feed(b"GET / HTTP/1.1\r\nX-A: ") is None
    with pytest.raises(Refusal) as refusal:
        scanner.feed(b"a" * 1000)
    assert refusal.value.status == 431


@given(st.data())
def test_pieces_do_not_matter(data: st.DataObject) -> None:
    """However the bytes are cut, head and rest are the same, and so is a refusal."""
    raw = data.draw(st.sampled_from([*SMUGGLING.values(), head(b"Content-Length: 3") + b"abc"]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert _outcome([raw]) == _outcome(pieces)


def _outcome(pieces: list[bytes]) -> tuple[RequestHead, bytes] | int | None:
    scanner = HeadScanner(LIMIT)
    try:
        for index, piece in enumerate(pieces):
            if found := scanner.feed(piece):
                return parse_head(found[0]), found[1] + b"".join(pieces[index + 1 :])
    except Refusal as refusal:
        return refusal.status
    return None


NAMES = st.sampled_from([b"Host", b"Content-Length", b"Transfer-Encoding", b"X-A", b"Connection"])
VALUES = st.sampled_from([b"a", b"5", b"chunked", b"gzip", b"close", b"5,5", b" 7 ", b"\xff", b""])
SEPARATORS = st.sampled_from([b": ", b":", b" : ", b":\t", b"\n: "])


@given(st.lists(st.tuples(NAMES, SEPARATORS, VALUES), max_size=5), st.sampled_from([b"0", b"1"]))
def test_what_is_taken_is_read_alike_by_another_parser(
    fields: list[tuple[bytes, bytes, bytes]], minor: bytes
) -> None:
    """A head that is not refused means the same to h11, the framing of its body above all."""
    lines = [b"POST / HTTP/1." + minor, *(name + sep + value for name, sep, value in fields)]
    try:
        parsed, _ = read(b"\r\n".join(lines) + b"\r\n\r\n")
    except Refusal:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(parsed.raw)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert tuple(event.headers.raw_items()) == parsed.headers
    assert (other.next_event() is h11.NEED_DATA) == parsed.has_body
