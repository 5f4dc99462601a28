"""How the API is served."""

import httpx2

from cakework.server.api.connection import KEEP_ALIVE_S

BALANCERS_S = 60
"""What nginx, and AWS's balancers, keep an unused connection for."""


def test_who_keeps_a_connection_never_sends_on_one_that_is_being_closed() -> None:
    """The API closes one that is unused later than clients do: they would be told of a reset."""
    assert KEEP_ALIVE_S > BALANCERS_S
    assert (httpx2.Limits().keepalive_expiry or 0) < KEEP_ALIVE_S
