"""Base images: made when first asked for, once, and kept in the builds' storage."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread
import structlog

from cakework.node.builds.failure import NO_SPACE, BuildError
from cakework.node.builds.identities import give
from cakework.node.builds.package_index import PackageIndex, package_index
from cakework.node.builds.recipes import EXCLUDED, SCRIPTS, Recipe
from cakework.node.builds.sandbox import Confinement, Sandbox
from cakework.node.builds.sources import SourcesError, debian_sources
from cakework.node.builds.storage import CA, BuildStorage
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up

OS_RELEASE = Path("/etc/os-release")
APT = Path("/etc/apt")
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
PROGRESS_S = 10
TIMEOUT_S = 1200
MEMORY_MB = 4096
FILE_BYTES = 8 * 2**30
_PHASE = re.compile(
    r"^I: ((?:running|downloading|extracting|installing|cleaning|creating) .*)\.\.\.$", re.MULTILINE
)
_KNOWN = (
    (
        "NO_PUBKEY",
        "a source of packages is not signed by Debian, or this host's package "
        "debian-archive-keyring is too old to know",
    ),
    ("DO NOT MATCH THE HASHES", "the index of Python packages gave another wheel than is locked"),
)
_HANDED_DOWN = re.compile(
    r'^Acquire::(?:https?::Proxy\b.*|Retries|Check-Valid-Until|Check-Date) ".+";$'
)

Say = Callable[[str], None]

log = structlog.get_logger(__name__)


class Bases:
    """Makes base images in ``storage``, each once however many builds ask for it."""

    def __init__(
        self, storage: BuildStorage, sandbox: Sandbox, cgroup_prefix: str, share: str
    ) -> None:
        self._storage = storage
        self._sandbox = sandbox
        self._cgroup_prefix = cgroup_prefix
        self._share = share
        self._making: dict[str, asyncio.Task[None]] = {}
        self._listeners: dict[str, list[Say]] = {}
        self._made: set[str] = set()

    async def ensure(self, recipe: Recipe, say: Say) -> None:
        """Return when the image of ``recipe`` is there, telling ``say`` how it goes on.

        Raises:
            BuildError: it cannot be made.
        """
        if recipe.key in self._made:
            return
        if recipe.key not in self._making:
            task = asyncio.create_task(self._make(recipe))
            task.add_done_callback(lambda _: self._making.pop(recipe.key, None))
            self._making[recipe.key] = task
        listeners = self._listeners.setdefault(recipe.key, [])
        listeners.append(say)
        try:
            await asyncio.shield(self._making[recipe.key])
        finally:
            listeners.remove(say)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, recipe: Recipe) -> None:
        work_id = f"base-{recipe.key}"
        work = self._storage.make_work(work_id)
        limits = Limits(memory_mb=MEMORY_MB, pids_max=4096, within=self._share)
        cgroup = Cgroup.create(f"{self._cgroup_prefix}{work_id}", limits)
        confinement = Confinement(
            work,
            Path("/etc/resolv.conf"),
            cgroup,
            file_bytes=FILE_BYTES,
            apt=True,
            store=self._storage.bases,
        )
        started = time.monotonic()
        try:
            if not await self._is_there(recipe, confinement):
                if recipe.basis:
                    await self.ensure(recipe.basis, lambda text: self._tell(recipe, text))
                await self._fill(recipe, confinement)
                log.info("base_image_made", name=recipe.key, seconds=_since(started))
            self._made.add(recipe.key)
        finally:
            await clean_up("cgroup", cgroup.end, work_id=work_id)
            await self._storage.clear_work(work_id)

    async def _is_there(self, recipe: Recipe, confinement: Confinement) -> bool:
        status, _, _ = await self._sandbox.read(
            ("buildah", "inspect", "--type", "image", recipe.tag), confinement
        )
        return status == 0

    async def _fill(self, recipe: Recipe, confinement: Confinement) -> None:
        work = confinement.work
        inside = f"/b/{work.name}"
        shutil.copytree(SCRIPTS, work / "rootfs")
        (work / "import.sh").write_text(_import_script(recipe))
        if recipe.wheels:
            await self._download(recipe, confinement)
        if recipe.packages:
            codename, options = await self._prepare_apt(recipe, work)
            if recipe.basis:
                (work / "apt.conf").write_text(_apt_conf(inside, options))
            else:
                command = _mmdebstrap(recipe, inside, codename, options)
                await self._run(command, recipe, "reading package lists", confinement)
        await self._run(("sh", f"{inside}/import.sh"), recipe, "storing it", confinement)

    async def _prepare_apt(self, recipe: Recipe, work: Path) -> tuple[str, list[str]]:
        """Write the sources of packages; return the release's codename, and apt's options."""
        try:
            host = _codename()
            codename = (recipe.basis or recipe).release or host
            sources = debian_sources(APT, codename, host)
        except SourcesError as error:
            raise BuildError(f"base image {recipe.reference} cannot be made: {error}") from error
        (work / "debian.sources").write_text(sources)
        return codename, await anyio.to_thread.run_sync(_apt_options)

    async def _download(self, recipe: Recipe, confinement: Confinement) -> None:
        index, work = package_index(), confinement.work
        inside = f"/b/{work.name}"
        (work / "wheels").mkdir()
        give(work / "wheels")
        cert = f"/b/etc/{CA}" if (self._storage.home / "etc" / CA).exists() else None
        if index.cert is not None and index.cert.is_file():
            (work / "index.pem").write_bytes(index.cert.read_bytes())
            cert = f"{inside}/index.pem"
        rootfs = f"{inside}/rootfs"
        command = ("sh", f"{rootfs}/wheels.sh", f"{rootfs}/{recipe.wheels}", f"{inside}/wheels")
        await self._run(command, recipe, "downloading wheels", confinement, index, cert)

    async def _run(
        self,
        command: tuple[str, ...],
        recipe: Recipe,
        phase: str,
        confinement: Confinement,
        index: PackageIndex | None = None,
        cert: str | None = None,
    ) -> None:
        """Run one command, saying now and then what it is at; ``index`` is for one that asks it."""
        stdin = index.script(cert) if index else b""
        output = bytearray()
        ticker = asyncio.create_task(self._tick(recipe, phase, output))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = await self._sandbox.run(
                    command, confinement, output.extend, output.extend, stdin
                )
        except TimeoutError as error:
            raise BuildError(f"base image {recipe.reference} took too long to make") from error
        finally:
            ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticker
        if status:
            told = output.decode(errors="replace")
            raise _failed(recipe, index.hide(told) if index else told)

    async def _tick(self, recipe: Recipe, phase: str, output: bytearray) -> None:
        started = time.monotonic()
        while True:
            phases = _PHASE.findall(output.decode(errors="replace"))
            at = phases[-1] if phases else phase
            self._say(recipe, f"{at}, {_since(started):.0f} s so far")
            await asyncio.sleep(PROGRESS_S)

    def _say(self, recipe: Recipe, text: str) -> None:
        self._tell(recipe, f"making base image {recipe.reference}: {text}")

    def _tell(self, recipe: Recipe, text: str) -> None:
        for say in list(self._listeners.get(recipe.key, ())):
            say(text)


def _apt_conf(work: str, options: list[str]) -> str:
    """Return what has apt install into the folder that import.sh adds as ``Dir``."""
    lines = (
        'APT::Install-Recommends "false";',
        'APT::Sandbox::User "root";',
        'Acquire::Languages "none";',
        'Dpkg::Use-Pty "false";',
        'Dir::Etc::SourceParts "/dev/null";',
        f'Dir::Etc::SourceList "{work}/debian.sources";',
        f'Dir::State::Lists "{work}/out/lists";',
        *(f'DPkg::Options:: "--path-exclude={path}";' for path in EXCLUDED),
        'DPkg::Options:: "--path-include=/usr/share/doc/*/copyright";',
        'DPkg::Options:: "--force-unsafe-io";',
        *options,
    )
    return "".join(f"{line}\n" for line in lines)


def _mmdebstrap(recipe: Recipe, work: str, codename: str, options: list[str]) -> tuple[str, ...]:
    return (
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        f"--hook-dir={MERGED_USR}",
        "--format=tar",
        f"--include={','.join(recipe.packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--aptopt={option}" for option in options),
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=force-unsafe-io",
        f'--customize-hook=sh {work}/rootfs/{recipe.script} "$1"',
        codename,
        f"{work}/out/rootfs.tar",
        f"{work}/debian.sources",
    )


def _import_script(recipe: Recipe) -> str:
    """Return a script that makes the image; its tags come last, so it is whole or not there."""
    config = [f"--cmd '{json.dumps(recipe.cmd)}'", *(f"--env '{each}'" for each in recipe.env)]
    tags = (f"localhost/{reference}" for reference in recipe.references)
    below = recipe.basis.tag if recipe.basis else "scratch"
    return f"""\
