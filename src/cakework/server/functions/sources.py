"""Code as it was sent: checked, packed, and kept once for an account, by the digest of it.

sealed = AES-256-GCM of zlib of JSON [{"path": "main.py", "content": "<base64>"}, …], by path
"""

import base64
import hashlib
import json
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.contexts import PathError, checked_path, collisions
from cakework.domain.errors import InvalidRequest, QuotaExceeded, TooLarge
from cakework.domain.functions import VersionState
from cakework.domain.ids import AccountId
from cakework.server.clock import Clock
from cakework.server.store.accounts import lock_account
from cakework.server.store.function_models import (
    DraftRow,
    FunctionRow,
    SourceRow,
    TrialRow,
    VersionRow,
)
from cakework.server.store.sealing import Sealer

FILES_MAX = 1_000
BYTES_MAX = 10 << 20
RETRY_AFTER_S = 300
LEAST_BYTES = 4_096
"""What code takes however little it is: a row, and indexes."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files by path, ``digest`` (``sha256:<hex>``) of paths and contents."""

    files: Mapping[str, bytes]
    digest: str

    @property
    def bytes(self) -> int:
        """What is in the files, and in their paths, in bytes; at least ``LEAST_BYTES``."""
        names = sum(len(path.encode()) for path in self.files)
        return max(LEAST_BYTES, names + sum(map(len, self.files.values())))


def source_of(files: Iterable[tuple[str, bytes]], bytes_max: int = BYTES_MAX) -> Source:
    """Return the source that has ``files``: path and content.

    Raises:
        InvalidRequest: it has none, or too many, or two of one name.
        TooLarge: they are larger than ``bytes_max``.
    """
    listed = list(files)
    if not listed:
        raise InvalidRequest("The source has no files.")
    if len(listed) > FILES_MAX:
        raise InvalidRequest(f"The source has {len(listed)} files, and {FILES_MAX} are allowed.")
    _check_paths([path for path, _ in listed])
    whole = dict(sorted(listed))
    size = sum(map(len, whole.values()))
    if size > bytes_max:
        raise TooLarge(
            f"The source has {size >> 20} MiB of files, and {bytes_max >> 20} MiB are allowed; "
            "leave out what can be installed as a dependency."
        )
    return Source(whole, digest_of(whole))


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return what tells files from others: SHA-256 over paths and contents, in order of paths."""
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        name = path.encode()
        digest.update(b"%d %d\n" % (len(name), len(content)) + name + content)
    return f"sha256:{digest.hexdigest()}"


def pack(source: Source) -> bytes:
    """Return the files of ``source`` as they are kept. Blocks for some 100 ms if they are large."""
    return zlib.compress(as_json(source), 6)


def as_json(source: Source) -> bytes:
    """Return the files of ``source`` as a runtime's adapter takes them."""
    return json.dumps(
        [
            {"path": path, "content": base64.b64encode(content).decode()}
            for path, content in source.files.items()
        ]
    ).encode()


def unpack(packed: bytes) -> Source:
    """Return what was packed. Blocks likewise."""
    listed = json.loads(zlib.decompress(packed))
    files = {each["path"]: base64.b64decode(each["content"]) for each in listed}
    return Source(files, digest_of(files))


class Sources:
    """The sources of accounts, in the store."""

    def __init__(self, sealer: Sealer, clock: Clock, mb_max: int = 2048) -> None:
        """Keep at most ``mb_max`` MiB of files for one account."""
        self._sealer = sealer
        self.bytes_max = mb_max << 20
        self._clock = clock

    def seal(self, account: AccountId, source: Source) -> bytes:
        """Return ``source`` as it is kept. Blocks."""
        return self._sealer.seal(pack(source), _belongs(account, source.digest))

    async def keep(
        self, session: AsyncSession, account: AccountId, source: Source, sealed: bytes
    ) -> None:
        """Keep a source that was sealed, if it is not kept already.

        Raises:
            QuotaExceeded: the account has as much code as it may.
        """
        await lock_account(session, account)
        now = self._clock()
        key = (SourceRow.account_id == account) & (SourceRow.digest == source.digest)
        found = await session.execute(
            update(SourceRow).where(key).values(used_ms=now).returning(SourceRow.digest)
        )
        if found.first() is None:
            if await self.bytes_of(session, account) + source.bytes > self.bytes_max:
                raise QuotaExceeded(
                    f"The account has as much code as it may, {self.bytes_max >> 20} MiB with that "
                    "of former versions and drafts: delete functions, or try again in some "
                    "minutes, when old versions were retired.",
                    retry_after_s=RETRY_AFTER_S,
                )
            session.add(
                SourceRow(
                    account_id=account,
                    digest=source.digest,
                    sealed=sealed,
                    bytes=source.bytes,
                    used_ms=now,
                )
            )
            await session.flush()

    async def bytes_of(self, session: AsyncSession, account: AccountId) -> int:
        """Return how much code is kept for an account, in bytes before they are packed."""
        query = select(func.coalesce(func.sum(SourceRow.bytes), 0))
        return int(await session.scalar(query.where(SourceRow.account_id == account)) or 0)

    async def sealed(self, session: AsyncSession, account: AccountId, digest: str) -> bytes | None:
        """Return a source as it is kept; None when it is not."""
        return await session.scalar(
            select(SourceRow.sealed).where(
                SourceRow.account_id == account, SourceRow.digest == digest
            )
        )

    def open(self, account: AccountId, digest: str, sealed: bytes) -> Source:
        """Return what was sealed. Blocks."""
        return unpack(self._sealer.unseal(sealed, _belongs(account, digest)))

    async def forget_unused(self, session: AsyncSession, before_ms: int) -> int:
        """Remove what no version, draft or trial has, unless it came after ``before_ms``."""
        wanted = (
            select(VersionRow.source_digest)
            .join(FunctionRow, FunctionRow.id == VersionRow.function_id)
            .where(
                FunctionRow.account_id == SourceRow.account_id,
                VersionRow.source_digest == SourceRow.digest,
                VersionRow.state != VersionState.RETIRED,
            )
        )
        drafted = (
            select(DraftRow.source_digest)
            .join(FunctionRow, FunctionRow.id == DraftRow.function_id)
            .where(
                FunctionRow.account_id == SourceRow.account_id,
                DraftRow.source_digest == SourceRow.digest,
            )
        )
        tried = select(TrialRow.id).where(
            TrialRow.account_id == SourceRow.account_id,
            TrialRow.source_digest == SourceRow.digest,
        )
        gone = await session.execute(
            delete(SourceRow)
            .where(
                SourceRow.used_ms < before_ms,
                ~wanted.exists(),
                ~drafted.exists(),
                ~tried.exists(),
            )
            .returning(SourceRow.digest)
        )
        return len(gone.all())


def _check_paths(paths: list[str]) -> None:
    for path in paths:
        try:
            checked_path(path)
        except PathError as error:
            raise InvalidRequest(f"The file {path[:200]!r} {error}.") from error
    for _, fault in collisions(paths):
        raise InvalidRequest(f"The source cannot be taken: {fault[:500]}.")
    folded: dict[str, str] = {}
    for path in paths:
        other = folded.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if other != path:
            raise InvalidRequest(
                f"The source cannot be taken: {other[:200]!r} and {path[:200]!r} are one file "
                "where upper and lower case are alike."
            )


def _belongs(account: AccountId, digest: str) -> str:
    return f"source:{account}:{digest}"
