"""Real registries for tests, and images to put into them."""

import contextlib
import ctypes
import gzip
import hashlib
import io
import json
import secrets
import ssl
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.ports import reserved_port

DEADLINE_S = 60
USERNAME, PASSWORD = "AWS", f"correct horse {secrets.token_hex(8)}"
"""Nobody else's: other runs of these tests on this host show theirs to who looks for ours."""
SALT = b"$2b$04$abcdefghijklmnopqrstuu"
"""Says that a hash is to be bcrypt's: the one kind that docker-registry takes."""
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
Json = dict[str, Any]


@dataclass(frozen=True)
class Registry:
    """A registry that wants USERNAME and PASSWORD and shows a certificate signed by ``ca``."""

    address: str
    ca: Path

    def push(self, layout: Path, name: str) -> str:
        """Put all that an OCI layout has into the registry as ``name``; return its reference."""
        reference = f"{self.address}/{name}"
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=0"]
        command += [f"--dest-creds={USERNAME}:{PASSWORD}", f"oci:{layout}", f"docker://{reference}"]
        subprocess.run([*command, "--preserve-digests"], check=True)
        return reference


@contextlib.contextmanager
def serving(
    folder: Path, *, password: bool = True, token: Json | None = None
) -> Generator[Registry]:
    """Run a registry behind TLS and, unless told otherwise, a password, on a free loopback port.

    ``token`` is what it is told of a server that gives tokens for the password.
    """
    certificate, key = make_certificate(folder)
    (folder / "htpasswd").write_text(_htpasswd())
    htpasswd = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "auth": {"token": token} if token else htpasswd if password else {},
            "http": {
                "addr": address,
                "secret": "of the test",
                "tls": {"certificate": str(certificate), "key": str(key)},
            },
        }
        (folder / "config.json").write_text(json.dumps(config))
        command = ["docker-registry", "serve", str(folder / "config.json")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for(f"https://{address}/v2/", certificate)
                yield Registry(address, certificate)
            finally:
                process.terminate()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for the loopback interface that is its own authority; return it and its
    key. One that is there already is taken."""
    certificate, key = folder / "ca.pem", folder / "key.pem"
    if certificate.exists():
        return certificate, key
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=test", "-addext"]
    command += [
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@dataclass(frozen=True)
class Entry:
    """One entry of a layer; ``link`` is the name of the file it is a hard link to."""

    name: str
    content: bytes = b""
    link: str | None = None
    folder: bool = False
    symlink: str | None = None
    device: tuple[int, int] | None = None
    uid: int = 0
    mode: int = 0o644
    xattrs: tuple[tuple[str, str], ...] = ()


def tar_of(entries: Sequence[Entry]) -> bytes:
    """Return a layer, not compressed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.uid, info.gid, info.mode = entry.uid, entry.uid, entry.mode
            info.pax_headers = {f"SCHILY.xattr.{name}": text for name, text in entry.xattrs}
            if entry.folder:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif entry.link:
                info.type, info.linkname = tarfile.LNKTYPE, entry.link
            elif entry.symlink:
                info.type, info.linkname = tarfile.SYMTYPE, entry.symlink
            elif entry.device:
                info.type, (info.devmajor, info.devminor) = tarfile.CHRTYPE, entry.device
            else:
                info.size = len(entry.content)
            tar.addfile(info, io.BytesIO(entry.content))
    return stream.getvalue()


class Layout:
    """An OCI layout that images are added to, in Docker's words or in OCI's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes, media_type: str) -> Json:
        """Add bytes; return their descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self._blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def image(
        self,
        layers: Sequence[tuple[bytes, str]],
        arch: str = "amd64",
        entrypoint: Sequence[str] = ("/run",),
    ) -> Json:
        """Add an image of tars, each ``gzip``, ``zstd`` or ``none``; return its descriptor."""
        config = {
            "architecture": arch,
            "os": "linux",
            "config": {"Entrypoint": [*entrypoint], "Env": ["PATH=/bin"], "WorkingDir": "/srv"},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar, _ in layers],
            },
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.blob(json.dumps(config).encode(), f"{OCI}.config.v1+json"),
            "layers": [self.blob(_compressed(tar, how), _layer_type(how)) for tar, how in layers],
        }
        described = self.blob(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
        return {**described, "platform": {"os": "linux", "architecture": arch}}

    def index(self, *manifests: Json) -> Path:
        """Finish with one image, or an index of several; return the layout's folder."""
        if len(manifests) > 1:
            inner = {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.index.v1+json",
                "manifests": list(manifests),
            }
            manifests = (self.blob(json.dumps(inner).encode(), f"{OCI}.index.v1+json"),)
        index = {"schemaVersion": 2, "manifests": list(manifests)}
        (self.folder / "index.json").write_text(json.dumps(index))
        return self.folder


def _htpasswd() -> str:
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    return f"{USERNAME}:{crypt(PASSWORD.encode(), SALT).decode()}\n"


def _layer_type(how: str) -> str:
    return f"{OCI}.layer.v1.tar{f'+{how}' if how != 'none' else ''}"


def _compressed(tar: bytes, how: str) -> bytes:
    if how == "none":
        return tar
    if how == "gzip":
        return gzip.compress(tar, 1)
    return subprocess.run(["zstd", "-q", "-c"], input=tar, capture_output=True, check=True).stdout


def _wait_for(url: str, ca: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    context = ssl.create_default_context(cafile=str(ca))
    while True:
        try:
            with urllib.request.urlopen(url, context=context):
                return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
