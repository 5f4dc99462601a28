"""Secrets of functions: kept, listed, and given to instances.

    function's own ──▶ end user's ──▶ account's      of one name, the first that there is

An instance is given those that its function's settings name, when its VM is up and before its
first invocation. What it was given is part of what it was made with, so that it serves no more
when a secret has another value, is gone, or gives way to another.

An instance of an end user's function sees that user's, its own, and of the account's those that are
``shared``. One of the account's sees the account's, its own, and of an end user's what it alone is
for (see ``isolation_of``).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.domain.errors import (
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
)
from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import ACCOUNT_ITSELF, AccountId, FunctionId, UserId, VmId
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter
from cakework.server.functions.masks import Masks
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.function_models import FunctionRow, SecretRow
from cakework.server.store.pages import PAGE
from cakework.server.store.sealing import Sealer

VALUE_BYTES_MAX = 32 * 1024
PER_SCOPE = 100
SIZE_MAX = 64 << 20
"""Bytes of an account's secrets together, as they are sealed."""
GIVEN_BYTES_MAX = 256 * 1024
"""What one function may be given: the environment that a program hands on is bounded."""
SEALED_MORE = 29
"""Bytes that something sealed has more than what it was."""
FINGERPRINT_BYTES = 8
USED_MS = 60_000
"""``used_ms`` is right to this."""
_NO_FUNCTION = FunctionId("")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose a secret is: of a function, else of an end user, else of the account."""

    user_id: UserId = ACCOUNT_ITSELF
    function_id: FunctionId = _NO_FUNCTION


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Where a list of secrets goes on: behind this one."""

    user_id: str
    function_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Sees:
    """Who is to see secrets of these ``names``: a function of ``owner``, for ``user_id`` alone.

    Both are empty for the account, and for anybody.
    """

    account_id: str
    function_id: str
    owner: str
    user_id: str
    names: tuple[str, ...]

    @property
    def user(self) -> str:
        """The end user whose secrets are seen; empty for none."""
        return self.owner or self.user_id


@dataclass(frozen=True, slots=True)
class Chosen:
    """The secret that is meant by a name."""

    user_id: str
    function_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class View:
    """What is seen: which secret there is for each name, and what is missing.

    ``digest`` tells it from other views, empty where no names are asked for.
    """

    chosen: Mapping[str, "Chosen"]
    digest: str = ""
    missing: tuple[str, ...] = ()
    size: int = 0

    @property
    def fault(self) -> str | None:
        """Why a function cannot be given this, for whoever owns it; None: it can."""
        if self.missing:
            names = ", ".join(self.missing[:10])
            return (
                f"There is no secret {names} for this function, which its settings name. "
                "Put it, or take it out of the settings."
            )
        if self.size > GIVEN_BYTES_MAX:
            return (
                f"The function's secrets take {self.size} bytes together, and "
                f"{GIVEN_BYTES_MAX} are allowed."
            )
        return None

    def made_with(self, settings: FunctionSettings) -> str:
        """Return what tells instances apart that have other settings or secrets than these."""
        if not self.digest:
            return settings.made_with
        return hashlib.sha256(f"{settings.made_with} {self.digest}".encode()).hexdigest()


NOTHING = View({})


