"""What a server that runs for long has compiled of its statements: here for all stores of a kind.

Each store has an engine of its own, and SQLAlchemy keeps compiled statements with that. So every
test would compile them all anew.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from cakework.server.store import database

_FIRST: dict[tuple[str, str], Engine] = {}


def share_compiled() -> None:
    """Have engines that are made from now on keep what they compile together, by kind of store."""
    for name in ("create_engine", "create_async_engine"):
        setattr(database, name, _sharing(getattr(database, name)))


def _sharing(create: Callable[..., Any]) -> Callable[..., Any]:
    def created(*given: Any, **options: Any) -> Any:
        engine: Engine | AsyncEngine = create(*given, **options)
        own = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        kind = own.dialect.name, own.dialect.driver
        first = _FIRST.get(kind)
        if first is None or not _has_connected(first):
            _FIRST[kind] = own
            return engine
        # A dialect is part of what compiled statements are known by.
        own.dialect = first.dialect
        own._compiled_cache = first._compiled_cache  # pyright: ignore[reportPrivateUsage]
        return engine

    return created


def _has_connected(engine: Engine) -> bool:
    """Whether its dialect has asked the store what it is, as it does at the first connection."""
    return engine.dialect.server_version_info is not None
