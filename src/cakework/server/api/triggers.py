"""Calls about triggers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.flow import Limits, Rule, given_limits, limits_of
from cakework.domain.functions import USER_ID_PATTERN, FailureHandler, RetryPolicy
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    FUNCTION_ID_PATTERN,
    TRIGGER_ID_PATTERN,
    AccountId,
    FunctionId,
    TriggerId,
    UserId,
)
from cakework.domain.occurrences import next_times
from cakework.domain.signatures import Verify
from cakework.domain.triggers import (
    CONFIGS,
    EXTERNAL_ID_PATTERN,
    CronConfig,
    EventConfig,
    LifecycleConfig,
    TriggerConfig,
    TriggerType,
    WebhookAnswers,
    WebhookConfig,
)
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.invocations import Invocation, InvocationRoutes
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody, Text, check_each, given
from cakework.server.automations.declarations import NewTrigger, TriggerFilter
from cakework.server.automations.rows import config_of, filter_of, is_active, retry_of
from cakework.server.automations.triggers import Fired, Shown, Triggers
from cakework.server.store.automation_models import TriggerRow
from cakework.turns import Turns

NEXT = 5
PAGES_AT_ONCE = 2
"""Of all accounts together."""
_NAME = r"^[^\x00-\x1f\x7f]{1,255}$"
TriggerIdPath = Annotated[
    str, Path(alias="triggerId", pattern=TRIGGER_ID_PATTERN, description="Id of the trigger.")
]
_Name = Annotated[Text, Field(pattern=_NAME)]
_UserId = Annotated[Text, Field(pattern=USER_ID_PATTERN)]
_Retry = Annotated[RetryPolicy, BeforeValidator(lambda value: given(RetryPolicy, value))]
_Handler = Annotated[FailureHandler, BeforeValidator(lambda value: given(FailureHandler, value))]


def _given_limits(value: object) -> tuple[Rule, ...]:
    check_each(Rule, value)
    return given_limits(value)


_Limits = Annotated[Limits, BeforeValidator(_given_limits)]
_PAUSE_AFTER = "Paused by itself after so many invocations in a row that failed for good."
_RETRY = "When what it makes is tried again; as its function says if absent."
_LIMITS = "Flow control of what it makes, before that of its function."
_FILTER = "A pattern that its events have to match."


class VerifyGiven(Verify):
    """How what comes in is checked, with the secret."""

    secret: SecretStr | None = Field(
        default=None,
        description="The secret: the provider's, where that makes it; else one is made and shown "
        "once.",
    )


class WebhookConfigGiven(WebhookAnswers):
    """What a webhook is told, with its secret."""

    verify: VerifyGiven = Field(description="How what comes in is checked.")


_Given = CronConfig | EventConfig | WebhookConfigGiven | LifecycleConfig
_GIVEN = {**CONFIGS, TriggerType.WEBHOOK: WebhookConfigGiven}


def _config(value: object, info: ValidationInfo) -> object:
    kind = info.data.get("type")
    if kind is None:
        # What is wrong with the type is told.
        return CronConfig(every=60)
    return given(_GIVEN[kind], value)


class CreateTrigger(RequestBody):
    """What createTrigger takes."""

    function_id: Annotated[str, Field(pattern=FUNCTION_ID_PATTERN)] = Field(
        description="The function that it makes invocations of."
    )
    type: Annotated[TriggerType, Field(strict=False)] = Field(
        description="What it waits for: cron, event, webhook or lifecycle."
    )
    config: Annotated[_Given, BeforeValidator(_config)] = Field(
        description="What its type wants to know.",
        examples=[{"cron": "0 9 * * 1-5", "timeZone": "Europe/Berlin"}],
    )
    filter: dict[str, Any] | None = Field(
        default=None,
        description=f"{_FILTER} For event, webhook and lifecycle.",
        examples=[{"data": {"total": [{"numeric": [">", 100]}]}}],
    )
    name: _Name | None = Field(default=None, description="What it is, for people.")
    user_id: _UserId | None = Field(
        default=None, description="The end user for whom it is; whose the function is if absent."
    )
    external_id: Annotated[Text, Field(pattern=EXTERNAL_ID_PATTERN)] | None = Field(
        default=None,
        description="Your own id for it, one of its function's. Made again with the same body it "
        "is the same trigger.",
    )
    enabled: bool = Field(default=True, description="Whether it makes anything.")
    retry: _Retry | None = Field(default=None, description=_RETRY)
    limits: _Limits = Field(default=(), description=_LIMITS)
    on_failure: _Handler | None = Field(
        default=None,
        description="The function that is told of what failed for good; as its function says if "
        "absent.",
    )
    pause_after: int | None = Field(default=None, ge=1, le=10_000, description=_PAUSE_AFTER)
    managed_by: Literal["api", "file"] = Field(
        default="api", description="`file`: it is declared in a cakework.toml, and goes with that."
    )

    def told(self) -> NewTrigger:
        """Return it as triggers are asked for."""
        config, secret = _without_secret(self.config)
        return NewTrigger(
            function_id=FunctionId(self.function_id),
            config=config,
            user_id=UserId(self.user_id) if self.user_id else ACCOUNT_ITSELF,
            name=self.name,
            external_id=self.external_id,
            managed_by=self.managed_by,
            filter=self.filter,
            retry=self.retry,
            limits=_told_limits(self.limits),
            on_failure=FunctionId(self.on_failure.function_id) if self.on_failure else None,
            pause_after=self.pause_after,
            enabled=self.enabled,
            secret=secret,
        )


class UpdateTrigger(RequestBody):
    """What updateTrigger takes: what is absent stays, null takes away."""

    name: _Name | None = Field(default=None, description="What it is, for people.")
    enabled: bool | None = Field(
        default=None,
        description="false pauses it; true has it go on from now, also where it paused by itself.",
    )
    config: dict[str, Any] | None = Field(
        default=None, description="Fields of its configuration to change; null takes one away."
    )
    filter: dict[str, Any] | None = Field(default=None, description=_FILTER)
    retry: _Retry | None = Field(default=None, description=_RETRY)
    limits: _Limits | None = Field(default=None, description=_LIMITS)
    on_failure: _Handler | None = Field(
        default=None, description="The function that is told of what failed for good."
    )
    pause_after: int | None = Field(default=None, ge=1, le=10_000, description=_PAUSE_AFTER)

    def changes(self, config: TriggerConfig) -> dict[str, Any]:
        """Return what is to be changed of a trigger with ``config``."""
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        if (handler := changes.get("on_failure")) is not None:
            changes["on_failure"] = handler.function_id
        if "limits" in changes:
            changes["limits"] = _told_limits(self.limits or ())
        for name in ("enabled", "config"):
            if changes.get(name, 0) is None:
                del changes[name]
        if self.config is not None:
            changes["config"] = _changed(config, self.config)
        return changes


class RunTrigger(RequestBody):
    """What runTrigger takes: an event, or what is to be its data; or neither."""

    event: dict[str, Any] | None = Field(
        default=None, description="A CloudEvent; what it lacks is filled in."
    )
    data: Any = Field(default=None, description="The data of an event that is made around it.")


class RotateTrigger(RequestBody):
    """What rotateTriggerSecret takes."""

    secret: bool | SecretStr = Field(
        default=True,
        description="true: a new secret is made, and shown once; or the provider's new one. The "
        "one before is taken for 24 hours.",
    )
    url: bool = Field(
        default=False, description="true: it has another URL, and the one before leads nowhere."
    )


class TriggerRefused(AnswerBody):
    """What came in at a webhook and was not signed as it should be."""

    count: int = Field(description="How often.")
    why: str | SkipJsonSchema[None] = Field(
        default=None, description="What was wrong with the last, for people."
    )
    last_at: str | SkipJsonSchema[None] = Field(
        default=None, description="When.", json_schema_extra={"format": "date-time"}
    )


class Trigger(AnswerBody):
    """A trigger."""

    id: str = Field(description="Id of the trigger.", pattern=TRIGGER_ID_PATTERN)
    function_id: str = Field(description="The function.", pattern=FUNCTION_ID_PATTERN)
    type: TriggerType = Field(description="What it waits for.")
    name: str | SkipJsonSchema[None] = Field(default=None, description="What it is, for people.")
    user_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The end user for whom it is."
    )
    external_id: str | SkipJsonSchema[None] = Field(default=None, description="Your id for it.")
    managed_by: Literal["api", "file"] = Field(
        description="`file`: it is declared in a cakework.toml."
    )
    enabled: bool = Field(description="Whether its owner has it make anything.")
    state: Literal["active", "paused"] = Field(
        description="paused: it makes nothing, by its owner's word or by itself."
    )
    paused_reason: str | SkipJsonSchema[None] = Field(
        default=None,
        description="Why it is paused by itself: `done`, a schedule that has no next time; or what "
        "failed too often.",
    )
    config: CronConfig | EventConfig | WebhookConfig | LifecycleConfig = Field(
        description="What it was told, with defaults and without a secret."
    )
    filter: dict[str, Any] | SkipJsonSchema[None] = Field(default=None, description=_FILTER)
    retry: RetryPolicy | SkipJsonSchema[None] = Field(default=None, description=_RETRY)
    limits: Limits | SkipJsonSchema[None] = Field(default=None, description=_LIMITS)
    on_failure: FailureHandler | SkipJsonSchema[None] = Field(
        default=None, description="The function that is told of what failed for good."
    )
    pause_after: int | SkipJsonSchema[None] = Field(default=None, description=_PAUSE_AFTER)
    consecutive_failures: int = Field(
        description="Invocations in a row that failed for good, up to the last."
    )
    url: str | SkipJsonSchema[None] = Field(
        default=None,
        description="Of a webhook: where the provider sends to, behind this API's address.",
    )
    next: list[str] | SkipJsonSchema[None] = Field(
        default=None,
        description="Of a schedule: the next five times.",
        json_schema_extra={"items": {"type": "string", "format": "date-time"}},
    )
    last_fired_at: str | SkipJsonSchema[None] = Field(
        default=None,
        description="When it last made an invocation.",
        json_schema_extra={"format": "date-time"},
    )
    last_result: str | SkipJsonSchema[None] = Field(
        default=None, description="The state of that invocation."
    )
    refused: TriggerRefused | SkipJsonSchema[None] = Field(
        default=None, description="Of a webhook: what was not signed as it should be."
    )
    created_at: str = Field(
        description="When it was made.", json_schema_extra={"format": "date-time"}
    )
    updated_at: str = Field(
        description="When it last changed.", json_schema_extra={"format": "date-time"}
    )


class TriggerWithSecret(Trigger):
    """A trigger; of a webhook whose secret was made here with that, which is shown only now."""

    secret: str | SkipJsonSchema[None] = Field(
        default=None, description="The secret that the provider signs with. Not shown again."
    )


class TriggerPage(Page):
    """A page of the list of triggers."""

    triggers: list[Trigger] = Field(description="Triggers, newest first, at most 100.")


class TriggerDeleted(AnswerBody):
    """Nothing is left to say."""


class TriggerParameters(BaseModel):
    """What listTriggers takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    function_id: str | None = Field(
        default=None, alias="functionId", description="Only of this function."
    )
    user_id: str | None = Field(default=None, alias="userId", description="Only for this end user.")
    type: TriggerType | None = Field(default=None, description="Only of this type.")
    external_id: str | None = Field(
        default=None, alias="externalId", description="Only with this id of yours."
    )
    pagination: GivenToken = None


