"""Values of secrets that were given to VMs, kept as long as something of these VMs may come.

A value is on record for its VM before it is given to it, so whatever the VM prints of it finds the
mask there; also when the secret has another value by then, and whichever process takes the line.
It is forgotten when the VM is gone and its log is whole. What is kept for an account is bounded: of
one whose VMs come and go with ever other secrets, those of the gone ones are forgotten sooner, and
no more VMs are given any while as much is kept for those that are there.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import cast

import structlog
from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import CakeworkError, QuotaExceeded
from cakework.domain.facts import AnyLine, VmLine
from cakework.domain.ids import AccountId, VmId
from cakework.domain.vms import VmRole, VmState
from cakework.server.clock import Clock
from cakework.server.functions.adapter import HandlerError
from cakework.server.functions.masking import MASKED, Mask
from cakework.server.store.database import Database
from cakework.server.store.function_models import MaskRow
from cakework.server.store.models import VmRow
from cakework.server.store.sealing import Sealer

SPELLINGS_KEPT = 200_000
"""In memory, over all VMs; a hundred bytes each at most."""
PLAIN_KEPT = GOING_ON_MAX = 10_000
AT_ONCE_CHARS = 16 * 1024
"""More is masked beside the loop."""
PIECE_BYTES = 16 * 1024
"""Of a line that is longer the guest makes pieces of this size."""
AFTER_MS = 600_000
"""How long masks stay when a VM is gone, for what is still told of its attempt."""
KEPT_BYTES_MAX = 128 << 20
"""Of an account: twice what as many VMs as it may have can be given by default."""
RECENTLY_MS = 10_000
"""How long masks stay when a VM is gone, in any case."""
_log = structlog.stdlib.get_logger(__name__)


class Masks:
    """Masks what VMs print and tell."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        """Keep values in ``database``, sealed."""
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._masks: OrderedDict[str, Mask | None] = OrderedDict()
        self._spellings = 0
        self._plain: set[str] = set()
        self._going_on: set[tuple[str, str]] = set()
        """Streams of VMs whose last piece was no whole line."""

    async def keep(
        self, session: AsyncSession, account: AccountId, vm_id: VmId, values: Iterable[str]
    ) -> None:
        """Put on record what is about to be given to a VM that was given nothing yet.

        Raises:
            QuotaExceeded: there is too much of the account's on record.
        """
        told = json.dumps(sorted(set(values))).encode()
        sealed = self._sealer.seal(told, _belongs_to(vm_id))
        await self._make_room(session, account, len(sealed))
        row = MaskRow(vm_id=vm_id, account_id=account, bytes=len(sealed), sealed=sealed)
        session.add(row)
        await session.flush()

    async def _make_room(self, session: AsyncSession, account: AccountId, size: int) -> None:
        of_account = MaskRow.account_id == account
        kept = select(func.coalesce(func.sum(MaskRow.bytes), 0)).where(of_account)
        if (await session.scalar(kept) or 0) + size <= KEPT_BYTES_MAX:
            return
        await session.execute(delete(MaskRow).where(of_account, self._is_over(RECENTLY_MS)))
        if (await session.scalar(kept) or 0) + size > KEPT_BYTES_MAX:
            raise QuotaExceeded(
                "The values of secrets that the account's VMs were given may take "
                f"{KEPT_BYTES_MAX >> 20} MiB together, until these VMs are gone."
            )

    async def lines(self, lines: Sequence[AnyLine]) -> Sequence[AnyLine]:
        """Return lines without the secrets of their VMs, one for one."""
        masks = await self._of({line.vm_id for line in lines if isinstance(line, VmLine)})
        if not masks:
            return lines
        size = sum(len(each.text) for each in lines if _vm_of(each) in masks)
        if size <= AT_ONCE_CHARS:
            return self._masked(lines, masks)
        return await asyncio.to_thread(self._masked, lines, masks)

    async def error(self, vm_id: VmId, error: HandlerError) -> HandlerError:
        """Return what a handler raised without the secrets of its VM."""
        masks = await self._of({vm_id})
        if vm_id not in masks:
            return error
        mask = masks[vm_id]
        return await asyncio.to_thread(_masked_error, mask, error)

    async def tidy(self) -> None:
        """Forget what was given to VMs of which nothing more is to come."""
        async with self._database.writing() as session:
            await session.execute(delete(MaskRow).where(self._is_over(AFTER_MS)))

    def _is_over(self, after_ms: int) -> ColumnElement[bool]:
        """Return what is true of a mask whose VM has been gone for so long, and its log whole."""
        return ~exists().where(
            VmRow.id == MaskRow.vm_id,
            (VmRow.state != VmState.DESTROYED)
            | ~VmRow.log_complete
            | (VmRow.updated_ms > self._clock() - after_ms),
        )

    async def _of(self, vm_ids: Collection[str]) -> dict[str, Mask | None]:
        """Return the masks of those VMs that have one; None where it cannot be read."""
        asked = [each for each in vm_ids if each not in self._masks and each not in self._plain]
        if asked:
            query = (
                select(VmRow.id, VmRow.role, MaskRow.sealed)
                .outerjoin(MaskRow, MaskRow.vm_id == VmRow.id)
                .where(VmRow.id.in_(asked))
            )
            async with self._database.reading() as session:
                found = (await session.execute(query)).all()
            rows = [(row[0], row[1], cast("bytes | None", row[2])) for row in found]
            for vm_id, role, sealed in rows:
                if sealed is not None:
                    self._remember(vm_id, await asyncio.to_thread(self._opened, vm_id, sealed))
                elif role == VmRole.OWN:
                    self._plain.add(vm_id)
            if len(self._plain) > PLAIN_KEPT:
                self._plain.clear()
        masks = {each: self._masks[each] for each in vm_ids if each in self._masks}
        for vm_id in masks:
            self._masks.move_to_end(vm_id)
        self._shrink(masks)
        return masks

    def _opened(self, vm_id: str, sealed: bytes) -> Mask | None:
        try:
            return Mask(json.loads(self._sealer.unseal(sealed, _belongs_to(vm_id))))
        except CakeworkError as error:
            _log.error("masks.unreadable", vm_id=vm_id, detail=error.detail)
            return None

    def _remember(self, vm_id: str, mask: Mask | None) -> None:
        self._masks[vm_id] = mask
        self._spellings += len(mask or ()) + 1

    def _shrink(self, needed: Collection[str]) -> None:
        while self._spellings > SPELLINGS_KEPT and next(iter(self._masks)) not in needed:
            _, mask = self._masks.popitem(last=False)
            self._spellings -= len(mask or ()) + 1

    def _masked(self, lines: Sequence[AnyLine], masks: dict[str, Mask | None]) -> Sequence[AnyLine]:
        texts = [line.text for line in lines]
        for vm_id, mask in masks.items():
            places = [at for at, line in enumerate(lines) if _vm_of(line) == vm_id]
            if mask is None:
                new = [MASKED] * len(places)
            else:
                new = mask.lines([texts[at] for at in places])
            for at, text in zip(places, new, strict=True):
                texts[at] = self._joined(lines[at], text, mask)
        return [
            line if line.text == text else line.model_copy(update={"text": text})
            for line, text in zip(lines, texts, strict=True)
        ]

    def _joined(self, line: AnyLine, text: str, mask: Mask | None) -> str:
        """Return the text of a line, or of a piece of one, without what is cut at its ends."""
        stream = (_vm_of(line), line.stream)
        if mask is not None and stream in self._going_on:
            text = mask.begin(text)
        self._going_on.discard(stream)
        if _is_piece(line.text):
            if len(self._going_on) >= GOING_ON_MAX:
                self._going_on.clear()
            self._going_on.add(stream)
            text = mask.end(text) if mask is not None else text
        return text


def _masked_error(mask: Mask | None, error: HandlerError) -> HandlerError:
    told = {name: getattr(error, name) for name in ("type", "message", "stack")}
    masked = {
        name: MASKED if mask is None else mask.text(text)
        for name, text in told.items()
        if text is not None
    }
    return error.model_copy(update=masked)


def _vm_of(line: AnyLine) -> str:
    return line.vm_id if isinstance(line, VmLine) else ""


def _is_piece(text: str) -> bool:
    """Whether it is as long as a line can be. Bytes that were no text take more than before."""
    return len(text) * 4 >= PIECE_BYTES and len(text.encode()) >= PIECE_BYTES


def _belongs_to(vm_id: str) -> str:
    return f"masks:{vm_id}"
