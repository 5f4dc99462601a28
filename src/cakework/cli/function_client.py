"""Calls about functions, over the client."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cakework_client import Answer, CakeworkClient, CakeworkError, LogLine
from cakework_client.calls import Call, segment
from cakework_client.folders import File
from cakework_client.following import FOREVER_S, Following
from cakework_client.wire import given


@dataclass(frozen=True, slots=True, kw_only=True)
class Function(Answer):
    """A function."""

    id: str
    name: str
    runtime: str
    state: str
    url: str
    created_at: datetime
    updated_at: datetime
    kind: str = "function"
    user_id: str | None = None
    live_version: int | None = None
    settings: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(Answer):
    """A version of a function."""

    function_id: str
    version: int
    state: str
    build_id: str
    runtime: str
    entry: str
    source_digest: str
    created_at: datetime
    updated_at: datetime | None = None
    error: str | None = None
    handlers: list[str] | None = None
    message: str | None = None
    snapshot: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation(Answer):
    """One piece of work."""

    id: str
    function_id: str
    state: str
    trigger: str
    kind: str
    attempt: int
    created_at: datetime
    updated_at: datetime
    version: int | None = None
    user_id: str | None = None
    reason: str | None = None
    next_attempt_at: datetime | None = None
    event: dict[str, Any] | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    attempts: list[dict[str, Any]] | None = None
    replay_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Answer):
    """A secret, without its value."""

    name: str
    updated_at: datetime
    function_id: str | None = None
    user_id: str | None = None
    shared: bool | None = None
    fingerprint: str | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched(Answer):
    """How many dead letters there were of those that were named."""

    matched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone(Answer):
    """Something is no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionLine(LogLine):
    """A line that a function printed."""

    invocation_id: str | None = None
    attempt: int | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _LinePage(Answer):
    lines: list[FunctionLine]
    pagination: str | None = None
    from_: datetime | None = None
    to: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _FunctionPage(Answer):
    functions: list[Function]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _VersionPage(Answer):
    versions: list[Version]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _InvocationPage(Answer):
    invocations: list[Invocation]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _SecretPage(Answer):
    secrets: list[Secret]
    pagination: str | None = None


