"""What the router answers by itself: problem+json, as the API's contract has it."""

import json
from dataclasses import dataclass
from http import HTTPStatus

Lines = tuple[str, ...]
"""Headers of an answer, each a line without its end."""
_TRY_AGAIN = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


class Refusal(Exception):
    """The router answers itself instead of the VM: status, stable code, sentence for people; and
    more ``headers``."""

    def __init__(
        self, status: int, code: str, detail: str, retry_after_s: int = 1, headers: Lines = ()
    ) -> None:
        super().__init__(detail)
        self.headers = headers
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How an answer of the router's own goes out: with a body or (HEAD) without, and what next."""

    request_id: str
    with_body: bool = True
    keep_alive: bool = False


def malformed(detail: str) -> Refusal:
    """Refuse a request whose bytes leave doubt about what was asked, or where it ends."""
    return Refusal(400, "invalid_request", detail)


def render(refusal: Refusal, form: AnswerForm) -> bytes:
    """Return the whole HTTP/1.1 answer of ``refusal``."""
    title = HTTPStatus(refusal.status).phrase
    problem = {
        "type": f"urn:cakework:problem:{refusal.code}",
        "title": title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
        "requestId": form.request_id,
    }
    body = json.dumps(problem).encode()
    lines = [
        f"HTTP/1.1 {refusal.status} {title}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        f"X-Request-Id: {form.request_id}",
    ]
    lines += refusal.headers
    if refusal.status in _TRY_AGAIN:
        lines.append(f"Retry-After: {refusal.retry_after_s}")
    if not form.keep_alive:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head + body if form.with_body else head
