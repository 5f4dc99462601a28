"""What `make quick` chooses: tests that a change touches, nearest first, as many as there is time
for."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import Seconds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def quick() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quick", ROOT / "tools" / "quick.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = [*sys.path]
    spec.loader.exec_module(module)
    module_imports: Callable[[], Any] = module.imports
    graph = module_imports()
    sys.path[:] = before
    setattr(module, "imports", lambda: graph)  # noqa: B010
    return module


def test_the_nearest_tests_come_first(quick: ModuleType) -> None:
    """Who imports a changed module is before who imports that only through others."""
    touched = quick.touched(["src/cakework/node/cgroups.py"])
    direct = touched.index("tests/integration/node/test_cgroups.py")
    assert direct < touched.index("tests/acceptance/test_journey.py") < len(touched)
    assert "tests/unit/domain/test_dockerfiles.py" not in touched


def test_a_test_that_changed_is_touched(quick: ModuleType) -> None:
    """It, and no other."""
    assert quick.touched(["tests/unit/test_rules.py"]) == ["tests/unit/test_rules.py"]


def test_fixtures_touch_the_tests_that_have_them(quick: ModuleType) -> None:
    """Those of a folder reach all tests in it and below, and no others."""
    touched = quick.touched(["tests/integration/server/conftest.py"])
    assert "tests/integration/server/test_store.py" in touched
    assert all(file.startswith("tests/integration/server/") for file in touched)


@pytest.mark.parametrize(
    "file",
    ["src/cakework/server/store/migrations/env.py", "src/cakework/node/builds/builder/builder.sh"],
)
def test_what_runs_in_a_process_of_its_own_is_touched_too(quick: ModuleType, file: str) -> None:
    """Also what is no module: its package's tests are."""
    assert quick.touched([file])


def test_what_was_removed_touches_who_imports_what_is_beside_it(quick: ModuleType) -> None:
    """A file that is gone is no module any more, and breaks nothing here."""
    assert quick.touched(["src/cakework/gone.py", "README.md", "tests/unit/test_gone.py"]) == []


def test_there_is_time_for_the_first_ones(quick: ModuleType) -> None:
    """What is too long for the time that is left is left out, and what comes after is not."""
    seconds = {"a": 60.0, "b": 100.0, "c": 30.0}
    assert quick.within(["a", "b", "c", "d"], seconds, 50.0) == (["c", "d"], ["a", "b"])
    assert quick.within(["a", "b", "c", "d"], seconds, 70.0) == (["a", "c", "d"], ["b"])


def test_tests_that_stay_together_have_the_time_of_one_process(quick: ModuleType) -> None:
    """And need some for what they share; others have that of another process meanwhile."""
    builds = [f"tests/integration/node/test_builds_{name}.py" for name in "abc"]
    seconds = dict.fromkeys([*builds, "a", "b"], 40.0)
    assert quick.within([*builds, "a", "b"], seconds, 100.0) == (
        [*builds[:2], "a", "b"],
        builds[2:],
    )
    assert quick.within(builds, seconds, 50.0) == ([], builds)


def test_a_test_takes_the_time_of_its_file() -> None:
    """Also one whose code is in a library, as that of a state machine is."""
    seconds = Seconds()
    seconds.pytest_runtest_logreport(
        pytest.TestReport(
            nodeid="tests/unit/test_a.py::TestA::runTest",
            location=("../hypothesis/stateful.py", 1, "TestA.runTest"),
            keywords={},
            outcome="passed",
            longrepr=None,
            when="call",
            duration=2.0,
        )
    )
    assert seconds.taken == {"tests/unit/test_a.py": 2.0}
