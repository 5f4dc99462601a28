"""Functions: made, found, changed, deployed, promoted, removed.

A deploy records a version and answers; the deploy loop sees it through. What is live changes in one
update, and only to a version that is ready.
"""

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
)
from cakework.domain.functions import (
    TRANSFORM_FIELDS,
    FunctionKind,
    FunctionSettings,
    Runtime,
    VersionState,
    settings_for,
)
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    AccountId,
    BuildId,
    FunctionId,
    UserId,
    new_function_id,
    new_host_label,
)
from cakework.domain.invocations import STARTABLE, InvocationState, Reason
from cakework.server.clock import Clock
from cakework.server.functions.layers import Layers, layer_row
from cakework.server.functions.sources import Source, Sources
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    FunctionRow,
    InvocationRow,
    LayerState,
    SecretRow,
    VersionRow,
)
from cakework.server.store.pages import Place, cut, newest_first
from cakework.server.store.sealing import Sealer
from cakework.server.store.values import not_before

PER_ACCOUNT = 1_000
BUILDING_MAX = 50
"""Versions of an account that are being made."""
RETRY_AFTER_S = 10
SETTINGS_BYTES_MAX = 16 << 20
"""Of settings that need not be read again, as they are on record."""
_Kept = tuple[str, bytes | None]
ENTRIES = {Runtime.NODE_24: ("main.ts", "main.mjs", "main.js", "index.ts", "index.mjs", "index.js")}
PYTHON_ENTRIES = ("main.py", "app.py", "handler.py")


