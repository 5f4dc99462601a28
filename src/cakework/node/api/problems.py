"""What errors become on the node's API: NodeProblem with a status."""

import structlog
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from cakework.domain.errors import CakeworkError
from cakework.domain.orders import NodeProblem

STATUSES = {
    "invalid_request": 400,
    "registry_denied": 400,
    "registry_unreachable": 400,
    "wrong_platform": 400,
    "image_not_in_registry": 404,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "quota_exceeded": 429,
    "no_room": 503,
    "unavailable": 503,
}
log = structlog.get_logger("cakework.node.api")


async def on_error(_: Request, error: Exception) -> Response:
    """Answer an error of ours."""
    if not isinstance(error, CakeworkError):
        raise error
    problem = NodeProblem(code=error.code, detail=error.detail)
    retry = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else None
    return _answer(problem, STATUSES.get(error.code, 500), retry)


async def on_invalid(_: Request, error: Exception) -> Response:
    """Answer an order that does not parse."""
    if not isinstance(error, ValidationError):
        raise error
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    problem = NodeProblem(code="invalid_request", detail=f"{place}: {first['msg']}")
    return _answer(problem, 400, None)


async def on_fault(request: Request, error: Exception) -> Response:
    """Answer a fault of ours, telling only the log about it."""
    log.error("request.failed", path=request.url.path, exc_info=error)
    return _answer(NodeProblem(code="internal_error", detail="a fault of the node"), 500, None)


def _answer(problem: NodeProblem, status: int, headers: dict[str, str] | None) -> Response:
    body = problem.model_dump_json()
    return Response(body, status, headers, media_type="application/problem+json")
