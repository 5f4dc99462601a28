"""What a request may name: any other word is refused, and told with the nearest that is known.

A word that is passed over does what nobody asked for: a VM without the memory that it was to have,
all VMs where some were to be listed. Headers are free, since proxies add theirs.
"""

from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from cakework.domain.errors import FieldError
from cakework.nearest import nearest
from cakework.server.api.parsing import LARGE_BYTES
from cakework.server.api.problems import not_valid
from cakework.server.api.wire import FAULTS_MAX, names_of, shown_name, unknown

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Known:
    """What one call takes: the names of its query, and whether it has a body."""

    parameters: Collection[str]
    body: bool

    @classmethod
    def of(cls, route: APIRoute) -> "Known":
        """Return what ``route`` takes."""
        return cls(tuple(_parameters(route.dependant)), route.body_field is not None)

    def check_query(self, request: Request) -> None:
        """Check the names of the query: each of them once.

        Raises:
            InvalidRequest: naming each that is not, or as many as are told.
        """
        faults: dict[str, FieldError] = {}
        seen: set[str] = set()
        for name, _ in request.query_params.multi_items():
            if name not in self.parameters:
                faults[name] = FieldError(shown_name(name), unknown(name, self.parameters))
            elif name in seen:
                faults[name] = FieldError(name, "is there more than once")
            seen.add(name)
            if len(faults) == FAULTS_MAX:
                break
        _refuse(faults.values())

    def check_unread(self, request: Request) -> None:
        """Check that no body comes with a request whose method has none, but for an empty object.

        Raises:
            InvalidRequest: one does.
        """
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > len("{}"):
            message = "is not taken by this call: what it is asked is in the URL alone"
            _refuse([FieldError("body", message)])

    async def check_body(self, request: Request, body: bytes) -> None:
        """Check that a body is said to be JSON; or, where none is taken, that it says nothing.

        Raises:
            InvalidRequest: it is not.
        """
        if not body:
            return
        if not self.body:
            # What is large says something, and nobody need read what.
            _refuse(self._surplus("" if len(body) > LARGE_BYTES else await _read(request)))
        elif not _is_json(request.headers.get("content-type", "")):
            _refuse([FieldError("body", f"needs the header Content-Type: {_JSON}")])

    def _surplus(self, value: object) -> Collection[FieldError]:
        """Return what is wrong with a body that says ``value`` where none is taken."""
        if value in ({}, [], None):
            return ()
        if not isinstance(value, dict):
            return [FieldError("body", "is not taken by this call")]
        names = islice(cast("dict[str, object]", value), FAULTS_MAX)
        return [FieldError(shown_name(name), self._misplaced(name)) for name in names]

    def _misplaced(self, name: str) -> str:
        meant = nearest(name, self.parameters)
        if meant is None:
            return "is unknown: this call takes no body"
        return f"is unknown: this call takes no body; did you mean ?{meant}= in the URL?"


class KnownRoute(APIRoute):
    """A route that takes no more than it says, for those without a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what serves a request."""
        inner, known = super().get_route_handler(), Known.of(self)

        async def enter(request: Request) -> Response:
            known.check_query(request)
            known.check_unread(request)
            return await inner(request)

        return enter


def _parameters(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from names_of(model)
        else:
            yield field.alias
    for other in dependant.dependencies:
        yield from _parameters(other)


async def _read(request: Request) -> object:
    try:
        return await request.json()
    except (ValueError, RecursionError):
        return ""


def _is_json(content_type: str) -> bool:
    kind, _, form = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (form == "json" or form.endswith("+json"))


def _refuse(faults: Collection[FieldError]) -> None:
    if faults:
        raise not_valid(tuple(faults))
