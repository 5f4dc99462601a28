"""Keywords that a method does not have, computed from the clients: no new method is forgotten."""

import inspect
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock, create_autospec

import anyio
import pytest

from cakework_client import AsyncCakeworkClient, CakeworkClient
from cakework_client.keywords import keywords_of

Client = type[CakeworkClient] | type[AsyncCakeworkClient]
WITHOUT = {"close", "aclose", "url"}
"""Those that take nothing."""


def methods() -> Iterator[tuple[Client, str]]:
    for client in (CakeworkClient, AsyncCakeworkClient):
        for name in dir(client):
            if not name.startswith("_") and name not in WITHOUT:
                yield client, name


def refusal(client: Client, name: str, **keywords: Any) -> str:
    """Call a method with all it must have, and with ``keywords``; returns what the TypeError says.

    Nothing is sent: there is no server.
    """
    method = getattr(client(url="http://127.0.0.1:9", api_key="k", retries=0), name)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    must = [
        "x"
        for each in inspect.signature(method).parameters.values()
        if each.default is inspect.Parameter.empty and each.kind in positional
    ]
    with pytest.raises(TypeError) as caught:
        result = method(*must, **keywords)
        assert inspect.iscoroutine(result), "it was not refused by the call itself"

        async def awaited() -> None:
            await result

        anyio.run(awaited)
    return str(caught.value)


@pytest.mark.parametrize(("client", "name"), list(methods()))
def test_an_unknown_keyword_is_refused(client: Client, name: str) -> None:
    """Named, with the one that was meant; before anything is sent, also by what is iterated."""
    assert "'surplus_word'" in refusal(client, name, surplus_word=1)
    keywords = keywords_of(inspect.unwrap(getattr(client, name)))
    assert keywords
    for known in keywords:
        told = refusal(client, name, **{f"{known}x": 1})
        assert f"'{known}x'" in told
        assert f"did you mean '{known}'?" in told


@pytest.mark.parametrize("client", [CakeworkClient, AsyncCakeworkClient])
def test_what_the_first_users_wrote_is_refused(client: Client) -> None:
    """A VM without its environment; all VMs where those that run were to be had."""
    assert refusal(client, "start_vm", env={"A": "b"}).endswith("did you mean 'env_vars'?")
    assert refusal(client, "start_vm", memry=1024).endswith("did you mean 'memory'?")
    assert refusal(client, "start_vm", volumeGB=1).endswith("did you mean 'volume_gb'?")
    assert refusal(client, "iter_vms", state="started").endswith("did you mean 'status'?")
    assert refusal(client, "get_vm", idempotency_key="k").endswith("it takes vm_id, timeout")
    with pytest.raises(TypeError, match=r"no keyword 'key'; did you mean 'api_key'\?"):
        client(key="cw_x")  # pyright: ignore[reportCallIssue]


def test_methods_look_as_they_are_written() -> None:
    """To inspect, and to what makes mocks."""
    assert "volume_gb" in inspect.signature(CakeworkClient.start_vm).parameters
    assert isinstance(create_autospec(AsyncCakeworkClient).start_vm, AsyncMock)
    assert inspect.iscoroutinefunction(AsyncCakeworkClient.start_vm)
    assert (inspect.getdoc(CakeworkClient.vm) or "").startswith("Run a VM while")


def test_methods_of_subclasses_are_their_own() -> None:
    """Who adds a method to a client of theirs says what it takes."""

    class Own(CakeworkClient):
        def anything(self, **keywords: Any) -> dict[str, Any]:
            return keywords

    assert Own(api_key="k").anything(a=1) == {"a": 1}