class Secrets:
    """The secrets of accounts."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        adapter: Adapter,
        masks: Masks,
        most: int,
        clock: Clock,
    ) -> None:
        """Keep secrets in ``database``, sealed, ``most`` of an account; give them by
        ``adapter``."""
        self._database = database
        self._sealer = sealer
        self._adapter = adapter
        self.masks = masks
        self._most = most
        self._clock = clock

    async def put(
        self, account: AccountId, scope: Scope, name: str, value: str, *, shared: bool | None
    ) -> SecretRow:
        """Make a secret, or change it; ``shared`` None leaves that as it is.

        Raises:
            NotFound: the account has no such function, or the end user has not.
            InvalidRequest: the value is too long, or only the account's may be shared.
            QuotaExceeded: there are as many as may be.
        """
        _check(scope, value, shared=shared)
        async with self._database.writing() as session:
            await lock_account(session, account)
            scope = await self._checked(session, account, scope, locked=True)
            key = _key(account, scope, name)
            row = await session.get(SecretRow, key)
            await self._check_room(session, account, scope, value, row)
            belongs_to = _belongs_to(*key)
            sealed = self._sealer.seal(value.encode(), belongs_to)
            fingerprint, now = self._fingerprint(value, belongs_to), self._clock()
            if row is None:
                row = SecretRow(
                    account_id=account,
                    user_id=scope.user_id,
                    function_id=scope.function_id,
                    name=name,
                    sealed=sealed,
                    fingerprint=fingerprint,
                    shared=bool(shared),
                    updated_ms=now,
                )
                session.add(row)
            else:
                row.sealed, row.fingerprint = sealed, fingerprint
                row.shared = row.shared if shared is None else shared
                row.updated_ms = max(row.updated_ms, now)
        return row

    async def delete(self, account: AccountId, scope: Scope, name: str) -> None:
        """Remove a secret. Raises NotFound."""
        async with self._database.writing() as session:
            scope = await self._checked(session, account, scope)
            row = await session.get(SecretRow, _key(account, scope, name))
            if row is None:
                raise NotFound(f"There is no secret {name} there.")
            await session.delete(row)

    async def page(
        self, account: AccountId, scope: Scope | None, after: SecretPlace | None
    ) -> tuple[list[SecretRow], SecretPlace | None]:
        """Return up to 100 secrets and the place where the next page goes on: of one scope, or all;
        the account's own first, by name. Raises NotFound."""
        place = tuple_(SecretRow.user_id, SecretRow.function_id, SecretRow.name)
        query = select(SecretRow).where(SecretRow.account_id == account)
        if after is not None:
            query = query.where(place > (after.user_id, after.function_id, after.name))
        query = query.order_by(SecretRow.user_id, SecretRow.function_id, SecretRow.name)
        async with self._database.reading() as session:
            if scope is not None:
                scope = await self._checked(session, account, scope)
                query = query.where(_of_scope(scope))
            rows = list(await session.scalars(query.limit(PAGE + 1)))
        if len(rows) <= PAGE:
            return rows, None
        last = rows[PAGE - 1]
        return rows[:PAGE], SecretPlace(last.user_id, last.function_id, last.name)

    async def give(self, vm_id: VmId, sees: Sees, settings: FunctionSettings, with_: str) -> None:
        """Give an instance that was made ``with_`` these settings and secrets what it is to have.

        Raises:
            Conflict: the secrets are not those any more.
            QuotaExceeded: the account's VMs were given as much as may be.
            NoAnswer: it does not take them.
        """
        if not sees.names:
            return
        async with self._database.reading() as session:
            view = await session.run_sync(lambda s: view_of(s, sees))
            if view.fault is not None or view.made_with(settings) != with_:
                raise Conflict("The function's secrets changed while its instance was started.")
            values = await self._opened(session, sees, view)
        await self._hand_over(vm_id, sees, view, values)

    async def give_for_import(self, vm_id: VmId, sees: Sees) -> None:
        """Give a VM that is about to import a function what this sees.

        Raises:
            InvalidRequest: that is not all there.
            QuotaExceeded: the account's VMs were given as much as may be.
            NoAnswer: it does not take them.
        """
        if not sees.names:
            return
        async with self._database.reading() as session:
            view = await session.run_sync(lambda s: view_of(s, sees))
            if view.fault is not None:
                raise InvalidRequest(view.fault)
            values = await self._opened(session, sees, view)
        await self._hand_over(vm_id, sees, view, values)

    async def _hand_over(
        self, vm_id: VmId, sees: Sees, view: View, values: Mapping[str, str]
    ) -> None:
        now = self._clock()
        long_ago = SecretRow.used_ms.is_(None) | (SecretRow.used_ms < now - USED_MS)
        async with self._database.writing() as session:
            await self.masks.keep(session, AccountId(sees.account_id), vm_id, values.values())
            await session.execute(
                update(SecretRow).where(*_chosen(sees, view), long_ago).values(used_ms=now)
            )
        await self._adapter.give_secrets(vm_id, values)

    async def _opened(self, session: AsyncSession, sees: Sees, view: View) -> dict[str, str]:
        rows = await session.scalars(select(SecretRow).where(*_chosen(sees, view)))
        values = {
            row.name: self._sealer.unseal(row.sealed, _belongs_to(*_key_of(row))).decode()
            for row in rows
            if row.fingerprint == view.chosen[row.name].fingerprint
        }
        if values.keys() != view.chosen.keys():
            raise Conflict("The function's secrets changed just now.")
        return values

    async def _checked(
        self, session: AsyncSession, account: AccountId, scope: Scope, *, locked: bool = False
    ) -> Scope:
        """Return the scope as rows have it, if there is such a function."""
        if not scope.function_id:
            return scope
        query = select(FunctionRow).where(FunctionRow.id == scope.function_id)
        row = await session.scalar(query.with_for_update() if locked else query)
        theirs = row is not None and scope.user_id in (ACCOUNT_ITSELF, row.user_id)
        if row is None or row.account_id != account or not theirs:
            raise NotFound(f"There is no function {scope.function_id}.")
        return Scope(function_id=scope.function_id)

    async def _check_room(
        self,
        session: AsyncSession,
        account: AccountId,
        scope: Scope,
        value: str,
        row: SecretRow | None,
    ) -> None:
        own = SecretRow.account_id == account
        counted = select(func.count(), func.coalesce(func.sum(_size()), 0)).where(own)
        count, size = (await session.execute(counted)).one()
        size += len(value.encode()) - (0 if row is None else len(row.sealed) - SEALED_MORE)
        if size > SIZE_MAX:
            raise QuotaExceeded(f"The account's secrets may take {SIZE_MAX >> 20} MiB together.")
        if row is not None:
            return
        if count >= self._most:
            raise QuotaExceeded(f"The account has {self._most} secrets, as many as it may.")
        there = select(func.count()).where(own, _of_scope(scope))
        if (await session.scalar(there) or 0) >= PER_SCOPE:
            raise QuotaExceeded(f"There are {PER_SCOPE} secrets in this scope, as many as may be.")

    def _fingerprint(self, value: str, belongs_to: str) -> str:
        mark = self._sealer.mark(value.encode(), f"fingerprint:{belongs_to}")
        return mark[:FINGERPRINT_BYTES].hex()


