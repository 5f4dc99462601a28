"""Made of _async/triggers.py by generate_sync.py; edit that.

Calls about triggers: what makes invocations of functions."""

from collections.abc import Generator
from typing import Any, Unpack

from cakework_client._sync.logs import Moment
from cakework_client._sync.transport import Transport
from cakework_client.calls import Options, PostOptions, segment
from cakework_client.models import (
    FailureFunction,
    Invocation,
    ManagedBy,
    RetrySettings,
    SchedulePreview,
    Trigger,
    TriggerDeleted,
    TriggerPage,
    TriggerSettings,
    TriggerType,
    TriggerWithSecret,
)
from cakework_client.wire import UNSET, Unset, changed, given


class Triggers(Transport):
    """Calls about triggers: schedules, events, webhooks that come in, what the platform does."""

    def create_trigger(
        self,
        function_id: str,
        type: TriggerType,  # noqa: A002
        config: TriggerSettings,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        name: str | None = None,
        user_id: str | None = None,
        external_id: str | None = None,
        enabled: bool | None = None,
        retry: RetrySettings | None = None,
        on_failure: FailureFunction | None = None,
        pause_after: int | None = None,
        managed_by: ManagedBy | None = None,
        **options: Unpack[PostOptions],
    ) -> TriggerWithSecret:
        """Have something make invocations of a function.

        Of a webhook whose secret was made here, ``secret`` of the answer is shown this once.

        Args:
            function_id: Id of the function.
            type: What it waits for.
            config: What that type wants to know, by the API's names, such as
                ``{"cron": "0 9 * * 1-5", "timeZone": "Europe/Berlin"}``.
            filter: A pattern that its events have to match; not for schedules.
            name: What it is, for people.
            user_id: The end user for whom it is; whose the function is if absent.
            external_id: Your own id for it: made again with the same, it is the same trigger.
            enabled: False makes it paused.
            retry: When what it makes is tried again; as its function says if absent.
            on_failure: The function that is told of what failed for good.
            pause_after: Paused by itself after so many in a row that failed for good.
            managed_by: ``file`` for one that a cakework.toml declares.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            function_id=function_id,
            type=type,
            config=config,
            filter=filter,
            name=name,
            user_id=user_id,
            external_id=external_id,
            enabled=enabled,
            retry=retry,
            on_failure=on_failure,
            pause_after=pause_after,
            managed_by=managed_by,
        )
        return self._call(TriggerWithSecret, "POST", "/v1/triggers", options, body=body)

    def list_triggers(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        type: TriggerType | None = None,  # noqa: A002
        external_id: str | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> TriggerPage:
        """Return a page of triggers, newest first; see :meth:`iter_triggers` for all of them."""
        params = given(
            function_id=function_id,
            user_id=user_id,
            type=type,
            external_id=external_id,
            pagination=pagination,
        )
        return self._call(TriggerPage, "GET", "/v1/triggers", options, params=params)

    def iter_triggers(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        type: TriggerType | None = None,  # noqa: A002
        external_id: str | None = None,
        **options: Unpack[Options],
    ) -> Generator[Trigger]:
        """Yield all triggers, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_triggers(
                function_id=function_id,
                user_id=user_id,
                type=type,
                external_id=external_id,
                pagination=pagination,
                **options,
            )
            yield from page.triggers
            pagination = page.pagination
            if pagination is None:
                return

    def get_trigger(self, trigger_id: str, **options: Unpack[Options]) -> Trigger:
        """Return a trigger: what it waits for, and what it made last."""
        return self._call(Trigger, "GET", _path(trigger_id), options)

    def update_trigger(
        self,
        trigger_id: str,
        *,
        name: str | Unset | None = UNSET,
        enabled: bool | Unset = UNSET,
        config: TriggerSettings | Unset = UNSET,
        filter: dict[str, Any] | Unset | None = UNSET,  # noqa: A002
        retry: RetrySettings | Unset | None = UNSET,
        on_failure: FailureFunction | Unset | None = UNSET,
        pause_after: int | Unset | None = UNSET,
        **options: Unpack[Options],
    ) -> Trigger:
        """Change what is given of a trigger; all else stays, and None takes away.

        Args:
            trigger_id: Id of the trigger.
            name: What it is, for people.
            enabled: False pauses it; True has it go on from now, also where it paused by itself.
            config: Fields of its configuration to change; one that is None goes.
            filter: A pattern that its events have to match.
            retry: When what it makes is tried again.
            on_failure: The function that is told of what failed for good.
            pause_after: Paused by itself after so many in a row that failed for good.
            options: ``timeout``.
        """
        body = changed(
            name=name,
            enabled=enabled,
            config=config,
            filter=filter,
            retry=retry,
            on_failure=on_failure,
            pause_after=pause_after,
        )
        return self._call(Trigger, "PATCH", _path(trigger_id), options, body=body)

    def delete_trigger(self, trigger_id: str, **options: Unpack[Options]) -> TriggerDeleted:
        """Delete a trigger; what it made goes on."""
        return self._call(TriggerDeleted, "DELETE", _path(trigger_id), options)

    def run_trigger(
        self,
        trigger_id: str,
        *,
        data: Any = UNSET,
        event: dict[str, Any] | None = None,
        **options: Unpack[PostOptions],
    ) -> Invocation:
        """Have a trigger make an invocation now, paused or not; its event says ``test``.

        Args:
            trigger_id: Id of the trigger.
            data: The data of its event.
            event: A CloudEvent, in the place of ``data``; what it lacks is filled in.
            options: ``timeout``, ``idempotency_key``.
        """
        body = {**given(event=event), **changed(data=data)}
        path = f"{_path(trigger_id)}/run"
        return self._call(Invocation, "POST", path, options, body=body)

    def rotate_trigger_secret(
        self,
        trigger_id: str,
        *,
        secret: bool | str | None = None,
        url: bool | None = None,
        **options: Unpack[PostOptions],
    ) -> TriggerWithSecret:
        """Give a webhook another secret, another URL, or both.

        The secret before is taken for 24 hours, the URL before leads nowhere.

        Args:
            trigger_id: Id of the trigger.
            secret: The provider's new one; True, if absent, has one made, which is shown this once;
                False leaves it.
            url: Whether it gets another URL.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(secret=secret, url=url)
        path = f"{_path(trigger_id)}/rotate"
        return self._call(TriggerWithSecret, "POST", path, options, body=body)

    def preview_schedule(
        self,
        cron: str | None = None,
        *,
        every: int | None = None,
        at: Moment | None = None,
        time_zone: str | None = None,
        count: int | None = None,
        from_: Moment | None = None,
        **options: Unpack[PostOptions],
    ) -> SchedulePreview:
        """Return when a schedule would come round; makes nothing.

        Args:
            cron: Minute, hour, day of the month, month, weekday; or
            every: every so many seconds; or
            at: once, at this time.
            time_zone: The zone whose clock ``cron`` goes by; UTC if absent.
            count: How many times to tell; 5 if absent.
            from_: Tell those after this time; now if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(cron=cron, every=every, at=at, time_zone=time_zone, count=count, from_=from_)
        path = "/v1/schedules/preview"
        return self._call(SchedulePreview, "POST", path, options, body=body)


def _path(trigger_id: str) -> str:
    return f"/v1/triggers/{segment(trigger_id)}"
