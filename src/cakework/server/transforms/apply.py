"""Transforms: data through a function while its caller waits.

A call is direct work: at most once, on record as one invocation, with one instance that is held for
it as a router holds one for a request (docs/decisions/0018).
"""

import asyncio

from cakework.domain.errors import NoHandler
from cakework.domain.functions import FunctionKind, FunctionSettings
from cakework.domain.ids import AccountId, FunctionId
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter
from cakework.server.functions.functions import Functions
from cakework.server.functions.masks import Masks
from cakework.server.store.function_models import FunctionRow
from cakework.server.transforms.calls import Call
from cakework.server.transforms.holds import Holds


class Transforms:
    """The transforms of accounts."""

    def __init__(
        self, functions: Functions, holds: Holds, adapter: Adapter, masks: Masks, clock: Clock
    ) -> None:
        """Ask instances, which ``holds`` has, by ``adapter``."""
        self._functions = functions
        self._holds = holds
        self._adapter = adapter
        self._masks = masks
        self._clock = clock

    async def find(
        self, account: AccountId, function_id: FunctionId
    ) -> tuple[FunctionRow, FunctionSettings]:
        """Return a transform of the account's, with its settings.

        Raises:
            NotFound: the account has no such function.
            NoHandler: it is no transform.
        """
        row = await self._functions.get(account, function_id)
        if row.kind != FunctionKind.TRANSFORM:
            raise NoHandler(f"{function_id} is no transform: its kind is {row.kind}.")
        return row, self._functions.settings(row)

    def call(self, row: FunctionRow, settings: FunctionSettings, *, whole: bool) -> Call:
        """Return a call. Of one whose records are there, the ``whole`` of it, the time counts from
        now."""
        began_s = asyncio.get_running_loop().time() if whole else None
        return Call(
            *(row, settings, self._holds, self._adapter, self._masks, self._clock),
            began_s=began_s,
        )
