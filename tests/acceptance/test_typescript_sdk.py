"""The TypeScript client against the running platform: its own tests, given an address and a key."""

import os
import subprocess

import pytest

from tests.acceptance.conftest import HOOKS
from tests.acceptance.platform import Platform
from tests.acceptance.typescript import NODE, SDK, build
from tests.integration.node.registries import PASSWORD


@pytest.mark.timeout(900)
def test_the_client_does_what_it_says(platform: Platform, busybox: str, shell: str) -> None:
    """Every call of the contract, refusals, and each block of the README, from sources of now."""
    build()
    given = {
        "URL": platform.url,
        "API_KEY": platform.key,
        "TEST_IMAGE": busybox,
        "TEST_REFERENCE": shell,
        "TEST_PASSWORD": PASSWORD,
        "TEST_HOOKS": HOOKS,
    }
    done = subprocess.run(
        [NODE, "--test", "--test-timeout=300000", "--test-concurrency=2", "tests/server/*.test.ts"],
        cwd=SDK,
        env={**os.environ, **{f"CAKEWORK_{name}": value for name, value in given.items()}},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