def sees(function: FunctionRow, settings: FunctionSettings, user_id: str) -> Sees:
    """Return who an instance of a function is, that is for ``user_id`` alone if that is given."""
    names = tuple(sorted(set(settings.secrets)))
    return Sees(function.account_id, function.id, function.user_id, user_id, names)


_There = Mapping[tuple[str, str, str], tuple[str, bool, int]]
"""Fingerprint, whether it is shared, and bytes, by end user, function and name."""


def view_of(session: Session, sees: Sees) -> View:
    """Return what one function sees."""
    return views_of(session, [sees])[sees]


def views_of(session: Session, asked: Iterable[Sees]) -> dict[Sees, View]:
    """Return what functions see."""
    by_account: defaultdict[str, list[Sees]] = defaultdict(list)
    views: dict[Sees, View] = {}
    for sees in asked:
        if sees.names:
            by_account[sees.account_id].append(sees)
        else:
            views[sees] = NOTHING
    for account_id, some in by_account.items():
        there = _found(session, account_id, some)
        views |= {sees: _view(sees, there) for sees in some}
    return views


def _found(session: Session, account_id: str, some: Sequence[Sees]) -> _There:
    users = {each.user for each in some if each.user}
    functions = {each.function_id for each in some}
    names = {name for each in some for name in each.names}
    of_account = and_(SecretRow.user_id == "", SecretRow.function_id == "")
    of_users = and_(SecretRow.user_id.in_(users), SecretRow.function_id == "")
    of_functions = and_(SecretRow.user_id == "", SecretRow.function_id.in_(functions))
    query = select(
        SecretRow.user_id,
        SecretRow.function_id,
        SecretRow.name,
        SecretRow.fingerprint,
        SecretRow.shared,
        _size(),
    ).where(SecretRow.account_id == account_id, or_(of_account, of_users, of_functions))
    if len(names) <= PER_SCOPE:
        query = query.where(SecretRow.name.in_(names))
    rows = session.execute(query).all()
    return {(row[0], row[1], row[2]): (row[3], row[4], row[5]) for row in rows}


def _view(sees: Sees, there: _There) -> View:
    chosen: dict[str, Chosen] = {}
    size = 0
    for name in sees.names:
        for user_id, function_id in _places(sees):
            found = there.get((user_id, function_id, name))
            of_account = not user_id and not function_id
            if found is None or (of_account and sees.owner and not found[1]):
                continue
            chosen[name] = Chosen(user_id, function_id, found[0])
            size += found[2]
            break
    missing = tuple(name for name in sees.names if name not in chosen)
    told = [(name, *astuple(each)) for name, each in chosen.items()]
    digest = hashlib.sha256(json.dumps([told, missing]).encode()).hexdigest()
    return View(chosen, digest, missing, size)


def _places(sees: Sees) -> list[tuple[str, str]]:
    """Return where to look for a secret, the narrowest place first."""
    of_user = [(sees.user, "")] if sees.user else []
    return [("", sees.function_id), *of_user, ("", "")]


def _chosen(sees: Sees, view: View) -> list[ColumnElement[bool]]:
    keys = [(each.user_id, each.function_id, name) for name, each in view.chosen.items()]
    place = tuple_(SecretRow.user_id, SecretRow.function_id, SecretRow.name)
    return [SecretRow.account_id == sees.account_id, place.in_(keys)]


def _check(scope: Scope, value: str, *, shared: bool | None) -> None:
    faults: list[FieldError] = []
    size = len(value.encode())
    if not value:
        faults.append(FieldError("value", "must not be empty"))
    if size > VALUE_BYTES_MAX:
        told = f"takes {size} bytes, and {VALUE_BYTES_MAX} are allowed"
        faults.append(FieldError("value", told))
    if "\0" in value:
        faults.append(FieldError("value", "must not have a NUL: no environment can hold it"))
    if shared and scope != Scope():
        faults.append(FieldError("shared", "is for secrets of the account alone"))
    if faults:
        raise InvalidRequest("The secret is not valid.", faults)


def _size():
    return func.length(SecretRow.sealed) - SEALED_MORE


def _of_scope(scope: Scope) -> ColumnElement[bool]:
    return and_(SecretRow.user_id == scope.user_id, SecretRow.function_id == scope.function_id)


def _key(account: str, scope: Scope, name: str) -> tuple[str, str, str, str]:
    return account, scope.user_id, scope.function_id, name


def _key_of(row: SecretRow) -> tuple[str, str, str, str]:
    return row.account_id, row.user_id, row.function_id, row.name


def _belongs_to(account: str, user_id: str, function_id: str, name: str) -> str:
    """Return what a value is sealed for."""
    return json.dumps(["secret", account, user_id, function_id, name])
