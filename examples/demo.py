#!/usr/bin/env python3
"""The demo: two services built from files, each run in a microVM, called, their logs read.

Brings a server of its own up on free ports, keeps everything in CAKEWORK_DATA_DIR (default:
./cakework-data), and leaves nothing running. Ends with 1 when any step fails.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cakework.node.territory import SLOTS, Territory

ROOT = Path(__file__).resolve().parent.parent
CAKEWORK = [sys.executable, "-m", "cakework.cli"]
DATA_DIR = Path(os.environ.get("CAKEWORK_DATA_DIR", ROOT / "cakework-data")).absolute()
SERVICES = ("python-web", "node-web")
ANSWER_S = 60.0
GONE_S = 5.0
COLOUR = sys.stdout.isatty()


class StepFailed(Exception):
    """A step of the demo did not do what it should."""


@dataclass
class Service:
    """What was measured of one service, in seconds."""

    name: str
    build_s: float = 0
    start_s: float = 0
    answer_s: float = 0
    again_s: float = 0


@dataclass
class Demo:
    """The server that is up, and how to speak to it."""

    router: str
    env: dict[str, str]
    up_s: float
    services: list[Service] = field(default_factory=list)

    def cakework(self, *arguments: str) -> str:
        """Run a command of the command line; its progress is shown, its output returned."""
        show_command("cakework", *(a for a in arguments if a != "--json"))
        with subprocess.Popen(
            [*CAKEWORK, *arguments],
            env=self.env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr and process.stdout
            for line in process.stderr:
                say(f"    {line.rstrip()}", "2")
            output = process.stdout.read()
        if process.returncode != 0:
            raise StepFailed(f"cakework {arguments[0]} ended with {process.returncode}")
        return output


def main() -> int:
    """Run the demo and say how it went."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    try:
        with server() as demo:
            for name in SERVICES:
                demo.services.append(show_service(demo, name))
        check_nothing_left()
    except StepFailed as failure:
        say(f"\nThe demo failed: {failure}", "1;31")
        say(f"The server's own log is {DATA_DIR / 'demo.log'}")
        return 1
    summarise(demo, time.monotonic() - began)
    return 0


