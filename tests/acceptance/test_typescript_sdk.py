"""The TypeScript client against the running platform: its own tests, given an address and a key."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import HOOKS
from tests.acceptance.platform import Platform
from tests.integration.node.registries import PASSWORD

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "sdk" / "typescript"
SUITES = sorted(path.name for path in (SDK / "tests" / "server").glob("*.test.ts"))


@pytest.fixture(scope="session")
def built() -> None:
    """The package, made from its sources and the document of now."""
    subprocess.run([ROOT / ".venv/bin/node", "tools/build.ts"], cwd=SDK, check=True)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("suite", SUITES)
def test_the_client_does_what_it_says(
    suite: str, platform: Platform, busybox: str, shell: str
) -> None:
    """Every call of the contract, refusals, and each block of the README."""
    given = {
        "URL": platform.url,
        "API_KEY": platform.key,
        "TEST_IMAGE": busybox,
        "TEST_REFERENCE": shell,
        "TEST_PASSWORD": PASSWORD,
        "TEST_HOOKS": HOOKS,
    }
    done = subprocess.run(
        [ROOT / ".venv/bin/node", "--test", f"tests/server/{suite}"],
        cwd=SDK,
        env={**os.environ, **{f"CAKEWORK_{name}": value for name, value in given.items()}},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
