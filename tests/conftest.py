"""How tests are shared out among processes: those that stand on the same ground stay together."""

import json
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from xdist.remote import Producer  # pyright: ignore[reportMissingTypeStubs]
from xdist.scheduler import LoadScopeScheduling  # pyright: ignore[reportMissingTypeStubs]

from tests.grounds import ground_of, place_of
from tests.properties import use_profile

use_profile()
SECONDS = Path(__file__).parents[1] / ".build" / "test-seconds.json"
"""How long each file of tests took when it was last run: what ``make quick`` goes by."""
TOLD_FROM_S = 60
"""What is over sooner is not asked where its time went."""


class GroundScheduling(LoadScopeScheduling):
    """Gives one process all tests of a ground, such as those of one platform, large grounds first;
    then the files whose tests each stand on their own, so that all processes end together."""

    def _split_scope(self, nodeid: str) -> str:
        return ground_of(nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of grounds first, also where the order is random."""
    items.sort(key=lambda item: place_of(item.nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroundScheduling:
    """Return what shares out tests with ``--numprocesses``, in their order and not by number."""
    config.option.loadscopereorder = False
    return GroundScheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Let programs under test hear Ctrl-C, also where the whole run is in a shell's background:
    a shell has those ignore it, and they hand that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Seconds(), "seconds")


class Seconds:
    """Counts the seconds that each file of tests takes, fixtures included, and keeps them."""

    def __init__(self) -> None:
        self.taken: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Not its location: that of a stateful test is in Hypothesis.
        self.taken[report.nodeid.partition("::")[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if sum(self.taken.values()) < TOLD_FROM_S:
            return
        terminalreporter.section("slowest files")
        slowest = sorted(self.taken.items(), key=lambda taken: -taken[1])
        for file, seconds in slowest[:20]:
            terminalreporter.write_line(f"{seconds:7.1f}s  {file}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        known: dict[str, float] = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
        known |= {file: round(seconds, 1) for file, seconds in self.taken.items()}
        SECONDS.parent.mkdir(exist_ok=True)
        making = SECONDS.with_suffix(".making")
        making.write_text(json.dumps(known, indent=1, sort_keys=True))
        making.rename(SECONDS)
