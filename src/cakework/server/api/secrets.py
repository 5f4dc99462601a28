"""Calls about secrets of functions, whose values are taken and never given."""

import base64
import json
import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    FieldError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.functions import OURS, UPPER_CASE_PATTERN, USER_ID_PATTERN, SecretName
from cakework.domain.ids import ACCOUNT_ITSELF, FUNCTION_ID_PATTERN, FunctionId, UserId
from cakework.server.api.account_route import Account, Door
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody
from cakework.server.functions.secrets import Scope, SecretPlace, Secrets
from cakework.server.store.function_models import SecretRow

TOKEN_CHARS_MAX = 600
_PLACE = re.compile(r"[A-Za-z0-9._:@-]{0,128} (fn_[0-9A-Z]{26})? [A-Z][A-Z0-9_]{0,127}")
NamePath = Annotated[
    str,
    Path(
        alias="name",
        description="Its name: the variable that programs see. Up to 128 of A-Z, 0-9 and _, a "
        f"letter first, and not {OURS}….",
        json_schema_extra={"pattern": UPPER_CASE_PATTERN},
    ),
]
_NAME: TypeAdapter[str] = TypeAdapter(SecretName)
_FunctionId = Annotated[
    str | None,
    Query(alias="functionId", pattern=FUNCTION_ID_PATTERN, description="Of this function alone."),
]
_UserId = Annotated[
    str | None,
    Query(alias="userId", pattern=USER_ID_PATTERN, description="Of this end user."),
]


class PutSecret(RequestBody):
    """What putSecret takes."""

    value: SecretStr = Field(
        description="The value: 1 to 32,768 bytes of UTF-8 without NUL. It is not shown again."
    )
    shared: bool | None = Field(
        default=None,
        description="Of the account's: whether functions of end users may name it, too. "
        "Absent: as it was, and not, if it is new.",
    )


class Secret(AnswerBody):
    """A secret, without its value."""

    name: str = Field(description="Its name.")
    function_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The function whose alone it is; absent for all others."
    )
    user_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The end user whose it is; absent for all others."
    )
    shared: bool = Field(description="Whether functions of end users may name it, too.")
    fingerprint: str = Field(
        description="The same while its value is the same. It tells nothing of the value, and "
        "is another one for the same value elsewhere."
    )
    updated_at: str = Field(
        description="When it last was put.", json_schema_extra={"format": "date-time"}
    )
    last_used_at: str | SkipJsonSchema[None] = Field(
        default=None,
        description="When an instance last was given it, to the minute; absent if none was.",
        json_schema_extra={"format": "date-time"},
    )


class SecretPage(AnswerBody):
    """A page of the list of secrets."""

    secrets: list[Secret] = Field(
        description="Secrets, the account's own first, then by whose they are and by name."
    )
    pagination: str | SkipJsonSchema[None] = Field(
        default=None, description="Token for the next page; absent on the last one."
    )


class SecretDeleted(AnswerBody):
    """Nothing is left to say."""


class SecretParameters(BaseModel):
    """What listSecrets takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    function_id: str | None = Field(
        default=None,
        alias="functionId",
        pattern=FUNCTION_ID_PATTERN,
        description="Only those of this function alone.",
    )
    user_id: str | None = Field(
        default=None,
        alias="userId",
        pattern=USER_ID_PATTERN,
        description="Only those of this end user.",
    )
    pagination: str | None = Field(
        default=None,
        max_length=TOKEN_CHARS_MAX,
        description="Token that the page before gave.",
    )


@dataclass(frozen=True, slots=True)
class SecretRoutes:
    """The calls about secrets."""

    secrets: Secrets

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Secrets"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, NotFound, CakeworkError)
        one = "/v1/secrets/{name}"
        for path, method, call, name, summary, errors in (
            (
                *(one, "PUT", self.put, "putSecret"),
                *("Make a secret, or change its value", (*always, QuotaExceeded, *BODY_ERRORS)),
            ),
            ("/v1/secrets", "GET", self.list, "listSecrets", "List secrets", always),
            (one, "DELETE", self.delete, "deleteSecret", "Delete a secret", always),
        ):
            router.add_api_route(
                path,
                call,
                methods=[method],
                operation_id=name,
                summary=summary,
                response_model_exclude_none=True,
                responses=responses(*errors),
            )
        return router

    async def put(
        self,
        account: Account,
        name: NamePath,
        body: PutSecret,
        function_id: _FunctionId = None,
        user_id: _UserId = None,
    ) -> Secret:
        """Make a secret, or change its value; instances that have another go within seconds.

        Without `functionId` and `userId` it is the account's.
        """
        value = _text(body.value.get_secret_value())
        scope = _scope(function_id, user_id)
        row = await self.secrets.put(account, scope, _name(name), value, shared=body.shared)
        return _secret(row)

    async def list(
        self, account: Account, parameters: Annotated[SecretParameters, Query()]
    ) -> SecretPage:
        """List secrets, 100 a page, without their values."""
        function_id, user_id = parameters.function_id, parameters.user_id
        scope = _scope(function_id, user_id) if function_id or user_id else None
        place = _place(parameters.pagination)
        rows, after = await self.secrets.page(account, scope, place)
        return SecretPage(secrets=[_secret(row) for row in rows], pagination=_token(after))

    async def delete(
        self,
        account: Account,
        name: NamePath,
        function_id: _FunctionId = None,
        user_id: _UserId = None,
    ) -> SecretDeleted:
        """Delete a secret; instances that have it go within seconds."""
        await self.secrets.delete(account, _scope(function_id, user_id), _name(name))
        return SecretDeleted()


def _scope(function_id: str | None, user_id: str | None) -> Scope:
    user = UserId(user_id) if user_id else ACCOUNT_ITSELF
    return Scope(user, FunctionId(function_id or ""))


def _name(name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        message = f"must be up to 128 of A-Z, 0-9 and _, a letter first, and not begin with {OURS}"
        raise InvalidRequest(
            "The secret's name is not valid.", [FieldError("name", message)]
        ) from error


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        fault = FieldError("value", "must be text that UTF-8 can hold")
        # Not from the error, which has the value in it.
        raise InvalidRequest("The secret is not valid.", [fault]) from None
    return value


def _secret(row: SecretRow) -> Secret:
    return Secret(
        name=row.name,
        function_id=row.function_id or None,
        user_id=row.user_id or None,
        shared=row.shared,
        fingerprint=row.fingerprint,
        updated_at=rfc3339(row.updated_ms),
        last_used_at=None if row.used_ms is None else rfc3339(row.used_ms),
    )


def _token(place: SecretPlace | None) -> str | None:
    if place is None:
        return None
    text = json.dumps([place.user_id, place.function_id, place.name])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(token: str | None) -> SecretPlace | None:
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        match json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)):
            case [str(user_id), str(function_id), str(name)]:
                place = SecretPlace(user_id, function_id, name)
                if _PLACE.fullmatch(" ".join((user_id, function_id, name))):
                    return place
            case _:
                pass
    except (ValueError, RecursionError):
        pass
    raise InvalidRequest(
        "The pagination token cannot be used.",
        [FieldError("pagination", "is not one that was given")],
    )
