"""Connections to the store, from the first."""

import asyncio
from typing import Any, cast

import pytest

from cakework.server.store.database import (
    _prepare_sqlite,  # pyright: ignore[reportPrivateUsage]
)


class Cut:
    """A connection on which whoever waits is cut short."""

    isolation_level: str | None = ""

    def __init__(self) -> None:
        self.closed = 0

    def cursor(self) -> "Cut":
        return self

    def execute(self, _: str) -> None:
        raise asyncio.CancelledError

    def close(self) -> None:
        self.closed += 1


def test_one_that_cannot_be_prepared_is_closed() -> None:
    """Whatever cuts it short: the pool does not know of it yet."""
    connection = Cut()
    with pytest.raises(asyncio.CancelledError):
        _prepare_sqlite(cast("Any", connection), cast("Any", None))
    assert connection.closed == 1