@dataclass(frozen=True, slots=True)
class TriggerRoutes:
    """The calls about triggers. ``invocations`` shows what one was made to do; ``pages`` bounds how
    many pages are put together at once."""

    triggers: Triggers
    invocations: InvocationRoutes
    pages: Turns[AccountId]

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Triggers"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        looked = (*always, NotFound)
        posted = (*looked, Conflict, *BODY_ERRORS)
        all_, one = "/v1/triggers", "/v1/triggers/{triggerId}"
        for method, path, call, name, summary, errors in (
            (
                *("POST", all_, self.create, "createTrigger"),
                *("Have something make invocations of a function", (*posted, QuotaExceeded)),
            ),
            ("GET", all_, self.list, "listTriggers", "List triggers, newest first", always),
            ("GET", one, self.get, "getTrigger", "Look at a trigger", looked),
            (
                *("PATCH", one, self.update, "updateTrigger"),
                *("Change a trigger, pause it, or have it go on", posted),
            ),
            ("DELETE", one, self.delete, "deleteTrigger", "Delete a trigger", looked),
            (
                *("POST", f"{one}/run", self.run, "runTrigger"),
                *("Have a trigger make an invocation now", (*posted, QuotaExceeded)),
            ),
            (
                *("POST", f"{one}/rotate", self.rotate, "rotateTriggerSecret"),
                *("Give a webhook another secret, or another URL", posted),
            ),
        ):
            router.add_api_route(
                path,
                cast("Any", call),
                methods=[method],
                operation_id=name,
                summary=summary,
                status_code=202 if name == "runTrigger" else 200,
                response_model_exclude_none=True,
                responses=responses(*errors),
            )
        return router

    async def create(
        self, request: Request, account: Account, token: Token, body: CreateTrigger
    ) -> TriggerWithSecret:
        """Make a trigger of a function."""
        shown = await self.triggers.create(account, body.told(), token)
        return self._with_secret(request, shown)

    async def list(
        self,
        request: Request,
        account: Account,
        parameters: Annotated[TriggerParameters, Query()],
    ) -> TriggerPage:
        """List the account's triggers, newest first, 100 a page."""
        wanted = TriggerFilter(
            parameters.function_id, parameters.user_id, parameters.type, parameters.external_id
        )
        shown, place = await self.triggers.page(account, wanted, place_of(parameters.pagination))
        async with self.pages.hold(account):
            page = await asyncio.to_thread(self._page, request, shown, token_of(place))
        # What is a response already is answered as it is.
        return cast("TriggerPage", Response(page, media_type="application/json"))

    async def get(self, request: Request, account: Account, trigger_id: TriggerIdPath) -> Trigger:
        """Look at a trigger: what it waits for, and what it made last."""
        shown = await self.triggers.get(account, TriggerId(trigger_id))
        return self._answer(request, shown)

    async def update(
        self, request: Request, account: Account, trigger_id: TriggerIdPath, body: UpdateTrigger
    ) -> Trigger:
        """Change a trigger: the next time it goes by what is said here."""
        row = (await self.triggers.get(account, TriggerId(trigger_id))).row
        changes = body.changes(config_of(row))
        shown = await self.triggers.change(account, TriggerId(row.id), changes)
        return self._answer(request, shown)

    async def delete(self, account: Account, trigger_id: TriggerIdPath) -> TriggerDeleted:
        """Delete a trigger. What it made goes on."""
        await self.triggers.delete(account, TriggerId(trigger_id))
        return TriggerDeleted()

    async def run(
        self,
        account: Account,
        token: Token,
        trigger_id: TriggerIdPath,
        body: RunTrigger | None = None,
    ) -> Invocation:
        """Have a trigger make an invocation now, as if it had come round; its event says `test`.

        Nothing is filtered, and nothing counts as its last time.
        """
        asked = body or RunTrigger()
        event = asked.event or {}
        if "data" in asked.model_fields_set:
            event = {**event, "data": asked.data}
        row = await self.triggers.run(account, TriggerId(trigger_id), event, token)
        return await self.invocations.answer(row)

    async def rotate(
        self,
        request: Request,
        account: Account,
        token: Token,
        trigger_id: TriggerIdPath,
        body: RotateTrigger | None = None,
    ) -> TriggerWithSecret:
        """Give a webhook another secret, another URL, or both."""
        asked = body or RotateTrigger()
        secret = asked.secret
        told = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        shown = await self.triggers.rotate(
            account, TriggerId(trigger_id), url=asked.url, secret=told, token=token
        )
        return self._with_secret(request, shown)

    def _page(self, request: Request, shown: Sequence[Shown], pagination: str | None) -> str:
        """Return a page as JSON: to read what a hundred triggers are told, and write it again, may
        take a second. It is done piece by piece, so that others have a turn."""
        answers = (self._answer(request, each) for each in shown)
        told = ",".join(each.model_dump_json(by_alias=True, exclude_none=True) for each in answers)
        rest = TriggerPage(triggers=[], pagination=pagination)
        page = rest.model_dump_json(by_alias=True, exclude_none=True)
        return page.replace('"triggers":[]', f'"triggers":[{told}]', 1)

    def _with_secret(self, request: Request, shown: Shown) -> TriggerWithSecret:
        told = self._answer(request, shown)
        fields = {name: getattr(told, name) for name in Trigger.model_fields}
        return TriggerWithSecret(**fields, secret=shown.secret)

    def _answer(self, request: Request, shown: Shown) -> Trigger:
        door = self.triggers.door(shown.row)
        url = None if door is None else f"{request.base_url}in/{door}"
        return trigger_answer(shown.row, self.triggers.now_ms(), shown.last, url)


