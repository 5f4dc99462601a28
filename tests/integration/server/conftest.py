import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import structlog

from .compiled import share_compiled
from .fake_node import FakeNode
from .function_node import FunctionNode
from .postgres import Cluster, running_cluster
from .rig import Rig, running, settings_for

share_compiled()
# As a server does: with the values of variables a traceback takes seconds.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="cw-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def postgres_cluster() -> Generator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def empty_store() -> bool:
    """Whether a fresh store is without tables, as at a first start."""
    return False


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(
    request: pytest.FixtureRequest, anyio_backend: str, empty_store: bool
) -> AsyncGenerator[str | None]:
    """The setting for a fresh store: unset for SQLite, or the URL of a PostgreSQL database."""
    if request.param == "sqlite":
        yield None
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    async with cluster.database(empty=empty_store) as url:
        yield url


@pytest.fixture
async def node(folder: Path, anyio_backend: str) -> AsyncGenerator[FakeNode]:
    settings = settings_for(folder, None)
    async with FakeNode(settings.node_socket).serving() as fake:
        yield fake


@pytest.fixture
async def rig(folder: Path, node: FakeNode, database_url: str | None) -> AsyncGenerator[Rig]:
    """A server on either store."""
    async with running(settings_for(folder, database_url), node) as served:
        yield served


@pytest.fixture
async def hosting(folder: Path, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[FunctionNode]:
    """A node whose VMs of functions are adapters on this machine."""
    async with FunctionNode(settings_for(folder, None), tmp_path).hosting() as node:
        yield node
