"""Code that comes as an archive: tar, as it is or compressed by gzip.

An archive is a stranger's. It is read once, as a stream, with a bound on what comes out of it, on
its files and on what is looked at; nothing of it is written anywhere. What it has beside plain
files and folders is refused, links above all: what they lead to would be another's, or nobody's.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, ClassVar, Self, cast

from cakework.domain.errors import InvalidRequest, TooLarge
from cakework.server.functions.sources import FILES_MAX

UNPACKED_BYTES_MAX = 512 << 20
"""Of an archive, with all that is passed over in it."""
KEPT_BYTES_MAX = 20 << 20
"""Of the files that are code: as much as a runtime's adapter takes at once."""
MEMBERS_MAX = 100_000
LEFT_OUT = frozenset({".git", "node_modules", "__pycache__", ".venv"})
"""Folders that are no code of the sender's: dependencies are installed here."""
_READ_BYTES = 64 << 10
_TOLD_BYTES_MAX = 64 << 10
_TOLD_IN_ALL_BYTES_MAX = 16 << 20
_TOLD_AT_ONCE_MAX = 8
"""What comes before one entry: its name, its attributes, those of all that follow."""
_TOLD_BEFORE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_GZIP = b"\x1f\x8b"
_WHAT = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def files_of(archive: bytes, folder: str = "", *, links: bool = False) -> list[tuple[str, bytes]]:
    """Return the files of an archive, below ``folder``: path and content. Blocks.

    With ``links``, symbolic links are passed over, for archives that nobody made on purpose.

    Raises:
        InvalidRequest: it is no archive, or has what code must not have.
        TooLarge: more comes out of it than is taken.
    """
    try:
        return list(_files(cast("IO[bytes]", _Bounded(archive)), folder, links=links))
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OSError) as error:
        # Tar's own faults, and what broken numbers in a header become.
        why = "The archive cannot be read: it is no tar.gz, or is cut off."
        raise InvalidRequest(why) from error


def _files(stream: IO[bytes], folder: str, *, links: bool) -> Iterator[tuple[str, bytes]]:
    below = PurePosixPath(folder).parts
    count = kept = 0
    members = _members()
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_READ_BYTES, tarinfo=members) as archive:
        number = 0
        while (member := archive.next()) is not None:
            # What it has seen it would keep otherwise, to be looked up again; and give each entry
            # the attributes that are for all.
            for seen in ("members", "pax_headers"):
                vars(archive)[seen].clear()
            number += 1
            if number > MEMBERS_MAX:
                raise TooLarge(f"The archive has more than {MEMBERS_MAX} entries.")
            path = _plain(member.name)
            if member.isdir() or LEFT_OUT & set(PurePosixPath(path).parts):
                continue
            parts = PurePosixPath(path).parts
            if parts[: len(below)] != below or len(parts) == len(below):
                continue
            if member.issym() and links:
                continue
            if not member.isreg():
                what = _WHAT.get(member.type, "of no kind that is taken")
                raise InvalidRequest(
                    f"The archive's {_shown(path)} is {what}; files alone are taken."
                )
            count, kept = count + 1, kept + member.size
            if count > FILES_MAX:
                raise InvalidRequest(f"The archive has more than {FILES_MAX} files.")
            if kept > KEPT_BYTES_MAX:
                raise TooLarge(
                    f"The archive's files are larger than {KEPT_BYTES_MAX >> 20} MiB; leave out "
                    "what can be installed as a dependency."
                )
            content = archive.extractfile(member)
            read = content.read() if content is not None else b""
            if len(read) != member.size:
                raise InvalidRequest("The archive is cut off.")
            yield "/".join(parts[len(below) :]), read


class _Member(tarfile.TarInfo):
    """A member whose name and attributes, which come whole into memory, are bounded; none is
    sparse: what is told of holes has no bound of its own."""

    told: ClassVar[int]
    told_bytes: ClassVar[int]

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the member that a header tells of."""
        made = super().frombuf(buf, encoding, errors)
        if made.size < 0 or made.type == tarfile.GNUTYPE_SPARSE:
            raise _sparse()
        cls.told = cls.told + 1 if made.type in _TOLD_BEFORE else 0
        if cls.told:
            cls.told_bytes += made.size
            too_long = made.size > _TOLD_BYTES_MAX or cls.told > _TOLD_AT_ONCE_MAX
            if too_long or cls.told_bytes > _TOLD_IN_ALL_BYTES_MAX:
                raise InvalidRequest("The archive has a name or attributes that are too long.")
        return made

    def _proc_gnusparse_00(self, *_: object) -> None:
        raise _sparse()

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


def _members() -> type[_Member]:
    """Return what the members of one archive are, which counts them."""
    return type("Member", (_Member,), {"told": 0, "told_bytes": 0})


def _sparse() -> InvalidRequest:
    return InvalidRequest("The archive has a file with holes, or of no size; pack it without.")


class _Bounded(io.RawIOBase):
    """What comes out of an archive, as a stream that ends where too much does."""

    def __init__(self, archive: bytes) -> None:
        self._rest = memoryview(archive)
        packed = archive.startswith(_GZIP)
        self._gzip = zlib.decompressobj(wbits=31) if packed else None
        self._given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = _READ_BYTES if size < 0 else size
        made = self._next(wanted)
        self._given += len(made)
        if self._given > UNPACKED_BYTES_MAX:
            raise TooLarge(f"More than {UNPACKED_BYTES_MAX >> 20} MiB come out of the archive.")
        return made

    def _next(self, size: int) -> bytes:
        if self._gzip is None:
            made, self._rest = bytes(self._rest[:size]), self._rest[size:]
            return made
        while not self._gzip.eof:
            given = self._gzip.unconsumed_tail
            if not given:
                given, self._rest = bytes(self._rest[:_READ_BYTES]), self._rest[_READ_BYTES:]
                if not given:
                    raise EOFError("cut off")
            if made := self._gzip.decompress(given, size):
                return made
        return b""


def _plain(name: str) -> str:
    """Return a member's name without the dots that tar puts before names.

    What is wrong with it beyond that is found where all names are checked: nothing is opened by it.
    """
    if "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise InvalidRequest(
            f"The archive's name {_shown(name)} leads out of it; names are relative, without `..`."
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The archive's name {_shown(name)} is not UTF-8.") from error
    return str(PurePosixPath(name))


def _shown(name: str) -> str:
    return repr(name[:200].encode(errors="replace").decode())
