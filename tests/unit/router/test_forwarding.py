import h11

from cakework.router.forwarding import answer_for_client, request_for_vm
from cakework.router.heads import parse_head


def forwarded(*lines: bytes, version: bytes = b"1.1") -> dict[bytes, bytes]:
    first = b"GET / HTTP/" + version
    raw = b"\r\n".join([first, b"Host: A.localhost:8082", *lines]) + b"\r\n\r\n"
    request = request_for_vm(parse_head(raw), "192.0.2.7")
    names = [key for key, _ in request.headers]
    assert len(names) == len(set(names))
    return dict(request.headers)


def test_the_vm_learns_who_asked_and_how() -> None:
    """Address, protocol and host of the client's request are told; Host stays as it was."""
    assert forwarded() == {
        b"host": b"A.localhost:8082",
        b"x-forwarded-for": b"192.0.2.7",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"A.localhost:8082",
    }


def test_nothing_the_client_claims_about_itself_is_left() -> None:
    """Forwarding headers of the client are replaced, however they are spelled."""
    headers = forwarded(
        b"X-Forwarded-For: 10.0.0.1",
        b"x_forwarded_for: 10.0.0.1",
        b"X-Forwarded-Port: 1",
        b"X-Real-IP: 10.0.0.1",
        b"Forwarded: for=10.0.0.1",
    )
    assert headers == forwarded()


def test_nobody_speaks_for_the_platform() -> None:
    """Whose request it is, an adapter is told by the router alone."""
    assert forwarded(b"Cakework-User-Id: another", b"cakework_version: 1") == forwarded()
    assert forwarded(b"User-Agent: cakework ") == forwarded()
    assert forwarded(b"User-Agent: cakework/1")[b"user-agent"] == b"cakework/1"


def test_hop_by_hop_headers_end_here() -> None:
    """Connection, what it names, and the other hop-by-hop headers do not reach the VM."""
    headers = forwarded(
        b"Connection: close, X-Mine, Host, X-Forwarded-For",
        b"X-Mine: 1",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"Proxy-Authorization: secret",
        b"Upgrade: websocket",
    )
    assert headers == forwarded()


def test_an_upgrade_is_passed_on_when_asked_for_properly() -> None:
    """Upgrade needs its Connection token, and HTTP/1.1."""
    asked = (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket")
    assert forwarded(*asked)[b"upgrade"] == b"websocket"
    assert forwarded(*asked)[b"connection"] == b"Upgrade"
    assert b"upgrade" not in forwarded(*asked, version=b"1.0")


def test_a_length_beside_a_coding_is_dropped_from_an_answer() -> None:
    """The VM's Transfer-Encoding wins over its Content-Length, and neither is passed on."""
    answer = h11.Response(
        status_code=200,
        headers=[("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("X-A", "b")],
    )
    assert list(answer_for_client(answer, last=False).headers) == [(b"x-a", b"b")]


def test_the_last_answer_on_a_connection_says_so() -> None:
    """Connection: close is the router's to say, not the VM's."""
    answer = h11.Response(status_code=200, headers=[("Connection", "keep-alive")])
    assert list(answer_for_client(answer, last=True).headers) == [(b"connection", b"close")]
