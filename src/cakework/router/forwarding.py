"""What the router changes in heads that pass through it.

Hop-by-hop headers (RFC 9110, 7.6.1) end here in both directions. Who asked, and how, is told
to the VM in ``X-Forwarded-For``, ``-Proto`` and ``-Host``, of which nothing that the client
itself sent is left, in no spelling; nor of ``Cakework-…``, which the runtimes' adapters take for
the platform's word, nor the name by which they know who gives them orders.
"""

import h11

from cakework.router.heads import Headers, RequestHead, tokens

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
NEVER_HOP_BY_HOP = frozenset({b"host", b"content-length", b"content-type", b"cache-control"})
ORDERS = b"cakework"
"""The User-Agent of who gives an adapter orders: a function may pass on a visitor's, to an address
that the visitor names, too (docs/dev/runtimes.md)."""
UPGRADE_STATUSES = frozenset({101, 426})


def request_for_vm(head: RequestHead, client: str) -> h11.Request:
    """Return ``head`` as the VM gets it, on behalf of the client at address ``client``."""
    kept = [(key, value) for key, value in _end_to_end(head.headers) if not _is_ours(key, value)]
    upgrade = _upgrade(head.headers) if head.version == b"1.1" else b""
    if upgrade:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade)]
    if head.is_chunked:
        kept.append((b"Transfer-Encoding", b"chunked"))
    kept += [
        (b"X-Forwarded-For", client.encode()),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", head.values(b"host")[0]),
    ]
    return h11.Request(method=head.method, target=head.target, headers=kept)


def interim_for_client(interim: h11.InformationalResponse) -> h11.InformationalResponse:
    """Return a 1xx of the VM as the client gets it."""
    return h11.InformationalResponse(
        status_code=interim.status_code,
        headers=_headers_for_client(interim),
        reason=interim.reason,
    )


def answer_for_client(answer: h11.Response, *, last: bool) -> h11.Response:
    """Return the VM's answer as the client gets it; ``last``: on this connection."""
    headers = _headers_for_client(answer)
    if last:
        headers.append((b"Connection", b"close"))
    return h11.Response(status_code=answer.status_code, headers=headers, reason=answer.reason)


def _headers_for_client(
    answer: h11.Response | h11.InformationalResponse,
) -> list[tuple[bytes, bytes]]:
    headers = tuple(answer.headers.raw_items())
    kept = _end_to_end(headers)
    if any(key.lower() == b"transfer-encoding" for key, _ in headers):
        kept = [(key, value) for key, value in kept if key.lower() != b"content-length"]
    upgrade = _upgrade(headers) if answer.status_code in UPGRADE_STATUSES else b""
    if upgrade:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade)]
    return kept


def _end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    nominated = tokens([value for key, value in headers if key.lower() == b"connection"])
    dropped = HOP_BY_HOP | (nominated - NEVER_HOP_BY_HOP)
    return [(key, value) for key, value in headers if key.lower() not in dropped]


def _is_ours(key: bytes, value: bytes) -> bool:
    name = key.lower().replace(b"_", b"-")
    if name == b"user-agent":
        return value.strip() == ORDERS
    return name in (b"forwarded", b"x-real-ip") or name.startswith((b"x-forwarded-", b"cakework-"))


def _upgrade(headers: Headers) -> bytes:
    connection = tokens([value for key, value in headers if key.lower() == b"connection"])
    if b"upgrade" not in connection:
        return b""
    return b", ".join(value for key, value in headers if key.lower() == b"upgrade")
