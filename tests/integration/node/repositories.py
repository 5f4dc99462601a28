"""A real git server for tests: git's own ``http-backend`` behind TLS and a token."""

import base64
import contextlib
import http.server
import os
import secrets
import ssl
import subprocess
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.node.registries import make_certificate

TOKEN = f"ghp_0123456789abcdefTEST{secrets.token_hex(8)}"
"""Nobody else's: other runs of these tests on this host have their own."""
NO_RIGHT = "ghp_a_token_with_no_right_here"
"""A token that is valid and may read nothing that is private."""
PUBLIC = "team/public"
GIT_ENV = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.com",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.com",
}
BACKEND = "/usr/lib/git-core/git-http-backend"
Content = bytes | str


@dataclass(frozen=True)
class Link:
    """A symbolic link in a repository."""

    target: str


@dataclass(frozen=True)
class Submodule:
    """A submodule in a repository, at a commit that nobody has."""

    commit: str = "1" * 40


@dataclass
class GitServer:
    """Serves the repositories below ``folder`` as a git host does.

    PUBLIC may be read by anybody, all others with TOKEN. While ``may_answer`` is not set,
    packs wait. ``requests`` lists what was asked for: path, and whether a token came with it.
    """

    folder: Path
    ca: Path
    address: str = ""
    may_answer: threading.Event = field(default_factory=threading.Event)
    asked_for_pack: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    redirects: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    def make(
        self,
        name: str,
        files: Mapping[str, Content | Link | Submodule] | None,
        branch: str = "main",
    ) -> str:
        """Make repository ``name``, or add a commit that is ``files`` alone; return its commit.

        ``None`` for files leaves it without a commit. Those that begin with ``#!`` can be run.
        """
        bare = self.folder / f"{name}.git"
        if not bare.exists():
            git("init", "--quiet", "--bare", str(bare))
        if files is None:
            return ""
        stream = f"commit refs/heads/{branch}\ncommitter test <test@example.com> 0 +0000\n"
        stream += "data 1\nx\ndeleteall\n"
        content = stream.encode() + b"".join(map(_entry, files, files.values())) + b"\n"
        git("-C", str(bare), "fast-import", "--quiet", "--force", stdin=content)
        return git("-C", str(bare), "rev-parse", f"refs/heads/{branch}").strip()

    def allows(self, path: str, token: str) -> int:
        """Return the HTTP status that a request for ``path`` gets: 200 if it is served."""
        name = "/".join(path.strip("/").split("/")[:2]).removesuffix(".git")
        if token not in ("", TOKEN, NO_RIGHT):
            return 401
        if name == PUBLIC:
            return 200
        if not token:
            return 401
        if not (self.folder / f"{name}.git").exists():
            return 404
        return 200 if token == TOKEN else 403


def git(*words: str, stdin: bytes = b"") -> str:
    """Run git; return its stdout."""
    done = subprocess.run(
        ["git", *words], input=stdin, env=os.environ | GIT_ENV, check=True, capture_output=True
    )
    return done.stdout.decode()


@contextlib.contextmanager
def serving(folder: Path) -> Generator[GitServer]:
    """Run a git server on a free port of the loopback interface."""
    certificate, key = make_certificate(folder)
    server = GitServer(folder / "repositories", certificate)
    server.may_answer.set()
    (folder / "repositories").mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(_Handler):
        git_server = server

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        listener.socket = context.wrap_socket(
            listener.socket, server_side=True, do_handshake_on_connect=False
        )
        server.address = f"127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.may_answer.set()
            listener.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    git_server: GitServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def handle(self) -> None:
        # Who goes away, or does not trust us, is part of the tests.
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _serve(self, body: bytes) -> None:
        server, token = self.git_server, self._token()
        path, _, query = self.path.partition("?")
        server.requests.append((path, bool(token)))
        for name, target in server.redirects.items():
            if path.startswith(f"/{name}.git"):
                self._answer(302, {"Location": target + self.path.removeprefix(f"/{name}.git")})
                return
        status = server.allows(path, token)
        if status == 200:
            self._run(path, query, body)
        else:
            self._answer(status, {"WWW-Authenticate": 'Basic realm="git"'} if status == 401 else {})

    def _token(self) -> str:
        kind, _, pair = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(pair).decode().partition(":")[2] if kind == "Basic" else ""

    def _run(self, path: str, query: str, body: bytes) -> None:
        if b"command=fetch" in body:
            self.git_server.asked_for_pack.set()
            self.git_server.may_answer.wait(60)
        environment = os.environ | {
            "GIT_PROJECT_ROOT": str(self.git_server.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "test",
            **GIT_ENV,
        }
        done = subprocess.run([BACKEND], input=body, env=environment, capture_output=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(status, headers, answer)

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _entry(path: str, content: Content | Link | Submodule) -> bytes:
    """Return one file in the words of git-fast-import(1)."""
    if isinstance(content, Submodule):
        return f"M 160000 {content.commit} {path}\n".encode()
    mode = "100644"
    if isinstance(content, Link):
        mode, raw = "120000", content.target.encode()
    else:
        raw = content.encode() if isinstance(content, str) else content
        mode = "100755" if raw.startswith(b"#!") else mode
    return f"M {mode} inline {path}\ndata {len(raw)}\n".encode() + raw + b"\n"
