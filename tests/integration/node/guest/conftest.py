"""One machine is booted for all tests here; each restores it for itself."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.node.guest.machine import Template, make_template
from tests.integration.node.guest.materials import make_materials


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A machine booted from what the repository holds, and snapshotted."""
    folder: Path = tmp_path_factory.mktemp("guest-template")
    return asyncio.run(make_template(make_materials(folder), folder))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
