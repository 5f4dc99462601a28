import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api
from tests.acceptance.footprint import Footprint, at_rest, footprint, grown
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

SETTINGS = {
    "DISK_GB": "1",
    "MAX_LOG_LINES": "20000",
    "EGRESS_ALLOW": "10.77.0.64/26",
    "POOL_SIZE": "2",
}


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """The platform that all these tests share. Its log is kept when one of them fails."""
    with tempfile.TemporaryDirectory(prefix="cakework-acceptance-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        platform = Platform(folder, SETTINGS)
        platform.start()
        try:
            yield platform
        finally:
            left = platform.end()
            if request.session.testsfailed:
                print(f"\nlog of the platform: {shutil.copy(platform.log, f'{folder}.log')}")
    assert not left, f"machines outlived `cakework up --stop-vms`: {left}"


@pytest.fixture(scope="session")
def api(platform: Platform) -> Iterator[Api]:
    """The API as the first account sees it."""
    with platform.api() as api:
        yield api


@pytest.fixture(scope="session")
def busybox(api: Api) -> str:
    """An image that runs a shell script."""
    return api.image(guests.BUSYBOX)


@pytest.fixture(scope="session")
def python(api: Api) -> str:
    """An image that runs a Python script."""
    return api.image(guests.PYTHON)


@pytest.fixture
def nothing_left(platform: Platform, busybox: str) -> Iterator[Footprint]:
    """Holds a test to leaving the host as it found it, once the platform has come to rest."""
    before = at_rest(platform)
    yield before

    def left() -> dict[str, int]:
        return grown(before, footprint(platform))

    until(lambda: not left(), 20, lambda: f"nothing is left; there are {left()} beyond {before}")
