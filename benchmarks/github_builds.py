"""A build of a repository with 2,000 files, against git and buildah doing the same by hand."""

import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.integration.node.repositories import TOKEN, GitServer

from benchmarks.comparison import Comparison, Taken
from benchmarks.site import BUSYBOX, Site, root_file_system
from cakework.node.cgroups import Cgroup, Limits

FOLDERS, FILES_EACH, FILE_BYTES = 40, 50, 4096
NAME = "team/many-files"
COPY = "COPY . /app\n"
PHASES = {
    "context_s": "node: clone",
    "bases_s": "node: base image looked up",
    "buildah_s": "node: buildah",
    "erofs_s": "node: EROFS",
    "store_s": "node: image stored",
}


@dataclass
class Repository:
    """A repository that gets a commit before every build, so that no layer is there already."""

    host: GitServer
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    commits: int = 0

    def __post_init__(self) -> None:
        noise = random.Random(1)
        for folder in range(FOLDERS):
            for name in range(FILES_EACH):
                self.files[f"{folder}/{name}"] = noise.randbytes(FILE_BYTES // 2).hex().encode()

    def commit(self) -> None:
        """Change one of the files."""
        self.commits += 1
        self.files["0/0"] = f"{self.commits} {time.time_ns()}".encode()
        self.host.make(NAME, self.files)


@dataclass(frozen=True)
class ByHand:
    """``git clone`` and ``buildah build``, with a folder of their own for layers.

    They run in a cgroup beside those of Cakework's builds: what else the machine does takes as
    much from the one as from the other.
    """

    folder: Path
    host: GitServer
    cgroup: Cgroup

    def make_base(self, root: Path) -> None:
        """Make the base image of the same files as ours."""
        container = self._buildah("from", "scratch").strip()
        self._buildah("add", "--quiet", container, str(root), "/")
        self._buildah("commit", "--quiet", container, "localhost/base")
        self._buildah("rm", container)

    def build(self) -> None:
        """Clone and build."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            clone = Path(name) / "clone"
            url = self.host.url.replace("://", f"://x-access-token:{TOKEN}@")
            words = ("clone", "--quiet", "--depth=1", "--branch=main")
            environment = os.environ | {"GIT_SSL_CAINFO": str(self.host.ca)}
            command = ["git", *words, f"{url}/{NAME}.git", str(clone)]
            self._run(command, environment)
            dockerfile = Path(name) / "Dockerfile"
            dockerfile.write_text(f"FROM localhost/base\n{COPY}")
            self._buildah("build", "--quiet", "--layers", f"--file={dockerfile}", str(clone))

    def end(self) -> None:
        """Remove its images."""
        self._buildah("rmi", "--all", "--force")

    def _buildah(self, *words: str) -> str:
        root, run = self.folder / "storage", self.folder / "run"
        command = ["buildah", f"--root={root}", f"--runroot={run}", "--storage-driver=overlay"]
        return self._run([*command, *words], os.environ)

    def _run(self, command: list[str], environment: Mapping[str, str]) -> str:
        join = 'for file in $PROCS; do echo $$ >"$file"; done; exec "$@"'
        files = " ".join(str(file) for file in self.cgroup.procs_files())
        done = subprocess.run(
            ["sh", "-c", join, "sh", *command],
            env={**environment, "PROCS": files},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout


@contextlib.contextmanager
def github(site: Site) -> Generator[Comparison]:
    """``buildImageFromGithub`` against ``git clone`` and ``buildah build``."""
    repository = Repository(site.git_host)
    with tempfile.TemporaryDirectory(prefix="cakework-bench-by-hand-") as name:
        cgroup = Cgroup.create(f"bench-{os.getpid()}", Limits())
        by_hand = ByHand(Path(name), site.git_host, cgroup)
        try:
            with root_file_system(site.platform, site.images[BUSYBOX]) as root:
                by_hand.make_base(root)
            yield Comparison(
                "buildImageFromGithub",
                partial(_ours, site, repository),
                "git clone, buildah build",
                partial(_theirs, by_hand, repository),
                goal=1.5,
            )
        finally:
            by_hand.end()
            cgroup.remove()


def _ours(site: Site, repository: Repository) -> Taken:
    repository.commit()
    body = {
        "dockerfile": f"FROM cakework/busybox\n{COPY}",
        "token": TOKEN,
        "repository": NAME,
        "branch": "main",
    }
    begun = time.monotonic()
    build_id = site.api.post("/v1/image/build/github", body)["buildId"]
    for _ in site.api.follow(f"/v1/image/build/{build_id}/logs"):
        pass
    build = site.api.get(f"/v1/image/build/{build_id}")
    ms = (time.monotonic() - begun) * 1000
    if build["status"] != "succeeded":
        raise RuntimeError(f"the build has not succeeded: {build}")
    return Taken(ms, _parts(site, build_id, ms))


def _theirs(by_hand: ByHand, repository: Repository) -> float:
    repository.commit()
    begun = time.monotonic()
    by_hand.build()
    return (time.monotonic() - begun) * 1000


def _parts(site: Site, build_id: str, ms: float) -> dict[str, float]:
    """Return where the time went, as the node's log says."""
    for line in reversed(site.platform.log.read_text().splitlines()):
        if "build_phases" in line and build_id in line:
            told = json.loads(line)
            parts = {name: told[phase] * 1000 for phase, name in PHASES.items()}
            return {**parts, "all else": ms - sum(parts.values())}
    return {}
