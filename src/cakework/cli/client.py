"""Speaks HTTP with the server, and turns its refusals into sentences."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NotRequired, Self, TypedDict, cast
from urllib.parse import quote

from cakework.cli.exits import CommandFailed, ExitCode

if TYPE_CHECKING:
    import httpx2

    from cakework.settings import Settings

TIMEOUT_S = 60.0
"""Longest wait for the server to say something; following a log reconnects after it."""


class Build(TypedDict):
    """A build, as the API gives it."""

    buildId: str
    status: str
    imageId: NotRequired[str]
    error: NotRequired[str]


class Vm(TypedDict):
    """A VM, as the API gives it."""

    id: str
    state: str
    url: NotRequired[str | None]
    exitCode: NotRequired[int | None]
    reason: NotRequired[str | None]


class Line(TypedDict):
    """A line of a log, as the API gives it."""

    id: str
    timestamp: int
    level: str
    message: str


class Client:
    """Calls the API with a key. Every method raises :class:`CommandFailed`."""

    def __init__(self, url: str, api_key: str) -> None:
        import httpx2

        self.url = url.rstrip("/")
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"X-Api-Key": api_key, "User-Agent": "cakework-cli"},
            timeout=TIMEOUT_S,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def get_build(self, build_id: str) -> Build:
        """Return a build."""
        return cast("Build", self.call("GET", f"/v1/image/build/{quote(build_id)}"))

    def get_vm(self, vm_id: str) -> Vm:
        """Return a VM."""
        return cast("Vm", self.call("GET", f"/v1/vm/{quote(vm_id)}"))

    def stop_vm(self, vm_id: str) -> Vm:
        """Stop a VM: one of startVM is destroyed by it, a cached one can be started again."""
        try:
            return cast("Vm", self.call("POST", f"/v1/vm/{quote(vm_id)}/stop"))
        except CommandFailed as failure:
            if not failure.problem or failure.problem.get("code") != "conflict":
                raise
        return cast("Vm", self.call("POST", f"/v1/vm/cached/{quote(vm_id)}/stop"))

    def start_cached_vm(self, vm_id: str) -> Vm:
        """Start a cached VM."""
        return cast("Vm", self.call("POST", f"/v1/vm/cached/{quote(vm_id)}/start"))

    def destroy_vm(self, vm_id: str) -> Vm:
        """End a VM of either kind for good."""
        return cast("Vm", self.call("POST", f"/v1/vm/{quote(vm_id)}/destroy"))

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, object]:
        """Call the API and return the JSON object it answers with."""
        with self._reachable():
            response = self._http.request(method, path, params=params, json=body)
        raise_for_problem(response)
        return response.json()

    @contextmanager
    def events(
        self, path: str, params: Mapping[str, str], last_id: str | None
    ) -> "Generator[httpx2.EventSource]":
        """Open a stream of server-sent events, after the event ``last_id`` if one is given.

        Raises:
            httpx2.TransportError: The stream broke after it had begun.
        """
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with self._http.sse(path, params=params, headers=headers) as source:
            if source.response.is_error:
                source.response.read()
                raise_for_problem(source.response)
            yield source

    @contextmanager
    def _reachable(self) -> Generator[None]:
        import httpx2

        try:
            yield
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise unreachable(self.url, error) from error


def open_client() -> Client:
    """Return a client for the server that the settings name."""
    from cakework.cli.configuration import load_settings

    settings = load_settings()
    if settings.api_key is None:
        raise CommandFailed(
            "No API key: set CAKEWORK_API_KEY to one made with `cakework keys create`.",
            ExitCode.UNAUTHENTICATED,
            code="unauthenticated",
        )
    return Client(server_url(settings), settings.api_key.get_secret_value())


def server_url(settings: "Settings") -> str:
    """Return ``url``; or, when only the port was set, this machine at that port."""
    if "url" in settings.model_fields_set or "port" not in settings.model_fields_set:
        return settings.url
    return f"http://127.0.0.1:{settings.port}"


def unreachable(url: str, error: Exception) -> CommandFailed:
    """Return the failure to reach the server at all."""
    return CommandFailed(
        f"Cannot reach Cakework at {url} ({str(error) or type(error).__name__}). "
        "Start it with `cakework up`, or set CAKEWORK_URL to where it is.",
        ExitCode.UNREACHABLE,
        code="unreachable",
    )


def raise_for_problem(response: "httpx2.Response") -> None:
    """Raise what an error answer says; do nothing for another."""
    if not response.is_error:
        return
    problem = read_problem(response)
    if response.status_code == 401:
        raise CommandFailed(
            f"{problem['detail']} Set CAKEWORK_API_KEY to a key made with `cakework keys create`.",
            ExitCode.UNAUTHENTICATED,
            problem=problem,
        )
    raise CommandFailed(describe(problem), problem=problem)


def read_problem(response: "httpx2.Response") -> dict[str, object]:
    """Return the problem of an error answer, or one made from its status."""
    fallback: dict[str, object] = {
        "code": "unexpected_answer",
        "status": response.status_code,
        "detail": f"The server answered {response.status_code} {response.reason_phrase}.",
    }
    try:
        found: object = response.json()
    except ValueError:
        return fallback
    return fallback | cast("dict[str, object]", found) if isinstance(found, dict) else fallback


def describe(problem: Mapping[str, object]) -> str:
    """Return a problem as text for a person: its detail, then each field at fault."""
    errors = cast("list[dict[str, str]]", problem.get("errors") or [])
    fields = [f"  {error.get('field')}: {error.get('message')}" for error in errors]
    return os.linesep.join([str(problem["detail"]), *fields])
