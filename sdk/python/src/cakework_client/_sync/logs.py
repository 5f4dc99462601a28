"""Made of _async/logs.py by generate_sync.py; edit that.

Calls about logs: a page at a time, all of it, or as it grows."""

from collections.abc import Generator
from contextlib import closing
from datetime import datetime
from typing import TypeVar, Unpack

from cakework_client._sync.transport import Transport
from cakework_client._sync.waiting import sleep
from cakework_client.calls import Call, Options, segment
from cakework_client.errors import CakeworkError
from cakework_client.following import FOREVER_S, Following, lines_of, log_path
from cakework_client.models import (
    FunctionLogPage,
    InvocationLogPage,
    LogLine,
    LogPage,
    Order,
)
from cakework_client.wire import given

BATCH_MAX = 1000
Moment = datetime | str
P = TypeVar("P", bound=LogPage)


class LogQuery(Options, total=False):
    """Which lines of a log.

    ``query``: only lines with this in them, in upper or lower case. ``batch``: lines of a page,
    50 to 1000; 100 if absent. ``order``: which end comes first; ``oldest_first`` if absent.
    ``from_``, ``to``: only lines of this time or later, or earlier. ``pagination``: token of
    the page before, sent back together with its ``from_`` and ``to``.
    """

    query: str | None
    batch: int | None
    order: Order | None
    from_: Moment | None
    to: Moment | None
    pagination: str | None


class Logs(Transport):
    """Calls about logs."""

    def get_build_logs(self, build_id: str, **query: Unpack[LogQuery]) -> LogPage:
        """Return a page of a build's log."""
        return self._page(f"/v1/image/build/{segment(build_id)}/logs", query, LogPage)

    def get_vm_logs(self, vm_id: str, **query: Unpack[LogQuery]) -> LogPage:
        """Return a page of what a VM's program printed."""
        return self._page(f"/v1/vm/{segment(vm_id)}/logs", query, LogPage)

    def get_cached_vm_logs(self, vm_id: str, **query: Unpack[LogQuery]) -> LogPage:
        """Return a page of what a cached VM's program printed."""
        return self._page(f"/v1/vm/cached/{segment(vm_id)}/logs", query, LogPage)

    def get_function_logs(self, function_id: str, **query: Unpack[LogQuery]) -> FunctionLogPage:
        """Return a page of what a function printed, in all its instances."""
        path = f"/v1/functions/{segment(function_id)}/logs"
        return self._page(path, query, FunctionLogPage)

    def get_invocation_logs(
        self, invocation_id: str, **query: Unpack[LogQuery]
    ) -> InvocationLogPage:
        """Return a page of what was printed while an invocation ran, attempt by attempt."""
        path = f"/v1/invocations/{segment(invocation_id)}/logs"
        return self._page(path, query, InvocationLogPage)

    def iter_logs(
        self,
        source_id: str,
        *,
        query: str | None = None,
        order: Order | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        **options: Unpack[Options],
    ) -> Generator[LogLine]:
        """Yield all lines that a build, a VM, a function or an invocation has printed so far;
        ``timeout`` is for each page. Those of the last two are :class:`FunctionLogLine`.

        Args:
            source_id: Id of a build, a VM, a function or an invocation.
            query: Only lines with this in them, in upper or lower case.
            order: Which end comes first; ``oldest_first`` if absent.
            from_: Only lines of this time or later.
            to: Only lines of this time or earlier.
            options: ``timeout``.
        """
        asked = LogQuery(query=query, order=order, from_=from_, to=to, batch=BATCH_MAX, **options)
        while True:
            page = self._page(log_path(source_id), asked, _pages_of(source_id))
            yield from page.lines
            if page.pagination is None:
                return
            asked |= LogQuery(pagination=page.pagination, from_=page.from_, to=page.to)

    def follow_logs(
        self,
        source_id: str,
        *,
        query: str | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        after: int = 0,
        timeout: float | None = None,
    ) -> Generator[LogLine]:
        """Yield what a build, a VM, a function or an invocation prints, from the beginning on,
        until it has ended; a function never does. Lines of the last two are
        :class:`FunctionLogLine`.

        Goes on through broken connections, with no line lost or repeated. Stop when you like:
        the connection is closed with the generator.

        Args:
            source_id: Id of a build, a VM, a function or an invocation.
            query: Only lines with this in them, in upper or lower case.
            from_: Only lines of this time or later.
            to: Only lines of this time or earlier.
            after: Only lines behind the one with this id.
            timeout: Seconds within which it must have ended; None follows as long as it takes.
        """
        params = {**given(query=query, from_=from_, to=to), "follow": "true"}
        call = Call("GET", log_path(source_id), params)
        limit_s = FOREVER_S if timeout is None else timeout
        kind = lines_of(source_id)
        following = Following(limit_s, self._configuration.retries, after, kind=kind)
        while True:
            failure: CakeworkError | None = None
            try:
                with closing(self._follow_once(call, following)) as lines:
                    yield from lines
            except CakeworkError as error:
                failure = error
            if following.ended:
                return
            sleep(following.pause_s(failure))

    def _follow_once(self, call: Call, following: Following) -> Generator[LogLine]:
        with self._open(call, following.deadline, following.headers) as response:
            for chunk in response.iter_bytes():
                yield from following.take(chunk)
                if following.ended:
                    return

    def _page(self, path: str, query: LogQuery, kind: type[P]) -> P:
        asked = {name: value for name, value in query.items() if name != "timeout"}
        return self._call(kind, "GET", path, query, params=given(**asked))


def _pages_of(source_id: str) -> type[LogPage]:
    return LogPage if lines_of(source_id) is LogLine else FunctionLogPage
