"""A context that is a branch of a repository, fetched by git in the build's sandbox.

Nothing of what comes is touched by the node itself: git, and all that reads what it wrote,
is a stranger's as much as a Dockerfile is.
"""

import asyncio
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread
import structlog

from cakework.domain.orders import GithubSource
from cakework.node.builds.clone_failure import explain_clone, host_of, too_large
from cakework.node.builds.context import MTIME_S
from cakework.node.builds.disk import Bound, DiskGuard, bytes_below
from cakework.node.builds.failure import BuildError
from cakework.node.builds.log import BuildLog, LineSplitter
from cakework.node.builds.sandbox import Confinement, Sandbox

SCRIPT = Path(__file__).with_name("clone.sh")
USERNAME = "x-access-token"
"""Of GitHub's documentation; only the token counts."""
MIB = 2**20
HIDDEN = "<token>"
_COMMIT = re.compile(r"^[0-9a-f]{40,64}\Z")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CloneLimits:
    """Where repositories are, how long fetching one may take, what it may write to disk, and what
    it leaves free there."""

    address: str
    timeout_s: float
    size_mb: int
    spare_mb: int


class Clone:
    """Fetches the branch that ``source`` names; ``build_log`` is told how it goes."""

    def __init__(
        self, sandbox: Sandbox, limits: CloneLimits, source: GithubSource, build_log: BuildLog
    ) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._source = source
        self._log = build_log

    async def fetch(self, confinement: Confinement) -> None:
        """Write the branch into the folder ``context`` of ``confinement``'s work folder.

        Nothing may have run in that folder yet.

        Raises:
            BuildError: it cannot be fetched; says why.
        """
        source, limits, work = self._source, self._limits, confinement.work
        (work / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
        self._log.say(f"cloning {source.repository}, branch {source.branch}, of {limits.address}")
        confinement = replace(confinement, file_bytes=limits.size_mb * MIB)
        fault = too_large(source, limits.size_mb)
        bound = Bound(lambda: bytes_below(work), limits.size_mb, fault)
        guard = DiskGuard(work, limits.spare_mb, bound)
        try:
            async with asyncio.timeout(limits.timeout_s), guard:
                report = await self._run(confinement)
        except TimeoutError as error:
            raise BuildError(
                f"{source.repository}: cloning it took longer than {limits.timeout_s:.0f} s"
            ) from error
        if await anyio.to_thread.run_sync(bytes_below, work) > limits.size_mb * MIB:
            raise BuildError(fault)
        self._tell(report)

    async def _run(self, confinement: Confinement) -> dict[str, list[str]]:
        source, limits = self._source, self._limits
        stdout = LineSplitter(self._log, "stdout", _nothing)
        stderr = LineSplitter(self._log, "stderr", _nothing)
        script = f"/b/{confinement.work.name}/{SCRIPT.name}"
        words = (limits.address, source.repository, source.branch, str(MTIME_S))
        credentials = _credentials(source.token)
        status = await self._sandbox.run(
            ("sh", script, *words), confinement, stdout.feed, stderr.feed, credentials
        )
        report, faults = _read_report(stdout.finish()), self._hidden(stderr.finish())
        if not status:
            return report
        log.info("clone_failed", host=host_of(limits.address), status=status, output=faults[-2000:])
        if confinement.cgroup.oom_kills():
            raise BuildError(f"{source.repository}: cloning it took more memory than builds have")
        is_empty = report.get("branches") == ["0"]
        raise BuildError(explain_clone(source, limits.address, faults, is_empty, limits.size_mb))

    def _hidden(self, text: str) -> str:
        """Return what git printed without the token, which a server could have it print."""
        return text.replace(self._source.token, HIDDEN) if self._source.token else text

    def _tell(self, report: dict[str, list[str]]) -> None:
        commit, files = report["commit"][-1:], report["files"][-1:]
        if not (commit and _COMMIT.match(commit[0]) and files and files[0].isdecimal()):
            raise BuildError(f"{self._source.repository}: git does not say what it fetched")
        self._log.say(f"commit {commit[0][:12]}, {int(files[0]):,} files")
        if some := _some(report, "submodules", "submodule"):
            self._log.say(f"submodules are not fetched, their folders are empty: {some}", "stderr")
        if some := _some(report, "lfs-files", "lfs-file"):
            self._log.say(f"files in Git LFS are not fetched, only pointers: {some}", "stderr")
        for name in report["ignored-link"]:
            self._log.say(f"{name} is a link, which is not followed: nothing is ignored", "stderr")


def _credentials(token: str) -> bytes:
    return f"username={USERNAME}\npassword={token}".encode() if token else b""


def _nothing(_: str) -> bool:
    """Keep no line: what git prints is for us."""
    return False


def _read_report(output: str) -> dict[str, list[str]]:
    report: dict[str, list[str]] = defaultdict(list)
    for line in output.splitlines():
        word, _, value = line.partition(" ")
        report[word].append(value)
    return report


def _some(report: dict[str, list[str]], all_of: str, each: str) -> str:
    """Return the names in a report, and how many there are beyond those."""
    names, counts = report[each], report[all_of]
    more = int(counts[0]) - len(names) if counts and counts[0].isdecimal() else 0
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")
