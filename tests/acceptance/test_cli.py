"""The command line against a real server, node and VMs."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cakework.node.territory import SLOTS, Territory

ROOT = Path(__file__).resolve().parents[2]
CAKEWORK = [sys.executable, "-m", "cakework.cli"]
DEADLINE_S = 120.0
Done = subprocess.CompletedProcess[str]


@dataclass
class Up:
    """A running `cakework up`."""

    process: "subprocess.Popen[str]"
    env: dict[str, str]
    log: Path
    announced: dict[str, str]

    @property
    def data_dir(self) -> Path:
        """Its data folder."""
        return Path(self.announced["dataDir"])

    def cakework(self, *arguments: str, check: bool = True, **env: str) -> Done:
        """Run a command against it."""
        done = subprocess.run(
            [*CAKEWORK, *arguments],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    def state(self, vm_id: str) -> str:
        """Return the state of a VM, as the list of VMs has it."""
        vms = json.loads(self.cakework("vms", "--json").stdout)
        return next(vm["state"] for vm in vms if vm["id"] == vm_id)


@contextmanager
def serving(data_dir: Path, *options: str, **env: str) -> Generator[Up]:
    """Run `cakework up` on free ports; stopped in the end, and killed if it will not stop."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CAKEWORK_")}
    clean.pop("NO_COLOR", None)
    env = {**clean, "CAKEWORK_DATA_DIR": str(data_dir), "CAKEWORK_POOL_SIZE": "1", **env}
    command = [*CAKEWORK, "up", "--json", "--port=0", "--proxy-port=0", *options]
    log = data_dir.with_suffix(".log")
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line, log.read_text()
            announced = json.loads(line)
            env["CAKEWORK_URL"] = announced["url"]
            if announced["apiKey"]:
                env["CAKEWORK_API_KEY"] = announced["apiKey"]
            yield Up(process, env, log, announced)
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            finally:
                process.kill()


