import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cakework.dialer import DialFailed, NodeDialer
from tests.integration.open_files import count_open_files
from tests.integration.server.router_rig import VM, DialNode, dial_socket, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def test_a_dial_gives_a_connected_socket(tmp_path: Path, listener: socket.socket) -> None:
    """The socket leads to the VM's port, does not block, and no child process inherits it."""
    node = DialNode({(VM, 80): listener.getsockname()[1]})
    async with dial_socket(node, tmp_path / "dial.sock"):
        with await NodeDialer(tmp_path / "dial.sock").dial(VM, 80) as connection:
            assert connection.getpeername() == listener.getsockname()
            assert not connection.getblocking()
            assert not connection.get_inheritable()


@pytest.mark.parametrize(
    ("fds", "answer", "code"),
    [
        (0, None, "unavailable"),
        (2, None, "unavailable"),
        (1, b'{"ok": false, "code": "refused"}\n', "refused"),
        (1, b"[]\n", "unavailable"),
        (1, b'{"ok": true}', "unavailable"),
        (1, b"x" * 5000 + b"\n", "unavailable"),
    ],
)
async def test_a_wrong_answer_is_no_connection_and_leaves_no_file_open(
    tmp_path: Path, listener: socket.socket, fds: int, answer: bytes | None, code: str
) -> None:
    """Whatever the node sends, what is not one connection is an error, and nothing stays open."""
    port = listener.getsockname()[1]
    node = DialNode({(VM, 80): port}, answer=answer, fds=fds)
    async with dial_socket(node, tmp_path / "dial.sock"):
        before = count_open_files()
        with pytest.raises(DialFailed) as failed:
            await NodeDialer(tmp_path / "dial.sock").dial(VM, 80)
        assert failed.value.code == code
        await eventually(lambda: count_open_files() == before)


async def test_a_node_that_is_away_or_silent_is_told_apart(tmp_path: Path) -> None:
    """No node is `unavailable` at once, a silent one `timeout` after the time allowed."""
    with pytest.raises(DialFailed) as away:
        await NodeDialer(tmp_path / "none.sock").dial(VM, 80)
    assert away.value.code == "unavailable"
    async with dial_socket(DialNode(silent=True), tmp_path / "dial.sock"):
        with pytest.raises(DialFailed) as silent:
            await NodeDialer(tmp_path / "dial.sock", timeout_s=0.1).dial(VM, 80)
    assert silent.value.code == "timeout"
