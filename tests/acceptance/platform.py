"""The real thing: `cakework up` in a folder of its own, on ports that are its own."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx2

from cakework.node.territory import SLOTS, Territory
from cakework.settings import Settings
from tests.acceptance.api import Api, Check
from tests.acceptance.waiting import until
from tests.integration.ports import reserved_port

START_S = 300.0
STOP_S = 90.0
Part = Literal["node", "server", "router"]


class Platform:
    """A running Cakework. ``url`` is its API, ``router`` the way to its VMs."""

    def __init__(self, data_dir: Path, settings: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self.log = data_dir / "up.log"
        self.key = f"cw_{secrets.token_urlsafe(32)}"
        others = {k: v for k, v in os.environ.items() if not k.startswith("CAKEWORK_")}
        own = {"DATA_DIR": str(data_dir), "API_KEY": self.key, "LOG_FORMAT": "json", **settings}
        self._env = {**others, **{f"CAKEWORK_{name}": value for name, value in own.items()}}
        self._up: subprocess.Popen[str] | None = None
        self._kept = contextlib.ExitStack()
        self._ports = [str(self._kept.enter_context(reserved_port())) for _ in range(2)]
        self._answer: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return self._answer["url"]

    @property
    def router(self) -> str:
        return self._answer["router"]

    @property
    def settings(self) -> Settings:
        return Settings(data_dir=self.data_dir)

    def start(self, *options: str) -> None:
        """Bring it up, always on the same ports; return when it serves."""
        port, proxy_port = self._ports
        command = ["up", "--port", port, "--proxy-port", proxy_port, "--json", *options]
        with self.log.open("a") as log:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "cakework.cli", *command],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._up.stdout is not None
        line = self._up.stdout.readline()
        assert line, f"cakework up does not start:\n{self.tail()}"
        self._answer = json.loads(line)

    def stop(self) -> None:
        """Shut it down, leaving VMs running."""
        if self._up is not None:
            self._up.terminate()
            try:
                self._up.wait(STOP_S)
            finally:
                self._up.kill()
                self._up.wait()
                assert self._up.stdout is not None
                self._up.stdout.close()
                self._up = None

    def end(self) -> list[int]:
        """Shut it down with all its VMs; return machines that outlived this, killed now."""
        self.stop()
        self.start("--stop-vms")
        self.stop()
        left = sorted(self.machines())
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self._kept.close()
        return left

    def territory(self) -> Territory:
        """Return which of the host's numbers are its own."""
        return Territory(int((self.settings.node_dir / "territory").read_text()))

    def machines(self) -> set[int]:
        """Return the processes that run as one of its machine users."""
        first = self.territory().uid(0)
        return {pid for pid, uid in _processes() if first <= uid < first + SLOTS}

    def api(self, key: str | None = None, check: Check | None = None) -> Api:
        """Return a client that speaks as ``key``, or as the first account."""
        return Api(self.url, self.router, key or self.key, check)

    def new_key(self, account: str) -> str:
        """Make a key for ``account``, as an administrator does."""
        made = subprocess.run(
            [
                sys.executable,
                "-m",
                "cakework.cli",
                "keys",
                "create",
                "--account",
                account,
                "--json",
            ],
            env=self._env,
            check=True,
            capture_output=True,
        )
        return json.loads(made.stdout)["key"]

    def pid(self, part: Part) -> int | None:
        """Return the process of a part; none while it is being started again."""
        assert self._up is not None
        for pid in _descendants(self._up.pid):
            words = _command(pid)
            if words[0].rpartition("/")[2].startswith("python") and f"cakework.{part}" in words:
                return pid
        return None

    def kill(self, part: Part) -> None:
        """Kill a part as a crash would, and wait until another one serves."""
        old = self.pid(part)
        assert old is not None
        os.kill(old, signal.SIGKILL)
        until(lambda: self.pid(part) not in (None, old), 120, f"the {part} is started again")
        until(self._serves, 120, f"API and router serve again after kill -9 of the {part}")

    def tail(self) -> str:
        """Return the end of the log of all parts."""
        return self.log.read_text(errors="replace")[-4000:]

    def _serves(self) -> bool:
        try:
            nobody = httpx2.get(self.router, headers={"Host": "nobody.invalid"})
            return httpx2.get(f"{self.url}/readyz").is_success and nobody.status_code == 404
        except httpx2.TransportError:
            return False


def _processes() -> Iterator[tuple[int, int]]:
    """Yield process and user of all that run. A zombie holds nothing but its number."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    yield int(folder.name), folder.stat().st_uid


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [below for child in map(int, children) for below in (child, *_descendants(child))]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return [""]