@contextmanager
def server() -> Iterator[Demo]:
    """Bring node and server up on free ports, and stop them and all VMs afterwards."""
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    key = api_key()
    env = {**os.environ, "CAKEWORK_DATA_DIR": str(DATA_DIR), "CAKEWORK_API_KEY": key}
    command = ["up", "--port", env.get("CAKEWORK_PORT", "0")]
    command += ["--proxy-port", env.get("CAKEWORK_PROXY_PORT", "0"), "--stop-vms", "--json"]
    show_command("cakework", "up")
    began = time.monotonic()
    with (DATA_DIR / "demo.log").open("w") as log:
        process = subprocess.Popen(
            [*CAKEWORK, *command],
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        up = read_announcement(process)
        up_s = time.monotonic() - began
        say(f"    API {up['url']}, router {up['router']}, up after {up_s:.1f} s", "2")
        yield Demo(up["router"], {**env, "CAKEWORK_URL": up["url"]}, up_s)
    finally:
        stop_server(process)


def api_key() -> str:
    """Return the demo's API key, made at the first run and kept beside the data."""
    path = DATA_DIR / "demo.key"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(f"cw_{secrets.token_urlsafe(32)}")
    return path.read_text()


def read_announcement(process: "subprocess.Popen[str]") -> dict[str, str]:
    """Return what `cakework up` prints once all is ready."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        process.wait()
        reason = (DATA_DIR / "demo.log").read_text().strip().splitlines()[-3:]
        raise StepFailed("\n  ".join(["cakework up does not start:", *reason]))
    return json.loads(line)


def stop_server(process: "subprocess.Popen[str]") -> None:
    """Stop `cakework up` and wait until it is gone."""
    say("\n▸ stopping everything")
    process.terminate()
    try:
        process.wait(90)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise StepFailed("cakework up did not stop within 90 s") from error


def show_service(demo: Demo, name: str) -> Service:
    """Build a service, start it, call it, read its log, stop it."""
    say(f"\n▸ {name}", "1")
    service = Service(name)
    began = time.monotonic()
    image = json.loads(demo.cakework("build", f"examples/{name}", "--json"))["imageId"]
    service.build_s = time.monotonic() - began
    say(f"    image {image} after {service.build_s:.1f} s", "2")
    began = time.monotonic()
    started = demo.cakework(
        "run", image, "--port", "8000", "--env", f"NAME={name}", "--detach", "--json"
    )
    vm = json.loads(started)
    service.start_s = time.monotonic() - began
    say(f"    VM {vm['id']} after {service.start_s:.2f} s", "2")
    call_service(demo, service, vm["hostname"], began)
    show_log(demo, vm["id"])
    demo.cakework("stop", vm["id"])
    return service


def call_service(demo: Demo, service: Service, hostname: str, began: float) -> None:
    """Call a service through the router: until it first answers, and once more."""
    show_command("curl", f"http://{hostname}:{demo.router.rsplit(':', 1)[1]}/")
    body = first_answer(demo.router, hostname)
    service.answer_s = time.monotonic() - began
    say(f"    {body}")
    if json.loads(body)["message"] != f"Hello from {service.name}":
        raise StepFailed(f"{service.name} answered something else")
    began = time.monotonic()
    get(demo.router, hostname, "/")
    service.again_s = time.monotonic() - began
    counted = get(demo.router, hostname, "/stream").split()
    if counted != ["1", "2", "3", "4", "5"]:
        raise StepFailed(f"{service.name} streamed {counted}")


def first_answer(router: str, hostname: str) -> str:
    """Return the first good answer; until the program listens the router says 502."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return get(router, hostname, "/")
        except urllib.error.HTTPError as error:
            with error:
                answer = error.read().decode(errors="replace")
            if error.code != 502 or time.monotonic() > deadline:
                raise StepFailed(f"the router answered {error.code}: {answer}") from error
        time.sleep(0.05)


def get(router: str, hostname: str, path: str) -> str:
    """Ask the router for a page of a VM."""
    request = urllib.request.Request(f"{router}{path}", headers={"Host": hostname})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=ANSWER_S) as response:
        return response.read().decode()


def show_log(demo: Demo, vm_id: str) -> None:
    """Show a VM's log; it must hold the requests that were made."""
    log = demo.cakework("logs", vm_id)
    for line in log.splitlines():
        say(f"    {line}")
    if "listens on port" not in log or "/stream" not in log:
        raise StepFailed("the log lacks what the service printed")


def check_nothing_left() -> None:
    """Look for processes of this data folder's VMs until the last has ended."""
    deadline = time.monotonic() + GONE_S
    while left := machine_processes():
        if time.monotonic() > deadline:
            raise StepFailed(f"processes were left running: {', '.join(left)}")
        time.sleep(0.05)


def machine_processes() -> list[str]:
    """Return the processes of this data folder's VMs, known by their user ids."""
    territory = Territory(int((DATA_DIR / "node" / "territory").read_text()))
    uids = range(territory.uid(0), territory.uid(SLOTS))
    return [process.name for process in Path("/proc").glob("[0-9]*") if uid_of(process) in uids]


def uid_of(process: Path) -> int | None:
    """Return whose a process is; None when it has just ended."""
    try:
        return process.stat().st_uid
    except FileNotFoundError:
        return None


def summarise(demo: Demo, total_s: float) -> None:
    """Print what was measured."""
    say(
        "\nThe demo worked: built from files, run in microVMs, called, logs read, all stopped.",
        "32",
    )
    say(f"\n  {'':12}{'build':>9}{'start':>9}{'1st answer':>12}{'next':>9}")
    for service in demo.services:
        say(
            f"  {service.name:12}{service.build_s:7.1f} s{service.start_s:7.2f} s"
            f"{service.answer_s:10.2f} s{service.again_s * 1000:6.0f} ms"
        )
    say(f"\n  server up in {demo.up_s:.1f} s, all in {total_s:.1f} s")


def show_command(*words: str) -> None:
    """Show a command as a person would type it."""
    say(f"  $ {' '.join(words)}", "36")


def say(text: str, colour: str = "0") -> None:
    """Print a line, in colour on a terminal."""
    print(f"\x1b[{colour}m{text}\x1b[0m" if COLOUR else text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
