"""What the tests of the node's builds share."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.node.build_bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Builds in a data folder that the whole run shares, so that base images are made once."""
    folder: Path = tmp_path_factory.mktemp("builds")
    netns = f"cw-{folder.parent.name}-builds"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
        yield Bench(folder / "data", f"/run/netns/{netns}")
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)
