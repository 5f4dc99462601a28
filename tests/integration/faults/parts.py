"""The parts of one data folder, each a process of its own, in which faults are laid."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2

from cakework.domain.steps import Step
from cakework.faults import VARIABLE
from cakework.node.territory import Territory
from cakework.settings import Settings
from tests.acceptance.waiting import until
from tests.integration.ports import reserved_port

KEY = "cw_the-one-account-of-these-tests"
START_S = 200.0
FAULT_BEFORE, FAULT_AFTER = 5, 40
"""How many lines of a log tell of a traceback: what came before it, and the traceback itself."""
REPOSITORY = Path(__file__).parents[3]


class Part:
    """``cakework.<name>`` as a process of its own; started again when it has died of a fault."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        module = f"cakework.{name}"
        with self.log.open("ab") as log:
            self._nursery = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.integration.faults.nursery", module],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.pid = 0
        self._ending: Future[int] = Future()
        self._watching = ThreadPoolExecutor(1)

    @property
    def ended(self) -> int | None:
        """How it ended, as ``Popen.returncode`` says it; None while it runs."""
        return self._ending.result() if self._ending.done() else None

    def start(self, **settings: str) -> None:
        """Start it, with ``settings`` that differ this time."""
        stdin, stdout = self._nursery.stdin, self._nursery.stdout
        assert stdin is not None and stdout is not None
        environment = {f"CAKEWORK_{name}": value for name, value in settings.items()}
        stdin.write(json.dumps(environment).encode() + b"\n")
        stdin.flush()
        self.pid = int(stdout.readline())
        self._ending = self._watching.submit(lambda: _exit_code(stdout.readline()))

    def stop(self) -> int:
        """SIGTERM; return its exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self._ending.result(START_S)

    def close(self) -> None:
        """End it, if it runs, and whatever started it."""
        if self.pid and self.ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self._ending.result(START_S)
        with self._nursery as nursery:
            nursery.kill()
        self._watching.shutdown()


class Parts:
    """A whole Cakework without a supervisor: the test starts again what died."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.faults = folder / "faults"
        self.faults.mkdir()
        self._networks = int(settings["POOL_NETWORKS"])
        self._kept = contextlib.ExitStack()
        self._ports = [self._kept.enter_context(reserved_port()) for _ in range(2)]
        own = {
            "DATA_DIR": str(folder),
            "API_KEY": KEY,
            "PORT": str(self._ports[0]),
            "PROXY_PORT": str(self._ports[1]),
            "LOG_FORMAT": "json",
            **settings,
        }
        others = {k: v for k, v in os.environ.items() if not k.startswith("CAKEWORK_")}
        environment = {
            **others,
            **{f"CAKEWORK_{name}": value for name, value in own.items()},
            VARIABLE: str(self.faults),
        }
        self.node = Part("node", folder, environment)
        self.server = Part("server", folder, environment)
        self.router_part = Part("router", folder, environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def router(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def settings(self) -> Settings:
        return Settings(data_dir=self.folder, pool_networks=self._networks)

    @property
    def territory(self) -> Territory:
        return Territory(int((self.settings.node_dir / "territory").read_text()))

    def start(self) -> None:
        """Start all; return when they serve."""
        self.node.start()
        self.server.start()
        self.router_part.start()
        self._wait_until_ready()

    def stop(self) -> None:
        """End all in order."""
        assert self.router_part.stop() == 0, self.tail()
        assert self.server.stop() == 0, self.tail()
        assert self.node.stop() == 0, self.tail()

    def close(self) -> None:
        """End what still runs, at once."""
        for part in (self.router_part, self.server, self.node):
            part.close()
        self._kept.close()

    def restart(self, part: Part, **settings: str) -> None:
        """End a part in order and start it again, with ``settings`` that differ this time."""
        assert part.stop() == 0, self.tail()
        part.start(**settings)
        self._wait_until_ready()

    def lay(self, step: Step) -> None:
        """Have the part that passes ``step`` next end there."""
        (self.faults / step).touch()

    def laid(self) -> list[str]:
        """Return the faults that nobody came by."""
        return [file.name for file in self.faults.iterdir()]

    def part_of(self, step: Step) -> Part:
        return self.node if step.startswith("node.") else self.server

    def revive(self, step: Step, within_s: float, **settings: str) -> float:
        """Wait until a part has died at ``step``, and start it again, with ``settings`` that differ
        this time; return how long that took."""
        part = self.part_of(step)
        until(lambda: part.ended is not None, within_s, f"the {part.name} reaches {step}")
        assert part.ended == -signal.SIGKILL, self.tail()
        began = time.monotonic()
        part.start(**settings)
        self._wait_until_ready()
        return time.monotonic() - began

    def faulty(self) -> list[str]:
        """Return what all logged with a traceback, each with the lines around it."""
        return [
            "".join(lines[max(0, number - FAULT_BEFORE) : number + FAULT_AFTER])
            for part in (self.node, self.server, self.router_part)
            for lines in (part.log.read_text().splitlines(keepends=True),)
            for number, line in enumerate(lines)
            if "Traceback" in line
        ]

    def tail(self) -> str:
        """Return the end of all logs."""
        return "\n".join(
            part.log.read_text(errors="replace")[-6000:]
            for part in (self.node, self.server, self.router_part)
        )

    def _wait_until_ready(self) -> None:
        until(self._is_ready, START_S, lambda: f"node and server serve:\n{self.tail()}")

    def _is_ready(self) -> bool:
        for part in (self.node, self.server, self.router_part):
            assert part.ended is None, f"the {part.name} ended by itself:\n{self.tail()}"
        try:
            nobody = httpx2.get(self.router, headers={"Host": "nobody.invalid"})
            return httpx2.get(f"{self.url}/readyz").is_success and nobody.status_code == 404
        except httpx2.TransportError:
            return False


def _exit_code(status: bytes) -> int:
    return os.waitstatus_to_exitcode(int(status))