def until(what: str, reached: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    """A platform for all tests of this module, on a new data folder."""
    with serving(tmp_path_factory.mktemp("cli") / "data", "--stop-vms") as up:
        yield up


def build(up: Up, folder: Path, script: str) -> str:
    """Build an image whose program is a shell script; return its id."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(
        'FROM cakework/busybox\nCOPY main.sh /main.sh\nCMD ["sh", "/main.sh"]\n'
    )
    (folder / "main.sh").write_text(script)
    return up.cakework("build", str(folder)).stdout.strip()


@pytest.fixture(scope="module")
def waiting(up: Up, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image whose program prints a line and then waits."""
    folder = tmp_path_factory.mktemp("waiting")
    return build(up, folder, "trap 'exit 0' TERM\necho ready\nwhile :; do sleep 1; done\n")


@dataclass
class Terminal:
    """A command run in a terminal of its own."""

    master: int
    process: "subprocess.Popen[bytes]"
    shown: str = ""
    _ended: bool = field(default=False)

    def read_until(self, pattern: str) -> "re.Match[str]":
        """Return the first match of a pattern in what was shown."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline and not self._ended, self.shown
            self._read(1.0)
        return found

    def wait(self) -> int:
        """Return the exit code, when all that was shown has been read."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._ended:
            assert time.monotonic() < deadline, self.shown
            self._read(1.0)
        return self.process.wait(DEADLINE_S)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def _read(self, timeout_s: float) -> None:
        if not select.select([self.master], [], [], timeout_s)[0]:
            return
        try:
            chunk = os.read(self.master, 65536)
        except OSError:
            chunk = b""
        self._ended = not chunk
        self.shown += chunk.decode(errors="replace")


@contextmanager
def terminal(up: Up, *arguments: str) -> Generator[Terminal]:
    """Run a command in a terminal."""
    master, slave = pty.openpty()
    try:
        with subprocess.Popen(
            ["setsid", "--ctty", "--wait", *CAKEWORK, *arguments],
            env={**up.env, "TERM": "xterm", "COLUMNS": "200"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        ) as process:
            os.close(slave)
            try:
                yield Terminal(master, process)
            finally:
                process.kill()
    finally:
        os.close(master)


def test_a_first_start_makes_a_key_and_shows_it_once(up: Up) -> None:
    """The key opens the API, and a second start does not make another."""
    assert re.fullmatch(r"cw_[\w-]{43}", up.announced["apiKey"])
    assert json.loads(up.cakework("vms", "--status", "created", "--json").stdout) == []
    keys = json.loads(up.cakework("keys", "list", "--json").stdout)
    assert [key["name"] for key in keys] == ["first"]
    again = up.cakework("keys", "create", "--if-none", "--json").stdout
    assert json.loads(again) is None


def test_a_second_up_on_the_same_folder_is_refused(up: Up) -> None:
    """It ends with 1 and names the first one's process."""
    done = up.cakework("up", "--port=0", "--proxy-port=0", check=False)
    assert done.returncode == 1
    assert f"pid {up.process.pid}" in done.stderr


def test_the_server_is_not_root(up: Up) -> None:
    """What parses strangers' bytes has no right and no capability; the node is root."""
    parts = ("server", "router", "node")
    uids = {
        part: status["Uid"].split()[1]
        for status, command in map(describe, children(up.process.pid))
        for part in parts
        if f"cakework.{part}" in command
    }
    assert uids.keys() == set(parts)
    assert uids["node"] == "0"
    assert "0" not in (uids["server"], uids["router"])


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def describe(pid: int) -> tuple[dict[str, str], str]:
    """Return a process's status and its command line."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return status, Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_build_then_run_hello(up: Up) -> None:
    """Building prints the image's id alone on standard output; running it prints what the
    program prints, and ends as it ends."""
    built = up.cakework("build", str(ROOT / "examples" / "hello"))
    assert re.fullmatch(r"[0-9A-Z]{26}\n", built.stdout)
    assert "FROM cakework/busybox" in built.stderr
    ran = up.cakework("run", built.stdout.strip())
    assert ran.stdout == "Hello from a microVM\n"


def test_a_program_keeps_its_streams_environment_and_exit_code(up: Up, tmp_path: Path) -> None:
    """Standard error stays standard error, variables arrive, and the exit code is the shell's."""
    image = build(up, tmp_path / "image", 'echo "A is $A"\necho oops >&2\nexit 7\n')
    done = up.cakework("run", image, "-e", "A=one two", check=False)
    assert done.returncode == 7
    assert done.stdout == "A is one two\n"
    assert "oops\n" in done.stderr


def test_a_build_that_fails_says_why(up: Up, tmp_path: Path) -> None:
    """Exit code 1, the build's own output, and the reason; nothing on standard output."""
    (tmp_path / "Dockerfile").write_text("FROM cakework/busybox\nRUN echo before && exit 9\n")
    done = up.cakework("build", str(tmp_path), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "before" in done.stderr
    assert re.search(r"error: The build failed: .*9", done.stderr)


def test_a_log_of_a_build_can_be_read_again(up: Up) -> None:
    """By the build's id, with a query, as one JSON object a line."""
    built = json.loads(up.cakework("build", str(ROOT / "examples" / "hello"), "--json").stdout)
    lines = up.cakework("logs", built["buildId"], "--query", "from CAKEWORK", "--json").stdout
    found = [json.loads(line) for line in lines.splitlines()]
    assert found
    assert all("FROM cakework" in line["message"] for line in found)


def test_detached_vms_are_listed_followed_and_stopped(up: Up, waiting: str) -> None:
    """`run -d` prints the id; the VM is in the list; its log is followed until it is stopped;
    stopping twice is no error."""
    vm_id = up.cakework("run", waiting, "-d").stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{14}", vm_id)
    listed = json.loads(
        up.cakework("vms", "--status=started", f"--image={waiting}", "--json").stdout
    )
    assert [vm["id"] for vm in listed] == [vm_id]
    command = [*CAKEWORK, "logs", "-f", vm_id]
    with subprocess.Popen(command, env=up.env, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout
        assert follower.stdout.readline() == "ready\n"
        assert up.cakework("stop", vm_id).stdout == f"{vm_id}\n"
        assert follower.stdout.read() == ""
        assert follower.wait(DEADLINE_S) == 0
    assert up.state(vm_id) == "destroyed"
    up.cakework("stop", vm_id)


def test_stop_goes_on_after_one_that_is_not_there(up: Up, waiting: str) -> None:
    """The others are stopped, the unknown one is named, and the exit code is 1."""
    vm_id = up.cakework("run", waiting, "-d").stdout.strip()
    done = up.cakework("stop", "0" * 14, vm_id, check=False)
    assert done.returncode == 1
    assert "0" * 14 in done.stderr
    assert up.state(vm_id) == "destroyed"


def test_ctrl_c_in_a_terminal_destroys_the_vm(up: Up, waiting: str) -> None:
    """`run` in the foreground leaves nothing behind when interrupted, and ends with 130."""
    with terminal(up, "run", waiting) as shell:
        vm_id = shell.read_until(r"VM ([0-9a-f]{14}) started").group(1)
        shell.read_until("ready")
        shell.type("\x03")
        assert shell.wait() == 130
    assert up.state(vm_id) == "destroyed"


def test_a_terminal_is_not_steered_by_a_guest(up: Up, tmp_path: Path) -> None:
    """Escape sequences that a program prints are shown; tables and colours are ours alone."""
    image = build(up, tmp_path / "image", "printf '\\033]0;owned\\007\\n'\n")
    with terminal(up, "run", image) as shell:
        assert shell.wait() == 0
    assert "\\x1b]0;owned\\x07" in shell.shown
    assert "\x1b]0" not in shell.shown
    with terminal(up, "vms") as shell:
        assert shell.wait() == 0
    assert "\x1b[1m" in shell.shown
    assert re.search(r"ID +STATE +IMAGE", re.sub(r"\x1b\[[\d;]*m", "", shell.shown))


def test_a_port_is_reached_at_the_vms_address(up: Up, tmp_path: Path) -> None:
    """The URL that the VM has answers, once the program listens."""
    serve = "mkdir /www; echo 'it works' >/www/index.html; exec httpd -f -p 8000 -h /www\n"
    image = build(up, tmp_path / "image", serve)
    vm = json.loads(up.cakework("run", image, "-d", "--json", "--port=8000").stdout)
    router = up.announced["router"]
    assert vm["url"] == f"http://{vm['hostname']}:{router.rsplit(':', 1)[1]}/"

    def answers() -> bool:
        request = urllib.request.Request(router, headers={"Host": vm["hostname"]})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.read() == b"it works\n"
        except urllib.error.HTTPError as error:
            with error:
                assert error.code == 502
            return False

    until("the program answers", answers)
    up.cakework("stop", vm["id"])


def test_a_wrong_key_ends_with_4(up: Up) -> None:
    """The server's refusal is passed on with what to do."""
    done = up.cakework("vms", check=False, CAKEWORK_API_KEY="cw_" + "x" * 43)
    assert done.returncode == 4
    assert "cakework keys create" in done.stderr


def test_what_the_server_refuses_is_passed_on(up: Up, waiting: str) -> None:
    """The fault is told once; with --json the whole problem is there. What the command knows
    to be wrong is not asked."""
    done = up.cakework("webhooks", "create", "https://127.0.0.1/", check=False)
    assert done.returncode == 1
    assert done.stderr.count("not a public one") == 1
    assert "CAKEWORK_WEBHOOK_ALLOW" in done.stderr
    done = up.cakework("webhooks", "create", "https://127.0.0.1/", "--json", check=False)
    problem = json.loads(done.stderr)["error"]
    assert (problem["code"], problem["status"]) == ("invalid_request", 400)
    assert [error["field"] for error in problem["errors"]] == ["url"]
    assert up.cakework("run", waiting, "--memory=1", check=False).returncode == 2


def test_a_key_is_made_used_and_revoked(up: Up) -> None:
    """It works while it is valid, is listed without itself, and stops working when revoked."""
    created = json.loads(up.cakework("keys", "create", "--name=ci", "--json").stdout)
    assert up.cakework("vms", CAKEWORK_API_KEY=created["key"]).returncode == 0
    listed = up.cakework("keys", "list").stdout
    assert created["id"] in listed
    assert created["key"] not in listed
    up.cakework("keys", "revoke", created["id"])
    until(
        "the revoked key is refused",
        lambda: up.cakework("vms", check=False, CAKEWORK_API_KEY=created["key"]).returncode == 4,
    )
    assert up.cakework("keys", "revoke", "nothing", check=False).returncode == 1


def test_a_log_is_followed_through_the_death_of_the_server(up: Up, tmp_path: Path) -> None:
    """kill -9 of the server: it is started again, and a follower misses and repeats nothing."""
    image = build(up, tmp_path / "image", "for n in $(seq 1 40); do echo $n; sleep 0.1; done\n")
    command = [*CAKEWORK, "run", image]
    with subprocess.Popen(command, env=up.env, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout
        assert runner.stdout.readline() == "1\n"
        [server] = [
            pid for pid in children(up.process.pid) if "cakework.server" in describe(pid)[1]
        ]
        os.kill(server, signal.SIGKILL)
        rest = runner.stdout.read()
        assert runner.wait(DEADLINE_S) == 0
    assert rest.split() == [str(n) for n in range(2, 41)]
    assert "the server died (signal 9)" in up.log.read_text()


def test_vms_outlive_a_stop_and_are_taken_over(tmp_path: Path) -> None:
    """Ctrl-C leaves VMs running and the next start has them; with --stop-vms none is left. A
    second start makes no second key."""
    data_dir = tmp_path / "data"
    with serving(data_dir) as first:
        image = build(first, tmp_path / "image", "echo ready\nwhile :; do sleep 1; done\n")
        vm_id = first.cakework("run", image, "-d").stdout.strip()
        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(DEADLINE_S) == 0
    assert "VMs keep running" in first.log.read_text()
    assert processes_of(data_dir)
    with serving(data_dir, "--stop-vms") as second:
        assert second.announced["apiKey"] is None
        second.env["CAKEWORK_API_KEY"] = first.announced["apiKey"]
        assert second.state(vm_id) == "started"
    assert second.process.returncode == 0
    until("no VM is left", lambda: processes_of(data_dir) == [])


def processes_of(data_dir: Path) -> list[int]:
    """Return the processes of a data folder's VMs, known by their user ids."""
    territory = Territory(int((data_dir / "node" / "territory").read_text()))
    uids = range(territory.uid(0), territory.uid(SLOTS))
    return [
        int(process.name) for process in Path("/proc").glob("[0-9]*") if uid_of(process) in uids
    ]


def uid_of(process: Path) -> int | None:
    """Return whose a process is; None when it has just ended."""
    try:
        return process.stat().st_uid
    except FileNotFoundError:
        return None
