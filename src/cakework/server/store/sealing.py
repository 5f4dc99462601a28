"""What is kept secret on disk: sealed with a key that lies beside the store, not in it.

AES-256-GCM; each thing sealed gets a nonce of its own and is bound to what it belongs to, so
that it opens nowhere else:

    sealed = version (1 byte: 1) ‖ nonce (12 bytes) ‖ ciphertext and tag

The key is the file ``secret.key`` (32 bytes, mode 0600), made at first start. Without it what
was sealed cannot be read again, so it belongs in backups, apart from the store's.

What need only be known again, and not read, is kept as a mark: HMAC-SHA256 with a key of its
own, derived from that one (HKDF), so that nobody who has the store alone can try guesses. What
has to come out the same when a request is carried out again is drawn in the same way.
"""

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cakework.domain.errors import CakeworkError

KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_BYTES = 1 + NONCE_BYTES + 16
"""By so many more bytes is what was sealed than the secret in it."""
VERSION = b"\x01"
MARKS = b"cakework: marks"
DRAWS = b"cakework: draws"


class Sealer:
    """Seals and opens with the key in one file. ``open_key()`` before use."""

    def __init__(self, key_file: Path) -> None:
        """Prepare to use the key in ``key_file``; nothing is read yet."""
        self._key_file = key_file
        self._cipher: AESGCM | None = None
        self._marking_key = b""
        self._drawing_key = b""

    def open_key(self) -> None:
        """Read the key, making one if there is none.

        Raises:
            CakeworkError: the file holds no key.
        """
        if not self._key_file.exists():
            _make_key(self._key_file)
        key = self._key_file.read_bytes()
        if len(key) != KEY_BYTES:
            raise CakeworkError(f"{self._key_file} is not a key of {KEY_BYTES} bytes.")
        self._cipher = AESGCM(key)
        self._marking_key = HKDF(SHA256(), KEY_BYTES, salt=None, info=MARKS).derive(key)
        self._drawing_key = HKDF(SHA256(), KEY_BYTES, salt=None, info=DRAWS).derive(key)

    def seal(self, secret: bytes, belongs_to: str) -> bytes:
        """Return ``secret`` so that only ``unseal`` with the same ``belongs_to`` gives it back."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return VERSION + nonce + self._open_cipher.encrypt(nonce, secret, belongs_to.encode())

    def unseal(self, sealed: bytes, belongs_to: str) -> bytes:
        """Return what was sealed.

        Raises:
            CakeworkError: it was sealed with another key, for something else, or was changed.
        """
        head, nonce = sealed[:1], sealed[1 : 1 + NONCE_BYTES]
        try:
            if head != VERSION:
                raise InvalidTag
            return self._open_cipher.decrypt(nonce, sealed[1 + NONCE_BYTES :], belongs_to.encode())
        except (InvalidTag, ValueError) as error:
            raise CakeworkError(
                f"What was sealed for {belongs_to} does not open with {self._key_file}."
            ) from error

    def mark(self, secret: bytes, belongs_to: str) -> bytes:
        """Return 32 bytes by which ``secret`` is known again, with the same ``belongs_to``."""
        if not self._marking_key:
            raise CakeworkError("The key was not opened.")
        return hmac.digest(self._marking_key, belongs_to.encode() + b"\0" + secret, "sha256")

    def draw(self, name: str) -> bytes:
        """Return 32 bytes that cannot be guessed, the same ones whenever ``name`` is."""
        if not self._drawing_key:
            raise CakeworkError("The key was not opened.")
        return hmac.digest(self._drawing_key, name.encode(), "sha256")

    @property
    def _open_cipher(self) -> AESGCM:
        if self._cipher is None:
            raise CakeworkError("The key was not opened.")
        return self._cipher


def _make_key(path: Path) -> None:
    """Make a key, whole or not at all; of two who make one at once, the first one's stays."""
    making = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(making, path)
    finally:
        making.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