@dataclass(frozen=True, slots=True)
class NewFunction:
    """What is asked for when a function is made."""

    name: str
    runtime: Runtime
    user_id: UserId = ACCOUNT_ITSELF
    kind: FunctionKind = FunctionKind.FUNCTION
    settings: FunctionSettings = field(default_factory=FunctionSettings)


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What is asked for when a version is deployed."""

    source: Source
    entry: str | None = None
    signature: str | None = None
    message: str | None = None
    promote: bool = True
    created_by: str | None = None
    fresh: str | None = None
    """A day, for dependencies that are not locked."""


@dataclass(frozen=True, slots=True)
class FunctionFilter:
    """Which functions to list; None takes all."""

    user_id: UserId | None = None
    name: str | None = None
    kind: FunctionKind | None = None


class Functions:
    """The functions of accounts, and their versions."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        sources: Sources,
        layers: Layers,
        base_domain: str,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database``; ``hint`` says that there is a version to be made."""
        self._database = database
        self._sealer = sealer
        self._sources = sources
        self._layers = layers
        self._base_domain = base_domain
        self._clock = clock
        self._hint = hint
        self._reading = threading.Lock()
        self._read: OrderedDict[str, tuple[_Kept, FunctionSettings]] = OrderedDict()
        """Settings as they were read, by what is on record of them."""
        self._read_bytes = 0
        self.changed: Callable[[str], None] = lambda _: None
        """Told which function has other settings, another live version, or is gone, before whoever
        asked for that is answered."""

    async def create(
        self, account: AccountId, new: NewFunction, token: str | None = None
    ) -> FunctionRow:
        """Make a function, without a version.

        Raises:
            Conflict: its owner has one of that name.
            QuotaExceeded: the account has as many as it may.
            InvalidRequest: settings are not for its kind.
        """
        _check_kind(new.kind, new.settings)
        function_id, now = new_function_id(), self._clock()
        settings = settings_for(new.kind, new.settings)
        async with self._database.writing() as session:
            if token is not None and (made := await _made_by(session, token)) is not None:
                return made
            await lock_account(session, account)
            await self._check_new(session, account, new)
            await _check_handler(session, account, new.user_id, new.settings)
            row = FunctionRow(
                id=function_id,
                account_id=account,
                user_id=new.user_id,
                name=new.name,
                kind=new.kind,
                runtime=new.runtime,
                hostname=f"{new_host_label()}.{self._base_domain}",
                settings=_told(settings),
                min_instances=settings.min_instances,
                env_sealed=self._sealed(function_id, settings),
                last_version=0,
                asked_seq=0,
                live_seq=0,
                request_token=token,
                created_ms=now,
                updated_ms=now,
            )
            session.add(row)
        return row

    async def create_deployed(
        self, account: AccountId, new: NewFunction, version: NewVersion, token: str | None = None
    ) -> tuple[FunctionRow, VersionRow]:
        """Make a function with its first version; neither, if that cannot be recorded.

        Raises what :meth:`create` and :meth:`deploy` do.
        """
        entry_of(version.source, new.runtime, version.entry)
        await asyncio.to_thread(self._layers.of, new.runtime, version.source, version.fresh)
        row = await self.create(account, new, token)
        try:
            made = await self.deploy(account, FunctionId(row.id), version, token)
        except CakeworkError:
            await self.delete(account, FunctionId(row.id))
            raise
        return row, made

    async def get(self, account: AccountId, function_id: FunctionId) -> FunctionRow:
        """Return a function of the account. Raises NotFound."""
        async with self._database.reading() as session:
            return await owned(session, account, function_id)

    async def page(
        self, account: AccountId, wanted: FunctionFilter, after: Place | None
    ) -> tuple[list[FunctionRow], Place | None]:
        """Return up to 100 functions, newest first, and the place where the next page goes on."""
        query = select(FunctionRow).where(FunctionRow.account_id == account)
        if wanted.user_id is not None:
            query = query.where(FunctionRow.user_id == wanted.user_id)
        if wanted.name is not None:
            query = query.where(FunctionRow.name == wanted.name)
        if wanted.kind is not None:
            query = query.where(FunctionRow.kind == wanted.kind)
        query = newest_first(query, FunctionRow.created_ms, FunctionRow.id, after)
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        return cut(rows, lambda row: Place(row.created_ms, row.id))

    async def change(
        self, account: AccountId, function_id: FunctionId, patch: FunctionSettings
    ) -> FunctionRow:
        """Change those settings that ``patch`` was given. Raises NotFound, InvalidRequest."""
        async with self._database.writing() as session:
            row = await owned(session, account, function_id)
            _check_kind(FunctionKind(row.kind), patch)
            try:
                changed = self.settings(row).changed(patch)
            except ValueError as error:
                raise InvalidRequest(f"The settings do not fit each other: {error}") from error
            if "on_failure" in patch.model_fields_set:
                await _check_handler(session, account, row.user_id, changed)
            row.settings, row.min_instances = _told(changed), changed.min_instances
            row.env_sealed = self._sealed(function_id, changed)
            row.updated_ms = max(row.updated_ms, self._clock())
        self.changed(function_id)
        self._hint()
        return row

    def settings(self, row: FunctionRow) -> FunctionSettings:
        """Return the settings of a function, with its variables; from any thread."""
        key = (row.settings, row.env_sealed)
        with self._reading:
            known = self._read.get(row.id)
            if known is not None and known[0] == key:
                self._read.move_to_end(row.id)
                return known[1]
        settings = self._opened(row)
        with self._reading:
            if (before := self._read.pop(row.id, None)) is not None:
                self._read_bytes -= _size(before[0])
            self._read[row.id] = key, settings
            self._read_bytes += _size(key)
            while self._read_bytes > SETTINGS_BYTES_MAX:
                _, (gone, _) = self._read.popitem(last=False)
                self._read_bytes -= _size(gone)
        return settings

    def _opened(self, row: FunctionRow) -> FunctionSettings:
        told = json.loads(row.settings)
        if row.env_sealed is not None:
            told["envVars"] = json.loads(self._sealer.unseal(row.env_sealed, row.id))
        return FunctionSettings.model_validate(told)

    async def deploy(
        self, account: AccountId, function_id: FunctionId, new: NewVersion, token: str | None = None
    ) -> VersionRow:
        """Record a version, which is made from then on; or return the one that is the same.

        Raises:
            NotFound: the account has no such function.
            InvalidRequest: the source has not what it must have.
        """
        row = await self.get(account, function_id)
        runtime = Runtime(row.runtime)
        entry = entry_of(new.source, runtime, new.entry)
        layer = await asyncio.to_thread(self._layers.of, runtime, new.source, new.fresh)
        sealed = await asyncio.to_thread(self._sources.seal, account, new.source)
        async with self._database.writing() as session:
            if token is not None:
                by = select(VersionRow).where(VersionRow.request_token == token)
                if (made := await session.scalar(by)) is not None:
                    return made
            await lock_account(session, account)
            row = await owned(session, account, function_id, locked=True)
            layer_row = await self._layers.record(session, account, layer)
            newest = await _newest(session, function_id)
            if newest is not None and _is_same(newest, new, entry, layer_row.id):
                if new.promote:
                    self._promote(row, newest)
                    self.changed(function_id)
                return newest
            await self._check_building(session, account)
            await self._sources.keep(session, account, new.source, sealed)
            now = self._clock()
            row.last_version += 1
            row.asked_seq += 1
            version = VersionRow(
                function_id=function_id,
                number=row.last_version,
                state=VersionState.BUILDING,
                runtime=runtime,
                entry=entry,
                signature=new.signature,
                source_digest=new.source.digest,
                layer_id=layer_row.id,
                build_id=layer_row.build_id,
                promote=new.promote,
                asked_seq=row.asked_seq,
                shelved=False,
                fresh=new.fresh,
                since_ms=now,
                message=new.message,
                created_by=new.created_by,
                request_token=token,
                created_ms=now,
                updated_ms=now,
            )
            session.add(version)
        self._hint()
        return version

    async def version(self, account: AccountId, function_id: FunctionId, number: int) -> VersionRow:
        """Return a version of a function of the account. Raises NotFound."""
        async with self._database.reading() as session:
            await owned(session, account, function_id)
            return await _version(session, function_id, number)

    async def versions(
        self, account: AccountId, function_id: FunctionId, below: int | None
    ) -> tuple[list[VersionRow], int | None]:
        """Return up to 100 versions, newest first, those below a number; and where it goes on."""
        query = select(VersionRow).where(VersionRow.function_id == function_id)
        if below is not None:
            query = query.where(VersionRow.number < below)
        query = query.order_by(VersionRow.number.desc()).limit(101)
        async with self._database.reading() as session:
            await owned(session, account, function_id)
            rows = list(await session.scalars(query))
        return rows[:100], rows[99].number if len(rows) > 100 else None

    async def source(self, account: AccountId, function_id: FunctionId, number: int) -> Source:
        """Return the code of a version as it was sent. Raises NotFound."""
        async with self._database.reading() as session:
            await owned(session, account, function_id)
            version = await _version(session, function_id, number)
            sealed = await self._sources.sealed(session, account, version.source_digest)
        if sealed is None:
            raise NotFound(f"The source of version {number} is not kept any more.")
        return await asyncio.to_thread(self._sources.open, account, version.source_digest, sealed)

    async def promote(
        self, account: AccountId, function_id: FunctionId, number: int
    ) -> FunctionRow:
        """Make a version live: at once, or as soon as it is ready, if it is being made or if of an
        older one nothing but its source was kept, which is then made anew.

        Raises:
            NotFound: there is no such version.
            Conflict: it failed, or its source is gone.
            QuotaExceeded: as many versions of the account are being made as may.
        """
        async with self._database.writing() as session:
            await lock_account(session, account)
            row = await owned(session, account, function_id, locked=True)
            version = await _version(session, function_id, number)
            if version.state in (VersionState.FAILED, VersionState.RETIRED):
                raise Conflict(
                    f"Version {number} is {version.state}, and only a ready one is live."
                )
            self._promote(row, version)
            if version.shelved:
                await self._check_building(session, account)
                await self._make_anew(session, row, version)
        self.changed(function_id)
        self._hint()
        return row

    async def deploying(self, ids: Sequence[FunctionId]) -> dict[str, str]:
        """Return which of some functions have versions that are being made, each with the build
        of the newest of these."""
        query = (
            select(VersionRow.function_id, VersionRow.build_id)
            .where(VersionRow.function_id.in_(ids), VersionRow.state == VersionState.BUILDING)
            .order_by(VersionRow.number)
        )
        async with self._database.reading() as session:
            return {each.function_id: each.build_id for each in await session.execute(query)}

    async def delete(self, account: AccountId, function_id: FunctionId) -> None:
        """Remove a function with its versions; what waits for it is canceled. Raises NotFound."""
        now = self._clock()
        of_it = InvocationRow.function_id == function_id
        async with self._database.writing() as session:
            # No work is taken for it meanwhile: that is done under the same lock.
            await lock_account(session, account)
            await owned(session, account, function_id, locked=True)
            await session.execute(
                update(InvocationRow)
                .where(of_it, InvocationRow.state.in_(STARTABLE))
                .values(
                    state=InvocationState.CANCELED,
                    reason=Reason.FUNCTION_DELETED,
                    ended_ms=now,
                    updated_ms=not_before(InvocationRow.updated_ms, now),
                )
            )
            await session.execute(
                update(InvocationRow)
                .where(of_it, InvocationRow.state == InvocationState.RUNNING)
                .values(cancel=True, reason=Reason.FUNCTION_DELETED)
            )
            await session.execute(
                delete(SecretRow).where(
                    SecretRow.account_id == account, SecretRow.function_id == function_id
                )
            )
            await session.execute(delete(FunctionRow).where(FunctionRow.id == function_id))
        self.changed(function_id)
        self._hint()

    def _promote(self, row: FunctionRow, version: VersionRow) -> None:
        """Have a version live; if it is not ready, or not kept so, when it is."""
        row.asked_seq += 1
        version.asked_seq, version.promote = row.asked_seq, True
        if version.state == VersionState.READY and not version.shelved:
            row.live_version, row.live_seq = version.number, row.asked_seq
            row.updated_ms = max(row.updated_ms, self._clock())

    async def _make_anew(
        self, session: AsyncSession, row: FunctionRow, version: VersionRow
    ) -> None:
        now = self._clock()
        layer = await layer_row(session, version.layer_id)
        if layer.state in (LayerState.FAILED, LayerState.GONE):
            await self._layers.again(session, layer)
        version.build_id, version.shelved = layer.build_id, False
        version.state, version.since_ms = VersionState.BUILDING, now
        version.updated_ms = max(version.updated_ms, now)
        row.updated_ms = max(row.updated_ms, now)

    async def _check_building(self, session: AsyncSession, account: AccountId) -> None:
        building = (
            select(func.count())
            .select_from(VersionRow)
            .join(FunctionRow, FunctionRow.id == VersionRow.function_id)
            .where(FunctionRow.account_id == account, VersionRow.state == VersionState.BUILDING)
        )
        if (await session.scalar(building) or 0) >= BUILDING_MAX:
            raise QuotaExceeded(
                f"The account has {BUILDING_MAX} versions that are being made, as many as it may.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _check_new(self, session: AsyncSession, account: AccountId, new: NewFunction) -> None:
        owned = select(func.count()).where(FunctionRow.account_id == account)
        if (await session.scalar(owned) or 0) >= PER_ACCOUNT:
            raise QuotaExceeded(f"The account has {PER_ACCOUNT} functions, as many as it may.")
        named = select(FunctionRow.id).where(
            FunctionRow.account_id == account,
            FunctionRow.user_id == new.user_id,
            FunctionRow.name == new.name,
        )
        if await session.scalar(named) is not None:
            raise Conflict(f"There is a function {new.name} already.")

    def _sealed(self, function_id: str, settings: FunctionSettings) -> bytes | None:
        if not settings.env_vars:
            return None
        return self._sealer.seal(json.dumps(settings.env_vars).encode(), function_id)


def _size(kept: _Kept) -> int:
    return len(kept[0]) + len(kept[1] or b"")


def build_id_of(version: VersionRow) -> BuildId:
    """Return the build whose log is the version's."""
    return BuildId(version.build_id)


