"""How tests are shared out among processes: those that stand on the same ground stay together."""

import signal

import pytest
from xdist.remote import Producer  # pyright: ignore[reportMissingTypeStubs]
from xdist.scheduler import LoadScopeScheduling  # pyright: ignore[reportMissingTypeStubs]

from tests.properties import use_profile

use_profile()


class GroundScheduling(LoadScopeScheduling):
    """Gives one process all tests of a ground: of a platform, of a node's rigs, of a store."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the ground of a test: its folder below ``tests``, two deep in ``integration``."""
        folders = nodeid.partition("::")[0].split("/")[1:-1]
        return "/".join(folders[:2]) if folders[0] == "integration" else folders[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroundScheduling:
    """Return what shares out tests with ``--numprocesses``."""
    return GroundScheduling(config, log)


def pytest_configure() -> None:
    """Let programs under test hear Ctrl-C, also where the whole run is in a shell's background:
    a shell has those ignore it, and they hand that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
