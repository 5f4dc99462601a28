"""What the tests of the node share."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cakework.node.territory import lease_territory
from tests.integration.node.build_bench import Bench
from tests.integration.node.builder_site import BuilderBench
from tests.integration.node.vm_site import Yard, make_yard


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Builds in a data folder that the whole run shares, so that base images are made once."""
    folder: Path = tmp_path_factory.mktemp("builds")
    netns = f"cw-{secrets.token_hex(6)}-builds"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
        yield Bench(folder / "data", f"/run/netns/{netns}")
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """One template and one image for all machines of the run."""
    folder: Path = tmp_path_factory.mktemp("yard")
    return make_yard(folder, lease_territory(folder))


@pytest.fixture(scope="session")
def vm_bench(bench: Bench, yard: Yard) -> BuilderBench:
    """Builds in machines, in the folder of the others, so that base images are made once."""
    return BuilderBench(bench.data_dir, bench.netns, yard=yard)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that the node runs on."""
    return "asyncio", {"use_uvloop": True}
