"""How tests are shared out among processes: those that stand on the same ground stay together."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the ground it stands on: a platform, a node's rigs, a store."""
    for item in items:
        folders = item.path.relative_to(ROOT).parts
        ground = "/".join(folders[:2]) if folders[0] == "integration" else folders[0]
        item.add_marker(pytest.mark.xdist_group(ground))
