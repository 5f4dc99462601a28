"""The OpenAPI document: FastAPI's, made to say what the contract says about errors."""

import json
from typing import Any, cast

from fastapi import APIRouter, FastAPI, Response

from cakework.server.api import problems
from cakework.server.api.known import KnownRoute
from cakework.server.api.request_scope import REQUEST_ID

Json = dict[str, Any]
_REQUEST_ID_HEADER: Json = {
    "description": "Id of the request, to be named when asking about it.",
    "schema": {"type": "string"},
}


def describe(app: FastAPI) -> None:
    """Have ``app`` serve the document as :func:`document` makes it."""
    made = app.openapi

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = document(made())
        return app.openapi_schema

    app.openapi = openapi

    async def serve() -> Response:
        # Rendered once: that takes as long as a hundred other answers.
        if not hasattr(app.state, "document"):
            app.state.document = json.dumps(openapi(), ensure_ascii=False).encode()
        return Response(app.state.document, media_type="application/json")

    routes = APIRouter(route_class=KnownRoute)
    routes.add_api_route("/openapi.json", serve, methods=["GET"], include_in_schema=False)
    app.router.routes.extend(routes.routes)


def document(schema: Json) -> Json:
    """Return FastAPI's document with problems as errors, and without 422, which is never sent."""
    for operations in cast("dict[str, Json]", schema["paths"]).values():
        for operation in operations.values():
            operation["responses"] = _responses(operation["responses"])
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _not_null(parameter["schema"])
    schemas = {**schema["components"]["schemas"], **problems.schemas()}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schema["components"]["schemas"] = dict(sorted(schemas.items()))
    return schema


def _not_null(schema: Json) -> Json:
    """Return the schema of a parameter without null, which nothing in a URL or header can be."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**kinds[0], **{name: value for name, value in schema.items() if name != "anyOf"}}


def _responses(responses: Json) -> Json:
    kept = {status: answer for status, answer in responses.items() if status != "422"}
    for answer in kept.values():
        answer["headers"] = {REQUEST_ID: _REQUEST_ID_HEADER}
    for status in {"429", "503"} & kept.keys():
        kept[status]["headers"]["Retry-After"] = {
            "description": "Seconds after which another try may succeed.",
            "schema": {"type": "integer"},
        }
    return dict(sorted(kept.items()))
