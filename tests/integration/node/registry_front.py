"""A server that stands before a registry and does, in its place, what a test says."""

import base64
import contextlib
import http.client
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from tests.integration.node.registries import PASSWORD, USERNAME, Json, Registry

BASIC = f"Basic {base64.b64encode(f'{USERNAME}:{PASSWORD}'.encode()).decode()}"
ISSUER, SERVICE = "the tests", "registry of the tests"


@dataclass(frozen=True)
class Reply:
    """An answer; ``headers`` of a registry's own."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Front:
    """Listens at ``address``, and passes requests on to ``registry`` unless ``rule`` says True:
    it has answered. ``asked`` has every request's path and Authorization."""

    registry: Registry
    address: str = ""
    rule: "Rule | None" = None
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    over: threading.Event = field(default_factory=threading.Event)

    def named(self, reference: str) -> str:
        """Return the name under which an image of the registry is had through this front."""
        return f"{self.address}/{reference.partition('/')[2]}"

    def fetch(self, handler: BaseHTTPRequestHandler) -> Reply:
        """Return what the registry answers to a request."""
        context = ssl.create_default_context(cafile=str(self.registry.ca))
        connection = http.client.HTTPSConnection(self.registry.address, context=context)
        try:
            connection.putrequest(handler.command, handler.path, skip_accept_encoding=True)
            for name, value in handler.headers.items():
                if name.lower() != "host":
                    connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            headers = {n: v for n, v in answer.getheaders() if n.lower() != "connection"}
            return Reply(answer.status, headers, answer.read())
        finally:
            connection.close()


Rule = Callable[[Front, BaseHTTPRequestHandler], bool]


@contextlib.contextmanager
def standing_before(registry: Registry) -> Generator[Front]:
    """Run a front of ``registry``, with its certificate, on a free port."""
    front = Front(registry)

    class Handler(_Silent):
        def do_GET(self) -> None:
            front.asked.append((self.path, self.headers["Authorization"]))
            if front.rule is None or not front.rule(front, self):
                send(self, front.fetch(self))

        def do_HEAD(self) -> None:
            self.do_GET()

    with _serving(registry.ca, Handler) as front.address:
        try:
            yield front
        finally:
            front.over.set()


def send(handler: BaseHTTPRequestHandler, reply: Reply, *, most: int | None = None) -> None:
    """Answer with ``reply``, or with the first ``most`` bytes of its body."""
    handler.send_response(reply.status)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(reply.body[:most])
        handler.wfile.flush()


@contextlib.contextmanager
def giving_tokens(certificate: Path) -> Generator[tuple[Json, list[dict[str, str]]]]:
    """Run a server that gives tokens for USERNAME and PASSWORD, as registries have them:
    https://distribution.github.io/distribution/spec/auth/jwt/

    Give what a registry is to be told of it, and a list of the questions that it was asked.
    """
    asked: list[dict[str, str]] = []

    class Handler(_Silent):
        def do_GET(self) -> None:
            query = {name: each[0] for name, each in parse_qs(urlsplit(self.path).query).items()}
            authorization = self.headers["Authorization"]
            asked.append({**query, "path": urlsplit(self.path).path})
            status, body = 401, {"details": "incorrect username or password"}
            if authorization == BASIC:
                status, body = 200, {"token": _token(certificate, query.get("scope", ""))}
            send(self, Reply(status, {}, json.dumps(body).encode()))

    with _serving(certificate, Handler) as address:
        told = {"realm": f"https://{address}/token", "service": SERVICE, "issuer": ISSUER}
        yield {**told, "rootcertbundle": str(certificate)}, asked


@contextlib.contextmanager
def _serving(certificate: Path, handler: type[BaseHTTPRequestHandler]) -> Generator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with _Server(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Silent(BaseHTTPRequestHandler):
    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients go away, and are sent half of what they asked for."""


def _token(certificate: Path, scope: str) -> str:
    now = int(time.time())
    shown = load_pem_x509_certificate(certificate.read_bytes()).public_bytes(Encoding.DER)
    access: list[Json] = []
    if scope:
        kind, name, actions = scope.split(":")
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
    claims: Json = {"iss": ISSUER, "sub": USERNAME, "aud": SERVICE, "jti": secrets.token_hex(8)}
    claims |= {"iat": now - 5, "nbf": now - 5, "exp": now + 300, "access": access}
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(shown).decode()]}
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
    key = load_pem_private_key(certificate.with_name("key.pem").read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    halves = decode_dss_signature(key.sign(signed.encode(), ECDSA(SHA256())))
    return f"{signed}.{_encoded(b''.join(half.to_bytes(32, 'big') for half in halves))}"


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")
