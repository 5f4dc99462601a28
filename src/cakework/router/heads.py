"""The head of a request, read strictly.

Two programs that read the same bytes differently can be played against each other (request
smuggling). So whatever could be read in two ways is refused here, before h11, which is more
forgiving, sees it: bare line feeds, folded lines, more than one length, a length next to a
transfer coding, any coding but ``chunked``, headers that another program may take for these.
"""

import re
from dataclasses import dataclass

from cakework.router.refusals import Refusal, malformed

HEADERS_MAX = 128
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)(?!\Z)")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/(\d\.\d)")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(rb"([0-9A-Za-z._\-]{1,255}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"http://([^/?#]+)([/?][^#]*)?", re.IGNORECASE)

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A well-formed head. ``target`` is a path with query, or ``*``; ``host`` is lower case."""

    raw: bytes
    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    host: str

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of the headers called ``name`` (lower case), in order."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return bool(self.values(b"transfer-encoding"))

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.is_chunked or any(int(v) for v in self.values(b"content-length"))

    @property
    def may_persist(self) -> bool:
        """Whether the client takes another answer on the same connection."""
        return self.version == b"1.1" and b"close" not in tokens(self.values(b"connection"))

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split(b"?", 1)[0].decode("ascii")


class HeadScanner:
    """Finds where a head ends while its bytes come in, in any pieces."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Take ``data``; return the head and what follows it once the head is there.

        Raises:
            Refusal: 400 as soon as a bare CR or LF is seen, 431 when the head is too long.
        """
        seen = len(self._data)
        self._data += data
        if seen < 2 and self._data.startswith(b"\r\n"):
            del self._data[:2]
            seen = 0
        start = max(0, seen - 3)
        end = self._data.find(b"\r\n\r\n", start)
        stop = len(self._data) if end < 0 else end + 4
        if _BARE.search(self._data, start, stop):
            raise malformed("the head has a line that does not end in CR LF")
        if stop > self._bytes_max:
            raise Refusal(431, "headers_too_large", f"the head is over {self._bytes_max} bytes")
        if end < 0:
            return None
        return bytes(self._data[:stop]), bytes(self._data[stop:])


def parse_head(raw: bytes) -> RequestHead:
    """Return what ``raw``, a head up to and with its empty line, says.

    Raises:
        Refusal: the head is malformed, or could be read in two ways.
    """
    first, *lines = raw[:-4].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise malformed("the request line is malformed")
    method, target, version = line.groups()
    if version not in (b"1.0", b"1.1"):
        raise Refusal(505, "version_not_supported", "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method == b"CONNECT":
        raise Refusal(405, "method_not_allowed", "CONNECT is not for this router")
    headers = _parse_headers(lines)
    _refuse_doubtful_framing(headers, version)
    authority = _authority(headers)
    return RequestHead(
        raw=raw,
        method=method,
        target=_origin_form(method, target, authority),
        version=version,
        headers=headers,
        host=_host_name(authority),
    )


def tokens(values: list[bytes]) -> set[bytes]:
    """Return the comma-separated words of ``values``, in lower case."""
    words = b",".join(values).lower().split(b",")
    return {word.strip(b" \t") for word in words} - {b""}


def _parse_headers(lines: list[bytes]) -> Headers:
    if len(lines) > HEADERS_MAX:
        raise Refusal(431, "headers_too_large", f"there are over {HEADERS_MAX} headers")
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            raise malformed("a header is folded over lines")
        header = _HEADER.fullmatch(line)
        if header is None:
            raise malformed("a header is malformed")
        headers.append((header[1], header[2].rstrip(b" \t")))
    return tuple(headers)


def _refuse_doubtful_framing(headers: Headers, version: bytes) -> None:
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for key, value in headers:
        name = key.lower()
        if b"_" in name and name.replace(b"_", b"-") in (b"content-length", b"transfer-encoding"):
            raise malformed("a header can be mistaken for one that frames the body")
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
    if len(lengths) + len(codings) > 1:
        raise malformed("the length of the body is given more than once")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise malformed("Content-Length is not a number")
    if codings and (codings[0].lower() != b"chunked" or version == b"1.0"):
        raise malformed("Transfer-Encoding is not simply chunked")


def _authority(headers: Headers) -> bytes:
    values = [value for key, value in headers if key.lower() == b"host"]
    if len(values) != 1 or not _HOST.fullmatch(values[0]):
        raise malformed("there must be one Host header, with a name in it")
    return values[0]


def _origin_form(method: bytes, target: bytes, authority: bytes) -> bytes:
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise malformed("the request target is malformed")
    if absolute[1].lower() != authority.lower():
        raise malformed("the request target and the Host header name different hosts")
    rest = absolute[2] or b"/"
    return rest if rest.startswith(b"/") else b"/" + rest


def _host_name(authority: bytes) -> str:
    host = _HOST.fullmatch(authority)
    name = host[1] if host else b""
    return name.decode("ascii").lower().rstrip(".")