set -eu
work=$(dirname "$0")
container=$(buildah from --pull-never --signature-policy /b/etc/policy.json {below})
trap 'buildah rm "$container" >/dev/null' EXIT
root=$(buildah mount "$container")
: >"$work/out/env"
{_filling(recipe)}
set --
while read -r variable; do set -- "$@" --env "$variable"; done <"$work/out/env"
buildah umount "$container" >/dev/null
buildah config {" ".join(config)} "$@" --workingdir / "$container"
image=$(buildah commit -q --signature-policy /b/etc/policy.json "$container")
buildah tag "$image" {" ".join(tags)} {recipe.tag}
"""


def _filling(recipe: Recipe) -> str:
    """Return what fills the folder ``root``."""
    if recipe.basis:
        packages = " ".join(recipe.packages)
        return f'sh "$work/rootfs/layer.sh" "$root" {recipe.script} {packages}'
    if not recipe.packages:
        return f'sh "$work/rootfs/{recipe.script}" "$root"'
    # Device nodes cannot be made in a user namespace, and every runtime brings its own /dev.
    return 'tar -xf "$work/out/rootfs.tar" -C "$root" --numeric-owner --xattrs --exclude="./dev/*"'


def _failed(recipe: Recipe, output: str) -> BuildError:
    if NO_SPACE in output.lower():
        return BuildError("the disk for builds is full")
    signs = ("E: ", "error: ", "Error: ", "ERROR: ")
    lines = [line for line in output.splitlines() if line.startswith(signs)]
    log.error("base_image_failed", name=recipe.key, output=output[-4000:])
    why = lines[0].split(": ", 1)[1] if lines else "see the node's log"
    why = next((known for sign, known in _KNOWN if sign in output), why)
    return BuildError(f"base image {recipe.reference} could not be made: {why}")


def _codename() -> str:
    fields = dict(line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line)
    codename = fields.get("VERSION_CODENAME", "").strip('"')
    if fields.get("ID", "").strip('"') != "debian" or not codename:
        raise SourcesError("this host is not a Debian release")
    return codename


def _apt_options() -> list[str]:
    """Return how this host reaches its sources: proxies, retries, date checks."""
    dump = subprocess.run(
        ("apt-config", "dump", "Acquire"), capture_output=True, text=True, check=True
    )
    return [line for line in dump.stdout.splitlines() if _HANDED_DOWN.match(line)]


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
