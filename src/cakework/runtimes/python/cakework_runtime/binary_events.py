"""Events for functions that handle http alone: ``POST /``, CloudEvents' binary mode."""

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import quote

from cakework_functions.calling import RESULT_MAX_BYTES, BadAnswer, encoded_bytes
from cakework_functions.calling import ResultTooLarge as TooLarge
from cakework_runtime.failure import Failure
from cakework_runtime.http1 import Head, Pairs

RETRIED = (408, 429)


class HttpStatus(Failure):
    """The function answered with a status that is no success."""

    def __init__(self, status: int, body: bytes, after: str) -> None:
        text = body[:1000].decode("utf-8", "replace")
        super().__init__(f"Http{status}", text, status in RETRIED or status >= 500)
        if after.isdigit():
            self.retry_after = int(after)


class BinaryEvent:
    """One event as a request, and the answer to it, in memory."""

    def __init__(self, event: Any) -> None:
        self.gone = asyncio.Event()
        self.started = False
        self.head, self._body = _request(event)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._answer = bytearray()

    async def receive(self) -> bytes:
        """Return the data, then nothing."""
        body, self._body = self._body, b""
        return body

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the head of the answer."""
        self.started = True
        self._status = status
        self._headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in headers}

    async def send(self, part: bytes) -> None:
        """Take a part of the answer."""
        self._answer += part
        if len(self._answer) > RESULT_MAX_BYTES:
            raise TooLarge("the answer has more than 1 MiB")

    async def finish(self) -> None:
        """Take the end of the answer."""

    def result(self) -> bytes:
        """Return the result that the answer means, as JSON.

        Raises:
            HttpStatus: it means an error.
            BadAnswer: it says that it is JSON and is not.
        """
        body = bytes(self._answer)
        if not 200 <= self._status < 300:
            raise HttpStatus(self._status, body, self._headers.get("retry-after", ""))
        kind = self._headers.get("content-type", "application/octet-stream")
        if not body:
            return b'{"result":null}'
        if not kind.partition(";")[0].strip().endswith(("/json", "+json")):
            return encoded_bytes(body, kind)
        try:
            json.loads(body, parse_constant=_no_constant)
        except ValueError as error:
            raise BadAnswer(f"the answer is no JSON: {error}") from error
        return b'{"result":' + body.replace(b"\n", b" ").replace(b"\r", b" ") + b"}"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _request(event: Any) -> tuple[Head, bytes]:
    headers: Pairs = [(b"host", b"localhost")]
    told = cast("dict[str, Any]", event if isinstance(event, dict) else {"data": event})
    for name, value in told.items():
        if name not in ("data", "data_base64", "datacontenttype") and value is not None:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            text = quote(shown, safe=" !#$&'()*+,/:;=?@[]^_`{|}~-.<>")
            headers.append((f"ce-{name}".lower().encode("latin-1"), text.encode()))
    kind = str(told.get("datacontenttype") or "application/json")
    body = b""
    if "data_base64" in told:
        body = base64.b64decode(told["data_base64"])
    elif told.get("data") is not None:
        data: Any = told["data"]
        text_kind = isinstance(data, str) and not kind.endswith("json")
        body = data.encode() if text_kind else json.dumps(data).encode()
    headers += [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    return Head("POST", "/", "HTTP/1.1", headers), body
