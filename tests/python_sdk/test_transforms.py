"""What the clients send and read where transforms are concerned."""

import pytest

from cakework_client import ApiError, CakeworkClient
from tests.python_sdk.server import Script, good, problem
from tests.python_sdk.test_functions import FUNCTION


def test_a_record_goes_through_as_it_is(server: Script, client: CakeworkClient) -> None:
    """Whatever its names, and what comes of it is returned."""
    server.steps = [good({"cents": 500}), good({"records": [1, None]})]
    assert client.apply_transform(FUNCTION, {"total": 5, "timeout": "mine"}) == {"cents": 500}
    assert client.apply_transform_to_all(FUNCTION, ("a", "b")) == [1, None]
    assert [(each.method, each.path) for each in server.asked] == [
        ("POST", f"/v1/transforms/{FUNCTION}/apply")
    ] * 2
    assert [each.body for each in server.asked] == [
        {"total": 5, "timeout": "mine"},
        {"records": ["a", "b"]},
    ]


def test_what_may_have_been_done_is_not_done_again(server: Script, client: CakeworkClient) -> None:
    """A handler that failed is told of at once."""
    server.steps = [problem(502, "handler_failed"), good({})]
    with pytest.raises(ApiError):
        client.apply_transform(FUNCTION, {})
    assert len(server.asked) == 1
