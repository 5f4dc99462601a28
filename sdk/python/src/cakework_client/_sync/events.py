"""Made of _async/events.py by generate_sync.py; edit that.

Calls about events: what happened in your product, for the triggers that want it."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Unpack

from cakework_client._sync.logs import Moment
from cakework_client._sync.transport import Transport
from cakework_client.calls import Options, PostOptions, segment
from cakework_client.models import EmittedEvent, EmittedEvents, Event, EventPage, Match
from cakework_client.wire import UNSET, changed, given


class Events(Transport):
    """Calls about events: emitted, listed, and tried on filters."""

    def emit(
        self,
        type: str,  # noqa: A002
        data: Any = UNSET,
        *,
        subject: str | None = None,
        source: str | None = None,
        id: str | None = None,  # noqa: A002
        time: Moment | None = None,
        user_id: str | None = None,
        **options: Unpack[PostOptions],
    ) -> EmittedEvent:
        """Emit an event: each trigger that wants it makes an invocation.

        Args:
            type: What happened, such as ``order.paid``.
            data: What there is to know of it.
            subject: What it happened to, such as ``order-17``.
            source: Where it comes from; with ``id``, sent again within 24 hours it is done once.
            id: Your own id for it; one is made if absent.
            time: When it happened; now if absent.
            user_id: The end user whose it is; the account's own if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        event = given(type=type, subject=subject, source=source, id=id, time=time)
        events = [{**event, **changed(data=data)}]
        return (self.emit_events(events, user_id=user_id, **options)).events[0]

    def emit_events(
        self,
        events: Sequence[Mapping[str, Any]],
        *,
        user_id: str | None = None,
        **options: Unpack[PostOptions],
    ) -> EmittedEvents:
        """Emit events, up to 1,000: all of them are taken, or none.

        Args:
            events: CloudEvents: each has a ``type``, what else it lacks is filled in.
            user_id: The end user whose they are, if they name nobody.
            options: ``timeout``, ``idempotency_key``.
        """
        params, body = given(user_id=user_id), given(events=events)
        path = "/v1/events"
        return self._call(EmittedEvents, "POST", path, options, params=params, body=body)

    def list_events(
        self,
        *,
        type: str | None = None,  # noqa: A002
        subject: str | None = None,
        user_id: str | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> EventPage:
        """Return a page of events, newest first; see :meth:`iter_events` for all of them."""
        params = given(
            type=type, subject=subject, user_id=user_id, from_=from_, to=to, pagination=pagination
        )
        return self._call(EventPage, "GET", "/v1/events", options, params=params)

    def iter_events(
        self,
        *,
        type: str | None = None,  # noqa: A002
        subject: str | None = None,
        user_id: str | None = None,
        from_: Moment | None = None,
        to: Moment | None = None,
        **options: Unpack[Options],
    ) -> Generator[Event]:
        """Yield all events, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_events(
                type=type,
                subject=subject,
                user_id=user_id,
                from_=from_,
                to=to,
                pagination=pagination,
                **options,
            )
            yield from page.events
            pagination = page.pagination
            if pagination is None:
                return

    def get_event(self, event_id: str, **options: Unpack[Options]) -> Event:
        """Return an event, with the first hundred invocations that it made."""
        return self._call(Event, "GET", f"/v1/events/{segment(event_id)}", options)

    def test_filter(
        self,
        filter: dict[str, Any],  # noqa: A002
        event: Mapping[str, Any],
        **options: Unpack[PostOptions],
    ) -> Match:
        """Try a filter on an event, without emitting it; returns whether it takes it, and why.

        Args:
            filter: A filter, as triggers have them.
            event: An event, or as much of one as the filter looks at.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(filter=filter, event=event)
        return self._call(Match, "POST", "/v1/events/match", options, body=body)
