"""Connections: kept, counted, closed; and what a client says of itself."""

import asyncio
import os
import pickle
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from cakework_client import (
    AsyncCakeworkClient,
    CakeworkClient,
    ConnectionFailed,
    InvalidId,
    NotFound,
    __version__,
)
from tests.python_sdk.clients import Kind, client_of
from tests.python_sdk.server import VM, Script, good, problem

VM_ID: str = VM["id"]


def test_calls_share_a_connection(server: Script, client: CakeworkClient) -> None:
    """Good answers and refusals alike leave it fit for the next call."""
    server.steps = [good(), problem(404, "not_found"), good(), good(), good()]
    client.get_vm(VM_ID)
    with pytest.raises(NotFound):
        client.get_vm(VM_ID)
    client.start_vm("x")
    client.get_vm(VM_ID)
    client.stop_vm(VM_ID)
    assert server.connections == 1


def test_calls_at_once_share_as_many_as_needed(server: Script) -> None:
    """Ten calls at once, and ten more, open ten connections at most."""

    async def twice_ten() -> None:
        async with AsyncCakeworkClient(url=server.url, api_key="cw_x") as client:
            for _ in range(2):
                await asyncio.gather(*(client.get_vm(VM_ID) for _ in range(10)))

    server.steps = [good() for _ in range(20)]
    asyncio.run(twice_ten())
    assert server.connections <= 10


def test_a_closed_client_can_be_used_again(server: Script, client: CakeworkClient) -> None:
    """Closing closes connections; a later call opens a new one."""
    server.steps = [good(), good()]
    client.get_vm(VM_ID)
    client.close()
    client.get_vm(VM_ID)
    assert server.connections == 2


def test_a_client_says_who_it_is(server: Script, kind: Kind) -> None:
    """The key, its own version, and the program that uses it."""
    server.steps = [good()]
    options = {"url": server.url, "api_key": "cw_secret", "user_agent": "shop/2"}
    with client_of(kind, **options) as client:
        client.get_vm(VM_ID)
    headers = server.asked[0].headers
    assert headers["x-api-key"] == "cw_secret"
    assert headers["user-agent"].startswith(f"shop/2 cakework-python/{__version__} Python/3.")


def test_a_key_is_in_no_repr(kind: Kind) -> None:
    """Neither of the client nor of what it is made of."""
    with client_of(kind, url="http://h", api_key="cw_secret") as client:
        assert repr(client).endswith("CakeworkClient(url='http://h')")
        assert "cw_secret" not in repr(vars(CakeworkClient(url="http://h", api_key="cw_secret")))


def test_the_environment_says_where_and_who(
    server: Script, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CAKEWORK_URL and CAKEWORK_API_KEY; what is given wins."""
    server.steps = [good(), good()]
    monkeypatch.setenv("CAKEWORK_URL", f"{server.url}/")
    monkeypatch.setenv("CAKEWORK_API_KEY", "cw_env")
    with client_of(kind) as client:
        client.get_vm(VM_ID)
    monkeypatch.setenv("CAKEWORK_URL", "http://127.0.0.1:9")
    with client_of(kind, url=server.url, api_key="cw_given") as client:
        client.get_vm(VM_ID)
    assert [asked.headers["x-api-key"] for asked in server.asked] == ["cw_env", "cw_given"]
    assert {asked.path for asked in server.asked} == {f"/v1/vm/{VM_ID}"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "CAKEWORK_API_KEY"),
        ({"api_key": "cw_x", "url": "localhost:8081"}, "CAKEWORK_URL"),
        ({"api_key": "cw_x\n"}, "API key"),
        ({"api_key": "cw_x", "timeout": 0}, "timeout"),
        ({"api_key": "cw_x", "retries": -1}, "retries"),
    ],
)
def test_what_can_never_work_is_refused_at_once(
    options: dict[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent; the key itself is not repeated."""
    monkeypatch.delenv("CAKEWORK_API_KEY", raising=False)
    with pytest.raises(ValueError, match=named) as failure:
        client_of("sync", **options).__enter__()
    assert "cw_x" not in str(failure.value)


@pytest.mark.parametrize("vm_id", ["", ".", ".."])
def test_an_id_cannot_change_the_path(server: Script, client: CakeworkClient, vm_id: str) -> None:
    """What is no part of a path is refused; all else is escaped."""
    with pytest.raises(InvalidId, match="no id"):
        client.get_vm(vm_id)
    server.steps = [good()]
    client.get_vm("../x?y#z")
    assert server.asked[0].path == "/v1/vm/..%2Fx%3Fy%23z"


def test_an_error_can_be_pickled(server: Script, client: CakeworkClient) -> None:
    """So that it comes back from a process pool as what it was."""
    server.steps = [problem(404, "not_found")]
    with pytest.raises(NotFound) as failure:
        client.get_vm(VM_ID)
    again = pickle.loads(pickle.dumps(failure.value))
    assert (type(again), again.problem) == (NotFound, failure.value.problem)


def test_nothing_heavy_is_loaded_by_the_import() -> None:
    """HTTP comes with the first call, and pydantic never."""
    code = (
        "import sys, cakework_client;"
        "print({'httpx2', 'anyio', 'standardwebhooks', 'pydantic'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), check=True, capture_output=True
    )
    assert shown.stdout == b"set()\n"


def test_certificates_are_checked(server: Script, kind: Kind, tmp_path: Path) -> None:
    """A server whose certificate nobody signed is not spoken to, and gets no key."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(
        [*made, "-nodes", "-keyout", key, "-out", certificate, *subject],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    options = {"url": server.url.replace("http:", "https:"), "api_key": "cw_x", "retries": 0}
    with client_of(kind, **options) as client, pytest.raises(ConnectionFailed, match="CERTIFICATE"):
        client.get_vm(VM_ID)
    assert server.asked == []
