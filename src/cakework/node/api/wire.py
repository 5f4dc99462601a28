"""How the node's API answers, and what each call checks of its address."""

from pydantic import BaseModel
from starlette.responses import Response

from cakework.domain.errors import InvalidRequest


def answer(model: BaseModel, status: int = 200) -> Response:
    """Return ``model`` as JSON."""
    return Response(model.model_dump_json(), status, media_type="application/json")


def check_same(path: str, body: str) -> None:
    """Raise InvalidRequest unless the order is for the id in the address."""
    if path != body:
        raise InvalidRequest(f"the order is for {body}, not for {path}")