def _told(settings: FunctionSettings) -> str:
    return settings.model_dump_json(by_alias=True, exclude={"env_vars"}, exclude_unset=True)


def entry_of(source: Source, runtime: Runtime, named: str | None) -> str:
    """Return what is imported of a source: what was ``named``, or a file with a usual name.

    Raises:
        InvalidRequest: it is not there.
    """
    names = ENTRIES.get(runtime, PYTHON_ENTRIES)
    if named is None:
        found = next((name for name in names if name in source.files), None)
        if found is None:
            raise InvalidRequest(
                f"The source has none of {', '.join(names)}; name its file with `entry`."
            )
        return found
    file = named.partition(":")[0]
    if file not in source.files:
        raise InvalidRequest(f"The source has no file {file[:200]}, which `entry` names.")
    return named


def _is_same(version: VersionRow, new: NewVersion, entry: str, layer_id: str) -> bool:
    return (
        version.source_digest == new.source.digest
        and version.layer_id == layer_id
        and version.entry == entry
        and version.signature == new.signature
    )


def may_handle(handler: FunctionRow | None, account: str, owner: str) -> bool:
    """Say whether a function may be told of what fails of another, whose that is. An end user's is
    told of that user's alone."""
    return handler is not None and handler.account_id == account and handler.user_id in ("", owner)


