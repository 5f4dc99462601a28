import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api
from tests.acceptance.attacks import silent_registry
from tests.acceptance.document import Document
from tests.acceptance.footprint import Footprint, at_rest, file_names, footprint, grown
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until
from tests.integration.node import repositories
from tests.integration.node.registries import Entry, Layout, Registry, serving, tar_of
from tests.integration.node.repositories import GitServer

BUSYBOX = Path("/bin/busybox")
VMS_MB = 12_288
"""Memory that may be promised to VMs at once."""
HOOKS = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""An address of the host where webhooks may go, whose ports no other run of these tests has."""
SETTINGS = {
    "DISK_GB": "1",
    "MAX_LOG_LINES": "4000",
    "EGRESS_ALLOW": "10.77.0.64/26",
    "POOL_SIZE": "2",
    "WEBHOOK_ALLOW": HOOKS,
    "MAX_CACHED_VMS_PER_ACCOUNT": "101",
    "LOG_LEVEL": "debug",
}


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry on the host that images may be imported from; anybody may read its certificate."""
    with tempfile.TemporaryDirectory(prefix="cakework-registry-") as name:
        Path(name).chmod(0o755)
        with serving(Path(name)) as registry:
            yield registry


@pytest.fixture(scope="session")
def git_host() -> Iterator[GitServer]:
    """A git server on the host that is GitHub to the platform; anybody may read its certificate."""
    with tempfile.TemporaryDirectory(prefix="cakework-git-") as name:
        Path(name).chmod(0o755)
        with repositories.serving(Path(name)) as server:
            yield server


@pytest.fixture(scope="session")
def silent() -> Iterator[str]:
    """The address of what would be a registry, if it said anything."""
    with silent_registry() as address:
        yield address


@pytest.fixture(scope="session")
def platform(
    request: pytest.FixtureRequest, registry: Registry, git_host: GitServer, silent: str
) -> Iterator[Platform]:
    """The platform that all these tests share. Its log is kept when one of them fails."""
    certificates = git_host.ca.with_name("all.pem")
    certificates.write_bytes(registry.ca.read_bytes() + git_host.ca.read_bytes())
    settings = {
        **SETTINGS,
        "FETCH_ALLOW": f"{registry.address},{git_host.address},{silent}",
        "EXTRA_CA": str(certificates),
        "GITHUB_URL": git_host.url,
        "MEMORY_OVERCOMMIT": f"{VMS_MB / host_memory_mb():.5f}",
    }
    with tempfile.TemporaryDirectory(prefix="cakework-acceptance-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        platform = Platform(folder, settings)
        platform.start()
        try:
            yield platform
        finally:
            left = platform.end()
            if request.session.testsfailed:
                print(f"\nlog of the platform: {shutil.copy(platform.log, f'{folder}.log')}")
    assert not left, f"machines outlived `cakework up --stop-vms`: {left}"


@pytest.fixture(scope="session")
def document() -> Document:
    """What the platform declares, held against every answer that it gives to these tests."""
    return Document()


@pytest.fixture(scope="session")
def api(platform: Platform, document: Document) -> Iterator[Api]:
    """The API as the first account sees it."""
    with platform.api(check=document.check) as api:
        yield api


@pytest.fixture(autouse=True)
def _contract(request: pytest.FixtureRequest, document: Document) -> Iterator[None]:
    """Holds a test to calling, with success, the operations that it says it is the contract of."""
    marks = list(request.node.iter_markers("contract"))
    document.answered.clear()
    yield
    succeeded = {name for name, status in document.answered if status in (200, 202)}
    assert {name for mark in marks for name in mark.args} <= succeeded


@pytest.fixture(scope="session")
def busybox(api: Api) -> str:
    """An image that runs a shell script."""
    return api.image(guests.BUSYBOX)


@pytest.fixture(scope="session")
def python(api: Api) -> str:
    """An image that runs a Python script."""
    return api.image(guests.PYTHON)


@pytest.fixture(scope="session")
def shell(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image in the registry that runs a shell script as `busybox` does; its reference."""
    layout = Layout(tmp_path_factory.mktemp("shell") / "layout")
    layer = tar_of([Entry("busybox", BUSYBOX.read_bytes(), mode=0o755), Entry("srv", folder=True)])
    command = ("/busybox", "sh", "-c", 'eval "$SCRIPT"')
    image = layout.image([(layer, "gzip")], entrypoint=command)
    return registry.push(layout.index(image), "team/shell:1")


@pytest.fixture
def nothing_left(platform: Platform, busybox: str) -> Iterator[Footprint]:
    """Holds a test to leaving the host as it found it, once the platform has come to rest."""
    before, files = at_rest(platform), file_names(platform)
    yield before

    def left() -> dict[str, int]:
        return grown(before, footprint(platform))

    def told() -> str:
        more = dict(file_names(platform) - files)
        return f"nothing is left; there are {left()} beyond {before}, files {more}"

    until(lambda: not left(), 60, told)


def host_memory_mb() -> float:
    """Return the host's memory, in MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
