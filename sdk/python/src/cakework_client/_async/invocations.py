"""Calls about invocations and dead letters; calling a function and waiting for its end."""

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Unpack

from cakework_client._async.logs import Moment
from cakework_client._async.transport import AsyncTransport
from cakework_client._async.waiting import sleep
from cakework_client.calls import Call, Deadline, Options, PostOptions, read_result, segment
from cakework_client.errors import CakeworkError
from cakework_client.following import FOREVER_S, FollowingInvocations
from cakework_client.models import (
    Invocation,
    InvocationPage,
    InvocationResult,
    InvocationState,
    Matched,
    Mode,
    Reason,
)
from cakework_client.wire import UNSET, changed, given

WAIT_S_MAX = 50.0
"""Longest that the server waits for an end in one call."""
ANSWER_S = 1.0
"""Of a call's timeout, so much is left for the answer when the server waits."""
PAUSE_S = 0.25
AT_ONCE = 10


class AsyncInvocations(AsyncTransport):
    """Calls about invocations: pieces of work, and what became of them."""

    async def invoke_function(
        self,
        function_id: str,
        *,
        mode: Mode | None = None,
        event: dict[str, Any] | None = None,
        data: Any = UNSET,
        user_id: str | None = None,
        version: int | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        wait: float | None = None,
        **options: Unpack[PostOptions],
    ) -> Invocation:
        """Invoke a function; see :meth:`invoke` for its end, however long that takes.

        Args:
            function_id: Id of the function.
            mode: ``sync``, if absent, waits for the end, and tries once; ``async`` returns when it
                is taken, and is tried again as the function's settings say.
            event: A CloudEvent; what it lacks is filled in.
            data: The data of an event that is made around it, in the place of ``event``.
            user_id: The end user for whom it is.
            version: A version to run on; what is live if absent.
            delay: Seconds until it may start; for ``async``.
            ttl: Seconds after which it must not start.
            wait: Seconds that ``sync`` waits, up to 50; 50 if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            mode=mode,
            event=event,
            user_id=user_id,
            version=version,
            delay=delay,
            ttl=ttl,
            wait=wait,
        )
        path = f"/v1/functions/{segment(function_id)}/invoke"
        return await self._call(
            Invocation, "POST", path, options, body={**body, **changed(data=data)}
        )

    async def invoke(
        self,
        function_id: str,
        data: Any = UNSET,
        *,
        event: dict[str, Any] | None = None,
        user_id: str | None = None,
        version: int | None = None,
        **options: Unpack[PostOptions],
    ) -> Invocation:
        """Invoke a function and return what became of it, when it has ended.

        A handler that failed raises nothing here: look at ``state``, ``reason`` and ``error``.

        Args:
            function_id: Id of the function.
            data: The data of an event that is made around it.
            event: A CloudEvent, in the place of ``data``.
            user_id: The end user for whom it is.
            version: A version to run on; what is live if absent.
            options: ``timeout``: seconds within which it must have ended, the client's own if
                absent; ``idempotency_key``.

        Raises:
            TimedOut: It has not ended in time; it goes on.
        """
        deadline = Deadline(options.get("timeout", self._configuration.timeout_s))
        invocation = await self.invoke_function(
            function_id,
            event=event,
            data=data,
            user_id=user_id,
            version=version,
            wait=_wait_s(deadline),
            **options,
        )
        return await self._ended(invocation, deadline)

    async def invoke_many(
        self,
        function_id: str,
        items: Iterable[Any],
        *,
        at_once: int = AT_ONCE,
        user_id: str | None = None,
        version: int | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Invocation]:
        """Invoke a function with each of many data; yield what became of each, in their order.

        Each is on record before it runs, and tried again as the function's settings say. When you
        stop half-way, those that were asked for go on.

        Args:
            function_id: Id of the function.
            items: The data, taken as they are needed.
            at_once: So many are under way at a time.
            user_id: The end user for whom they are.
            version: A version to run on; what is live if absent.
            timeout: Seconds within which each must have ended once it is waited for; None waits as
                long as it takes.
        """
        if at_once < 1:
            raise ValueError("at_once must be at least 1")
        under_way: deque[Invocation] = deque()
        for item in items:
            if len(under_way) >= at_once:
                yield await self.wait_for_invocation(under_way.popleft().id, timeout=timeout)
            under_way.append(
                await self.invoke_function(
                    function_id, mode="async", data=item, user_id=user_id, version=version
                )
            )
        while under_way:
            yield await self.wait_for_invocation(under_way.popleft().id, timeout=timeout)

    async def wait_for_invocation(
        self, invocation_id: str, *, timeout: float | None = None
    ) -> Invocation:
        """Return an invocation when it has ended, well or not.

        Args:
            invocation_id: Id of the invocation.
            timeout: Seconds within which it must have ended; None waits as long as it takes.

        Raises:
            TimedOut: It has not; it goes on.
        """
        deadline = Deadline(FOREVER_S if timeout is None else timeout)
        return await self._ended(await self._look(invocation_id, deadline), deadline)

    async def _ended(self, invocation: Invocation, deadline: Deadline) -> Invocation:
        while not invocation.ended:
            deadline.check()
            if not _wait_s(deadline):
                await sleep(min(PAUSE_S, max(deadline.left_s, 0.0)))
                deadline.check()
            invocation = await self._look(invocation.id, deadline)
        return invocation

    async def _look(self, invocation_id: str, deadline: Deadline) -> Invocation:
        each_s = min(deadline.left_s, WAIT_S_MAX + 10 * ANSWER_S)
        wait = _wait_s(deadline)
        return await self.get_invocation(invocation_id, wait=wait, timeout=each_s)

    async def list_invocations(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        trigger_id: str | None = None,
        event_id: str | None = None,
        state: InvocationState | None = None,
        reason: Reason | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> InvocationPage:
        """Return a page of invocations, newest first; see :meth:`iter_invocations` for all."""
        params = given(
            function_id=function_id,
            user_id=user_id,
            trigger_id=trigger_id,
            event_id=event_id,
            state=state,
            reason=reason,
            from_=from_,
            to=to,
            pagination=pagination,
        )
        return await self._call(InvocationPage, "GET", "/v1/invocations", options, params=params)

    async def iter_invocations(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        trigger_id: str | None = None,
        event_id: str | None = None,
        state: InvocationState | None = None,
        reason: Reason | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Invocation]:
        """Yield all invocations, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = await self.list_invocations(
                function_id=function_id,
                user_id=user_id,
                trigger_id=trigger_id,
                event_id=event_id,
                state=state,
                reason=reason,
                from_=from_,
                to=to,
                pagination=pagination,
                **options,
            )
            for invocation in page.invocations:
                yield invocation
            pagination = page.pagination
            if pagination is None:
                return

    async def follow_invocations(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        state: InvocationState | None = None,
        reason: Reason | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Invocation]:
        """Yield invocations each time they change, from now on, for ever.

        Goes on through broken connections. Of one that changed twice at once, the last is yielded.

        Args:
            function_id: Only of this function.
            user_id: Only for this end user.
            state: Only those in this state.
            reason: Only those that ended so.
            timeout: Seconds after which it raises TimedOut; None follows for ever.
        """
        params = given(function_id=function_id, user_id=user_id, state=state, reason=reason)
        call = Call("GET", "/v1/invocations", {**params, "follow": "true"})
        limit_s = FOREVER_S if timeout is None else timeout
        following = FollowingInvocations(limit_s, self._configuration.retries)
        while True:
            failure: CakeworkError | None = None
            try:
                async with aclosing(self._changes_once(call, following)) as changes:
                    async for invocation in changes:
                        yield invocation
            except CakeworkError as error:
                failure = error
            await sleep(following.pause_s(failure))

    async def _changes_once(
        self, call: Call, following: FollowingInvocations
    ) -> AsyncGenerator[Invocation]:
        async with self._open(call, following.deadline, following.headers) as response:
            async for chunk in response.aiter_bytes():
                for invocation in following.changed(chunk):
                    yield invocation

    async def get_invocation(
        self, invocation_id: str, *, wait: float | None = None, **options: Unpack[Options]
    ) -> Invocation:
        """Return an invocation; with ``wait``, up to 50 s, when it has ended or that is over."""
        params = given(wait=wait)
        return await self._call(Invocation, "GET", _path(invocation_id), options, params=params)

    async def get_invocation_event(
        self, invocation_id: str, **options: Unpack[Options]
    ) -> dict[str, Any]:
        """Return the event of an invocation, however large."""
        call = Call.of("GET", f"{_path(invocation_id)}/event", options)
        return (await self._done(call, options, read_result)).json()

    async def get_invocation_result(
        self, invocation_id: str, **options: Unpack[Options]
    ) -> InvocationResult:
        """Return what a handler answered, as it is, with its content type.

        Raises:
            NotFound: There is no answer, or not yet.
        """
        call = Call.of("GET", f"{_path(invocation_id)}/result", options)
        return await self._done(call, options, read_result)

    async def cancel_invocation(
        self, invocation_id: str, **options: Unpack[PostOptions]
    ) -> Invocation:
        """Give an invocation up; one that has ended stays as it is."""
        return await self._call(Invocation, "POST", f"{_path(invocation_id)}/cancel", options)

    async def replay_invocation(
        self,
        invocation_id: str,
        *,
        version: int | str | None = None,
        event: dict[str, Any] | None = None,
        **options: Unpack[PostOptions],
    ) -> Invocation:
        """Do an invocation again, as a new one; returns that.

        Args:
            invocation_id: Id of the invocation, which must have ended.
            version: ``live``, if absent, ``original``, or a number.
            event: Another event; the same if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(version=version, event=event)
        path = f"{_path(invocation_id)}/replay"
        return await self._call(Invocation, "POST", path, options, body=body)

    async def list_dead_letters(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        trigger_id: str | None = None,
        event_id: str | None = None,
        reason: Reason | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> InvocationPage:
        """Return a page of what failed for good and was neither replayed nor discarded."""
        params = given(
            function_id=function_id,
            user_id=user_id,
            trigger_id=trigger_id,
            event_id=event_id,
            reason=reason,
            from_=from_,
            to=to,
            pagination=pagination,
        )
        return await self._call(InvocationPage, "GET", "/v1/dead-letters", options, params=params)

    async def iter_dead_letters(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        trigger_id: str | None = None,
        event_id: str | None = None,
        reason: Reason | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Invocation]:
        """Yield all dead letters, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = await self.list_dead_letters(
                function_id=function_id,
                user_id=user_id,
                trigger_id=trigger_id,
                event_id=event_id,
                reason=reason,
                from_=from_,
                to=to,
                pagination=pagination,
                **options,
            )
            for invocation in page.invocations:
                yield invocation
            pagination = page.pagination
            if pagination is None:
                return

    async def replay_dead_letters(
        self,
        *,
        ids: Sequence[str] | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002
        per_second: float | None = None,
        **options: Unpack[PostOptions],
    ) -> Matched:
        """Have dead letters done again on what is live; returns at once how many they are.

        They go off the list one by one as they are replayed, the oldest first.

        Args:
            ids: Ids of dead letters, up to 1,000; or
            filter: those that it fits, all of them if it is empty: ``functionId``, ``userId``,
                ``triggerId``, ``reason``, ``from``, ``to``.
            per_second: So many of them a second; as fast as may be if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(ids=ids, filter=filter, per_second=per_second)
        return await self._call(Matched, "POST", "/v1/dead-letters/replay", options, body=body)

    async def discard_dead_letters(
        self,
        *,
        ids: Sequence[str] | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002
        **options: Unpack[PostOptions],
    ) -> Matched:
        """Take dead letters off their list; ``ids`` or ``filter`` as in replay_dead_letters."""
        body = given(ids=ids, filter=filter)
        return await self._call(Matched, "POST", "/v1/dead-letters/discard", options, body=body)


def _wait_s(deadline: Deadline) -> float:
    """Return how long the server may wait in a call that must be done by then."""
    return max(0.0, min(WAIT_S_MAX, deadline.left_s - ANSWER_S))


def _path(invocation_id: str) -> str:
    return f"/v1/invocations/{segment(invocation_id)}"
