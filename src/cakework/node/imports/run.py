"""One import: a registry is asked, then the image is fetched and made what VMs start from.

check  is it there, for our platform, and given to these credentials?
fetch  skopeo ─▶ tar, a folder for each layer ─▶ EROFS ─▶ image store
"""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cakework.domain.errors import CakeworkError, WrongPlatform
from cakework.domain.image_references import registry_of
from cakework.domain.orders import ImportOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.builds.failure import BuildError
from cakework.node.builds.made import explain_export, read_made, run_config
from cakework.node.builds.sandbox import Confinement, Sandbox
from cakework.node.builds.shop import MIB, PIDS_MAX, BuildLimits, BuildNetwork
from cakework.node.builds.storage import BuildStorage
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up
from cakework.node.images import Image, ImageStore
from cakework.node.imports.arrival import ARRIVED, ArrivalGuard
from cakework.node.imports.failure import (
    NO_SPACE,
    TOO_LARGE,
    broke_off,
    explain_fetch,
    too_slow,
)

SCRIPT = Path(__file__).with_name("fetch.sh")
UNPACK = Path(__file__).with_name("unpack.py")
PULLS = 3
"""How often an image is fetched of which the registry breaks off; layers that came stay."""
PLATFORM = ("linux", "amd64")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ImportShop:
    """What all imports of a node share."""

    storage: BuildStorage
    sandbox: Sandbox
    images: ImageStore
    network: BuildNetwork
    limits: BuildLimits
    cgroup_prefix: str
    share: str


class ImportRun:
    """Carries one order out."""

    def __init__(self, shop: ImportShop, order: ImportOrder) -> None:
        self._shop = shop
        self._order = order

    async def check(self, answered_by: float) -> None:
        """Ask the registry for the image's configuration, and nothing else.

        ``answered_by`` is when it has to have answered, on the clock of the event loop.

        Raises:
            RegistryDenied, RegistryUnreachable, WrongPlatform, ImageNotInRegistry: it cannot
                be imported.
        """
        reference = self._order.image_uri
        async with self._workplace("check") as confinement:
            try:
                async with asyncio.timeout_at(answered_by):
                    status, stdout, stderr = await self._run(confinement, "check")
            except TimeoutError as error:
                raise too_slow(reference) from error
        if status:
            log.info("import_refused", image_id=self._order.image_id, output=stderr[-2000:])
            raise explain_fetch(reference, stderr)
        _check_platform(reference, json.loads(stdout))

    async def fetch(self) -> Image:
        """Fetch the image and store it.

        Raises:
            CakeworkError: it cannot be fetched.
            BuildError: it cannot be stored.
        """
        timeout_s = self._shop.limits.timeout_s
        async with self._workplace("pull") as confinement:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._fetch(confinement)
            except TimeoutError as error:
                raise BuildError(f"fetching it took longer than {timeout_s} s") from error

    async def _fetch(self, confinement: Confinement) -> Image:
        limits, work, begun = self._shop.limits, confinement.work, time.time()
        async with ArrivalGuard(work, limits.image_mb, limits.spare_mb):
            await self._pull(confinement)
        arrived, pulled = (work / ARRIVED).stat().st_mtime, time.time()
        inspected = json.loads(read_made(work, "image.json"))
        _check_platform(self._order.image_uri, inspected["OCIv1"])
        config = run_config(inspected, inspected["FromImageID"])
        rootfs = work / "out" / "rootfs.erofs"
        step(Step.NODE_IMPORT_PULLED)
        image = await self._shop.images.put(self._order.image_id, rootfs, config)
        self._tell_phases(begun, arrived, pulled, time.time())
        return image

    async def _pull(self, confinement: Confinement) -> None:
        out = f"/b/{confinement.work.name}/out"
        stderr = ""
        for _ in range(PULLS):
            status, _, stderr = await self._run(confinement, "pull", out)
            if not status:
                return
            log.info("import_pull_failed", image_id=self._order.image_id, output=stderr[-2000:])
            if not broke_off(stderr):
                break
        raise self._fault(confinement, stderr)

    def _tell_phases(self, begun: float, arrived: float, pulled: float, stored: float) -> None:
        phases = {
            "fetch_s": arrived - begun,
            "erofs_s": pulled - arrived,
            "store_s": stored - pulled,
        }
        rounded = {name: round(took, 3) for name, took in phases.items()}
        log.info("import_phases", image_id=self._order.image_id, **rounded)

    def _fault(self, confinement: Confinement, stderr: str) -> CakeworkError | BuildError:
        limits = self._shop.limits
        if confinement.cgroup.oom_kills():
            return BuildError(f"fetching it took more than {limits.memory_mb} MB")
        if TOO_LARGE in stderr.lower():
            return BuildError(f"the image is larger than {limits.image_mb} MB")
        if NO_SPACE in stderr.lower():
            return BuildError("the disk for images is full")
        if "level=fatal" in stderr:
            return explain_fetch(self._order.image_uri, stderr)
        return BuildError(explain_export(stderr, limits.image_mb))

    async def _run(self, confinement: Confinement, step: str, *more: str) -> tuple[int, str, str]:
        script = f"/b/{confinement.work.name}/fetch.sh"
        command = ("sh", script, step, self._order.image_uri, *more)
        return await self._shop.sandbox.read(command, confinement, _auth_file(self._order))

    @contextlib.asynccontextmanager
    async def _workplace(self, step: str) -> AsyncGenerator[Confinement]:
        """Give folder, cgroup and network; on the way out end and remove all that is left."""
        shop, work_id = self._shop, f"{step}-{self._order.image_id}"
        limits = Limits(shop.limits.memory_mb, PIDS_MAX, within=shop.share)
        async with contextlib.AsyncExitStack() as stack:
            work = shop.storage.make_work(work_id)
            stack.push_async_callback(shop.storage.clear_work, work_id)
            for script in (SCRIPT, UNPACK):
                # Before anything ran there: what did could have left links in their places.
                (work / script.name).write_bytes(script.read_bytes())
            cgroup = Cgroup.create(f"{shop.cgroup_prefix}{work_id}", limits)
            stack.push_async_callback(clean_up, "cgroup", cgroup.end, work_id=work_id)
            leasing = shop.network.lease_fetching(self._order.owner)
            network = await stack.enter_async_context(leasing)
            file_bytes = shop.limits.image_mb * MIB
            yield Confinement(work, shop.storage.resolv_conf, cgroup, file_bytes, network)


def _auth_file(order: ImportOrder) -> bytes:
    """Return what containers-auth.json(5) describes."""
    if not order.password:
        return b'{"auths": {}}'
    pair = base64.b64encode(f"{order.username}:{order.password}".encode()).decode()
    return json.dumps({"auths": {registry_of(order.image_uri): {"auth": pair}}}).encode()


def _check_platform(reference: str, config: dict[str, Any]) -> None:
    found = str(config.get("os") or "linux"), str(config.get("architecture") or "")
    if found != PLATFORM:
        told = "/".join(filter(None, found))
        raise WrongPlatform(f"{reference}: it is for {told}, not for {'/'.join(PLATFORM)}.")


def sentence(error: CakeworkError | BuildError) -> str:
    """Return what an error says, without a full stop."""
    return str(error).removesuffix(".")