def _check_kind(kind: FunctionKind, settings: FunctionSettings) -> None:
    """Check that a function of a kind may have these settings. Raises InvalidRequest."""
    if kind is FunctionKind.TRANSFORM:
        return
    told = "is for functions of kind transform"
    faults = [
        FieldError(f"settings.{shown}", told)
        for name, shown in TRANSFORM_FIELDS.items()
        if getattr(settings, name) is not None
    ]
    if faults:
        raise InvalidRequest(f"The settings are not valid: {faults[0].field} {told}.", faults)


async def _made_by(session: AsyncSession, token: str) -> FunctionRow | None:
    return await session.scalar(select(FunctionRow).where(FunctionRow.request_token == token))


async def _check_handler(
    session: AsyncSession, account: AccountId, owner: str, settings: FunctionSettings
) -> None:
    """Check that what is to be told of failures may be. Raises InvalidRequest."""
    if settings.on_failure is None:
        return
    handler = await session.get(FunctionRow, settings.on_failure.function_id)
    if not may_handle(handler, account, owner):
        told = "is no function that may be told: of the account, or of the same end user"
        raise InvalidRequest(
            f"The settings are not valid: onFailure.functionId {told}.",
            [FieldError("settings.onFailure.functionId", told)],
        )


async def _newest(session: AsyncSession, function_id: str) -> VersionRow | None:
    return await session.scalar(
        select(VersionRow)
        .where(
            VersionRow.function_id == function_id,
            VersionRow.state == VersionState.READY,
            ~VersionRow.shelved,
        )
        .order_by(VersionRow.number.desc())
        .limit(1)
    )


async def _version(session: AsyncSession, function_id: str, number: int) -> VersionRow:
    row = await session.get(VersionRow, (function_id, number))
    if row is None:
        raise NotFound(f"There is no version {number} of function {function_id}.")
    return row


async def owned(
    session: AsyncSession, account: AccountId, function_id: str, *, locked: bool = False
) -> FunctionRow:
    """Return a function of the account. Raises NotFound."""
    query = select(FunctionRow).where(FunctionRow.id == function_id)
    row = await session.scalar(query.with_for_update() if locked else query)
    if row is None or row.account_id != account:
        raise NotFound(f"There is no function {function_id}.")
    return row
