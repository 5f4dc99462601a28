"""Records that go through a function while the caller waits."""

import json
from collections.abc import Sequence
from typing import Any, Unpack

from cakework_client._async.transport import AsyncTransport
from cakework_client.calls import Call, Options, read_result, segment


class AsyncTransforms(AsyncTransport):
    """The calls about transforms."""

    async def apply_transform(
        self, function_id: str, record: Any, **options: Unpack[Options]
    ) -> Any:
        """Return what a function makes of a record: a value, a list of several, or None.

        It is not tried again once it may have been done. Streams of records, as NDJSON or CSV, are
        posted to the call itself.

        Args:
            function_id: Id of the function, whose kind is `transform`.
            record: What its handler is given: whatever JSON can say.
            options: ``timeout``.

        Raises:
            CakeworkError: It could not be done, or the handler failed (`onError: fail`).
        """
        return await self._applied(function_id, record, options)

    async def apply_transform_to_all(
        self, function_id: str, records: Sequence[Any], **options: Unpack[Options]
    ) -> list[Any]:
        """Return what a function makes of records, in their order.

        Args:
            function_id: Id of the function, whose kind is `transform`.
            records: What its handler is given, one after the other or many at once.
            options: ``timeout``.

        Raises:
            CakeworkError: It could not be done, or the handler failed (`onError: fail`).
        """
        told = await self._applied(function_id, {"records": list(records)}, options)
        return told["records"]

    async def _applied(self, function_id: str, body: Any, options: Options) -> Any:
        path = f"/v1/transforms/{segment(function_id)}/apply"
        # A record is handed over once at most: what broke off is not sent again.
        call = Call("POST", path, body=body, once=True)
        result = await self._done(call, options, read_result)
        return json.loads(result.content) if result.content else None
