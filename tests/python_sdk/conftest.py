from collections.abc import Iterator

import pytest

from cakework_client import CakeworkClient
from tests.python_sdk.clients import KINDS, Kind, client_of
from tests.python_sdk.server import Script, scripted


@pytest.fixture
def server() -> Iterator[Script]:
    """A server that answers as the test says."""
    with scripted() as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of both kinds of clients."""
    return request.param


@pytest.fixture
def client(kind: Kind, server: Script, quick: None) -> Iterator[CakeworkClient]:
    """A client of the server, of each kind."""
    with client_of(kind, url=server.url, api_key="cw_test") as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of our own choosing are short; those that the server asks for stay."""
    monkeypatch.setattr("cakework_client.calls.PAUSE_S", 0.01)
