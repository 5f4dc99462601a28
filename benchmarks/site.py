"""Where benchmarks are run: Cakework and its peers, side by side, with the same images."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.api import Api
from tests.acceptance.footprint import at_rest
from tests.acceptance.platform import Platform
from tests.integration.node import registries, repositories
from tests.integration.node.registries import Registry
from tests.integration.node.repositories import GitServer

from benchmarks.docker_engine import DockerEngine, docker_engine
from benchmarks.ending import interruptible, may_end
from benchmarks.podman import Podman, podman

EXAMPLES = Path(__file__).parents[1] / "examples"
LINE = "hello"
COMMAND = ("echo", LINE)
BUSYBOX = "busybox"
SERVICE = "python-web"
SERVICE_COMMAND = ("python3", "/app/server.py")
SERVICE_PORT = 8000


@dataclass(frozen=True)
class Site:
    """A running Cakework and its peers. ``images`` are ours by name; the peers have the same."""

    platform: Platform
    api: Api
    docker: DockerEngine
    podman: Podman
    git_host: GitServer
    registry: Registry
    pooled: bool
    images: dict[str, str] = field(default_factory=dict[str, str])

    def rest(self) -> None:
        """Return when nothing is made ahead of time or tidied up any more."""
        at_rest(self.platform)


@contextlib.contextmanager
def site(settings: Mapping[str, str]) -> Generator[Site]:
    """Bring everything up, with ``settings`` of Cakework's, and take it down at the end.

    Signals break off neither of the two, only what goes on between them.
    """
    with contextlib.ExitStack() as held:
        folder = Path(tempfile.mkdtemp(prefix="cakework-bench-"))
        held.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "git").mkdir()
        git_host = held.enter_context(repositories.serving(folder / "git"))
        # In the same folder, so that both show one certificate.
        registry = held.enter_context(registries.serving(folder / "git"))
        reach = {"FETCH_ALLOW": f"{git_host.address},{registry.address}"}
        platform = Platform(folder, {**_as_github(git_host), **reach, **settings})
        held.callback(platform.end)
        say("bringing Cakework up")
        platform.start()
        may_end()
        api = held.enter_context(platform.api())
        docker = held.enter_context(docker_engine())
        podman_engine = held.enter_context(podman())
        pooled = settings.get("POOL_SIZE") != "0"
        made = Site(platform, api, docker, podman_engine, git_host, registry, pooled)
        with interruptible():
            _make_images(made)
            yield made


def say(text: str) -> None:
    """Tell a person how it goes on."""
    print(text, file=sys.stderr, flush=True)


def _as_github(git_host: GitServer) -> dict[str, str]:
    """Return the settings by which Cakework takes ``git_host`` for GitHub."""
    return {
        "GITHUB_URL": git_host.url,
        "EXTRA_CA": str(git_host.ca),
    }


def _make_images(made: Site) -> None:
    hello = f"FROM cakework/busybox\nCMD {json.dumps(COMMAND)}\n"
    made.images[BUSYBOX] = made.api.image(hello)
    service = EXAMPLES / SERVICE
    files = {"server.py": (service / "server.py").read_text()}
    made.images[SERVICE] = made.api.image((service / "Dockerfile").read_text(), files)
    for name, image_id in made.images.items():
        with root_file_system(made.platform, image_id) as root:
            made.docker.make_image(name, root)
            made.podman.make_image(name, root)


@contextlib.contextmanager
def root_file_system(platform: Platform, image_id: str) -> Generator[Path]:
    """Unpack an image of ours, so that a peer can have just the same files."""
    image = platform.settings.node_dir / "images" / image_id / "rootfs.erofs"
    with tempfile.TemporaryDirectory(prefix="cakework-bench-root-") as folder:
        root = Path(folder) / "root"
        subprocess.run(["fsck.erofs", f"--extract={root}", image], check=True, capture_output=True)
        yield root