class FunctionClient(CakeworkClient):
    """The client, with the calls about functions."""

    def create_function(
        self,
        name: str,
        runtime: str,
        *,
        user_id: str | None = None,
        kind: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Function:
        """Make a function that has no version yet."""
        body = given(name=name, runtime=runtime, user_id=user_id, kind=kind, settings=settings)
        return self._call(Function, "POST", "/v1/functions", {}, body=body)

    def iter_functions(
        self, *, name: str | None = None, user_id: str | None = None, kind: str | None = None
    ) -> Iterator[Function]:
        """Yield functions, newest first."""
        params = given(name=name, user_id=user_id, kind=kind)
        while True:
            page = self._call(_FunctionPage, "GET", "/v1/functions", {}, params=params)
            yield from page.functions
            if page.pagination is None:
                return
            params["pagination"] = page.pagination

    def get_function(self, function_id: str) -> Function:
        """Return a function."""
        return self._call(Function, "GET", _function(function_id), {})

    def update_function(self, function_id: str, *, settings: Mapping[str, Any]) -> Function:
        """Change settings; what is not named stays."""
        body = {"settings": dict(settings)}
        return self._call(Function, "PATCH", _function(function_id), {}, body=body)

    def delete_function(self, function_id: str) -> Gone:
        """Delete a function with its versions."""
        return self._call(Gone, "DELETE", _function(function_id), {})

    def deploy_function(
        self,
        function_id: str,
        files: Sequence[File],
        *,
        entry: str | None = None,
        signature: str | None = None,
        message: str | None = None,
        promote: bool | None = None,
    ) -> Version:
        """Send code; returns the version that is made of it."""
        more = given(entry=entry, signature=signature, message=message, promote=promote)
        body = {"source": {"files": list(files)}, **more}
        return self._call(Version, "POST", f"{_function(function_id)}/versions", {}, body=body)

    def get_version(self, function_id: str, version: int) -> Version:
        """Return a version."""
        return self._call(Version, "GET", f"{_function(function_id)}/versions/{version}", {})

    def iter_versions(self, function_id: str) -> Iterator[Version]:
        """Yield versions, newest first."""
        params: dict[str, Any] = {}
        path = f"{_function(function_id)}/versions"
        while True:
            page = self._call(_VersionPage, "GET", path, {}, params=params)
            yield from page.versions
            if page.pagination is None:
                return
            params["pagination"] = page.pagination

    def promote_version(self, function_id: str, version: int) -> Function:
        """Make a version live."""
        body = {"version": version}
        return self._call(Function, "POST", f"{_function(function_id)}/promote", {}, body=body)

    def invoke_function(self, function_id: str, body: Mapping[str, Any]) -> Invocation:
        """Invoke a function."""
        return self._call(Invocation, "POST", f"{_function(function_id)}/invoke", {}, body=body)

    def get_invocation(self, invocation_id: str, *, wait: float | None = None) -> Invocation:
        """Return an invocation: when it has ended, or as it is after ``wait`` seconds."""
        return self._call(
            Invocation, "GET", _invocation(invocation_id), {}, params=given(wait=wait)
        )

    def get_invocation_result(self, invocation_id: str) -> tuple[bytes, str]:
        """Return the bytes of a result, and their type."""
        call = Call("GET", f"{_invocation(invocation_id)}/result")
        with self._open(call, self._deadline(None)) as response:
            content = response.read()
            return content, response.headers.get("content-type", "")

    def iter_invocations(
        self,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        from_: str | None = None,
        to: str | None = None,
    ) -> Iterator[Invocation]:
        """Yield invocations, newest first."""
        wanted = given(function_id=function_id, user_id=user_id, state=state, reason=reason)
        return self._invocations("/v1/invocations", wanted | given(from_=from_, to=to))

    def cancel_invocation(self, invocation_id: str) -> Invocation:
        """Give an invocation up."""
        return self._call(Invocation, "POST", f"{_invocation(invocation_id)}/cancel", {})

    def replay_invocation(
        self, invocation_id: str, *, version: str | int | None = None
    ) -> Invocation:
        """Do an invocation again, as a new one."""
        path = f"{_invocation(invocation_id)}/replay"
        return self._call(Invocation, "POST", path, {}, body=given(version=version))

    def iter_dead_letters(
        self,
        *,
        function_id: str | None = None,
        reason: str | None = None,
        from_: str | None = None,
        to: str | None = None,
    ) -> Iterator[Invocation]:
        """Yield dead letters, newest first."""
        wanted = given(function_id=function_id, reason=reason, from_=from_, to=to)
        return self._invocations("/v1/dead-letters", wanted)

    def replay_dead_letters(self, ids: Sequence[str]) -> Matched:
        """Do dead letters again."""
        return self._call(Matched, "POST", "/v1/dead-letters/replay", {}, body={"ids": list(ids)})

    def discard_dead_letters(self, ids: Sequence[str]) -> Matched:
        """Take dead letters off their list."""
        return self._call(Matched, "POST", "/v1/dead-letters/discard", {}, body={"ids": list(ids)})

    def iter_function_logs(self, function_id: str, **query: Any) -> Iterator[FunctionLine]:
        """Yield what all instances of a function have printed so far."""
        return self._lines(f"{_function(function_id)}/logs", query)

    def iter_invocation_logs(self, invocation_id: str, **query: Any) -> Iterator[FunctionLine]:
        """Yield what an invocation has printed so far."""
        return self._lines(f"{_invocation(invocation_id)}/logs", query)

    def follow_function_logs(self, function_id: str, **query: Any) -> Iterator[FunctionLine]:
        """Yield what all instances of a function print, until it is deleted."""
        return self._followed(f"{_function(function_id)}/logs", query)

    def follow_invocation_logs(self, invocation_id: str, **query: Any) -> Iterator[FunctionLine]:
        """Yield what an invocation prints, until it has ended."""
        return self._followed(f"{_invocation(invocation_id)}/logs", query)

    def _lines(self, path: str, query: dict[str, Any]) -> Iterator[FunctionLine]:
        params = given(**query, batch=1000)
        while True:
            page = self._call(_LinePage, "GET", path, {}, params=params)
            yield from page.lines
            if page.pagination is None:
                return
            params |= given(pagination=page.pagination, from_=page.from_, to=page.to)

    def _followed(self, path: str, query: dict[str, Any]) -> Iterator[FunctionLine]:
        call = Call("GET", path, {**given(**query), "follow": "true"})
        following = Following(FOREVER_S, 2, 0)
        while True:
            failure: CakeworkError | None = None
            try:
                with self._open(call, following.deadline, following.headers) as response:
                    for chunk in response.iter_bytes():
                        yield from following.take(chunk)  # pyright: ignore
            except CakeworkError as error:
                failure = error
            if following.ended:
                return
            time.sleep(following.pause_s(failure))

    def put_secret(
        self,
        name: str,
        value: str,
        *,
        function_id: str | None = None,
        user_id: str | None = None,
        shared: bool | None = None,
    ) -> Secret:
        """Set a secret."""
        params, body = _scope(function_id, user_id), {"value": value, **given(shared=shared)}
        return self._call(Secret, "PUT", _secret(name), {}, params=params, body=body)

    def iter_secrets(
        self, *, function_id: str | None = None, user_id: str | None = None
    ) -> Iterator[Secret]:
        """Yield secrets: all of them, or those of one function or end user."""
        params = _scope(function_id, user_id)
        while True:
            page = self._call(_SecretPage, "GET", "/v1/secrets", {}, params=params)
            yield from page.secrets
            if page.pagination is None:
                return
            params["pagination"] = page.pagination

    def delete_secret(
        self, name: str, *, function_id: str | None = None, user_id: str | None = None
    ) -> Gone:
        """Delete a secret."""
        return self._call(Gone, "DELETE", _secret(name), {}, params=_scope(function_id, user_id))

    def _invocations(self, path: str, params: dict[str, Any]) -> Iterator[Invocation]:
        while True:
            page = self._call(_InvocationPage, "GET", path, {}, params=params)
            yield from page.invocations
            if page.pagination is None:
                return
            params["pagination"] = page.pagination


def _function(function_id: str) -> str:
    return f"/v1/functions/{segment(function_id)}"


def _invocation(invocation_id: str) -> str:
    return f"/v1/invocations/{segment(invocation_id)}"


def _secret(name: str) -> str:
    return f"/v1/secrets/{segment(name)}"


def _scope(function_id: str | None, user_id: str | None) -> dict[str, Any]:
    return given(function_id=function_id, user_id=user_id)
