"""Waiting, and work that must be finished even when its task is cancelled."""

from contextlib import AbstractContextManager


async def sleep(seconds: float) -> None:
    """Wait."""
    import anyio

    await anyio.sleep(seconds)


def shielded() -> AbstractContextManager[object]:
    """Return a context in which a cancelled task goes on."""
    import anyio

    return anyio.CancelScope(shield=True)