def trigger_answer(
    row: TriggerRow, now_ms: int, last: Fired | None = None, url: str | None = None
) -> Trigger:
    """Return a trigger as the API shows it: with what it made ``last``, and a webhook's ``url``."""
    config, times = config_of(row), None
    if isinstance(config, CronConfig):
        times = [rfc3339(at) for at in next_times(row.id, config, count=NEXT, after_ms=now_ms)]
    return Trigger(
        id=row.id,
        function_id=row.function_id,
        type=TriggerType(row.type),
        name=row.name,
        user_id=row.user_id or None,
        external_id=row.external_id,
        managed_by="file" if row.managed_by == "file" else "api",
        enabled=row.enabled,
        state="active" if is_active(row) else "paused",
        paused_reason=row.paused_reason,
        config=config,
        filter=filter_of(row),
        retry=retry_of(row),
        limits=limits_of(row.limits) or None,
        on_failure=FailureHandler(function_id=row.on_failure) if row.on_failure else None,
        pause_after=row.pause_after,
        consecutive_failures=row.failures,
        url=url,
        next=times,
        last_fired_at=None if last is None else rfc3339(last.at_ms),
        last_result=None if last is None else last.state,
        refused=_refused(row) if isinstance(config, WebhookConfig) else None,
        created_at=rfc3339(row.created_ms),
        updated_at=rfc3339(row.updated_ms),
    )


def _told_limits(limits: tuple[Rule, ...]) -> list[dict[str, Any]] | None:
    return [rule.model_dump(by_alias=True) for rule in limits] or None


def _refused(row: TriggerRow) -> TriggerRefused:
    last = None if row.refused_ms is None else rfc3339(row.refused_ms)
    return TriggerRefused(count=row.refused, why=row.refused_why, last_at=last)


def _without_secret(config: _Given) -> tuple[TriggerConfig, str | None]:
    if not isinstance(config, WebhookConfigGiven):
        return config, None
    secret = config.verify.secret
    told = config.model_dump(by_alias=True, exclude_unset=True, exclude={"verify": {"secret"}})
    plain = WebhookConfig.model_validate(told)
    return plain, None if secret is None else secret.get_secret_value()


def _changed(config: TriggerConfig, fields: dict[str, Any]) -> TriggerConfig:
    """Return a configuration with some fields changed. Raises RequestValidationError."""
    told = config.model_dump(mode="json", by_alias=True, exclude_unset=True) | fields
    told = {name: value for name, value in told.items() if value is not None}
    try:
        return given(type(config), told)
    except ValidationError as error:
        faults = [
            {**each, "loc": ("body", "config", *each["loc"])}
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise RequestValidationError(faults) from error
