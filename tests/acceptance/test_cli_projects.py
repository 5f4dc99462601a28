"""`cakework init`, `deploy` and their like against the shared platform."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.api import Api
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

ROOT = Path(__file__).resolve().parents[2]
CAKEWORK = [sys.executable, "-m", "cakework.cli"]
DEADLINE_S = 240.0
BLOCK = "^```{}\n(.*?)^```"
FLAGS = re.MULTILINE | re.DOTALL
WEB = 'CMD ["httpd", "-f", "-p", "8000", "-h", "/www"]\n'
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def env(platform: Platform) -> dict[str, str]:
    """The environment of commands."""
    own = {"CAKEWORK_URL": platform.url, "CAKEWORK_API_KEY": platform.key}
    return {**os.environ, "CAKEWORK_CONFIG": os.devnull, **own}


@pytest.fixture
def cakework(env: dict[str, str]) -> Run:
    """Runs a command."""

    def run(*arguments: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [*CAKEWORK, *map(str, arguments)],
            env=env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def project(folder: Path, text: str, command: str = WEB) -> Path:
    """Write a project that serves a text, one that no build has seen."""
    folder.mkdir(exist_ok=True)
    base = "FROM cakework/busybox\nCOPY index.html /www/\nEXPOSE 8000\n"
    (folder / "Dockerfile").write_text(base + command)
    (folder / "index.html").write_text(f"{text} {uuid.uuid4()}\n")
    return folder


def remembered(folder: Path) -> dict[str, Any]:
    [kept] = json.loads((folder / ".cakework" / "deployments.json").read_text()).values()
    return kept


def test_a_deployment_is_told_and_remembered(cakework: Run, api: Api, tmp_path: Path) -> None:
    """With --json the VM is printed; its port is the one that the Dockerfile exposes."""
    folder = project(tmp_path / "site", "hello")
    vm = json.loads(cakework("deploy", folder, "--cpu", "1", "--json").stdout)
    assert (vm["port"], vm["cpu"]) == (8000, 1)
    assert "hello" in api.visit(vm).text
    assert remembered(folder) == {"vmId": vm["id"], "leftover": []}
    cakework("destroy", vm["id"])


def test_a_project_deployed_again_replaces_the_older_one(
    cakework: Run, api: Api, tmp_path: Path
) -> None:
    """The new one answers at a hostname of its own, which is told; the old one is destroyed. One
    that fails changes nothing."""
    folder = project(tmp_path / "site", "first")
    assert cakework("deploy", folder).stdout.startswith("http://")
    first = remembered(folder)["vmId"]

    project(folder, "broken", 'CMD ["sh", "-c", "echo no luck; exit 3"]\n')
    failed = cakework("deploy", folder, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "no luck" in failed.stderr
    assert "What was deployed before is as it was" in failed.stderr
    assert remembered(folder) == {"vmId": first, "leftover": []}
    assert "first" in api.visit(api.vm(first)).text
    [broken] = re.findall("^VM (\\w+) started", failed.stderr, re.MULTILINE)
    assert api.vm(broken)["state"] == "destroyed"

    project(folder, "second")
    done = cakework("deploy", folder)
    second = api.vm(remembered(folder)["vmId"])
    assert done.stdout == f"{second['url']}\n"
    assert f"new hostname, {second['hostname']}" in done.stderr
    assert "second" in api.visit(second).text
    assert api.vm(first)["state"] == "destroyed"
    cakework("destroy", second["id"])


def test_what_a_killed_deploy_left_is_taken_away(
    cakework: Run, api: Api, env: dict[str, str], tmp_path: Path
) -> None:
    """kill -9 while the program is waited for: the next deploy destroys that VM."""
    folder = project(tmp_path / "site", "slow", 'CMD ["sleep", "1000"]\n')
    with subprocess.Popen(
        [*CAKEWORK, "deploy", str(folder)], env=env, stderr=subprocess.PIPE, text=True
    ) as deploying:
        left = waited_for(deploying)
        deploying.kill()
    assert remembered(folder) == {"vmId": None, "leftover": [left]}
    project(folder, "quick")
    cakework("deploy", folder)
    assert api.vm(left)["state"] == "destroyed"
    cakework("destroy", remembered(folder)["vmId"])


def test_ctrl_c_leaves_what_was_deployed(
    cakework: Run, api: Api, env: dict[str, str], tmp_path: Path
) -> None:
    """Interrupted while the program is waited for, the new VM is destroyed, with exit code 130."""
    folder = project(tmp_path / "site", "first")
    cakework("deploy", folder)
    first = remembered(folder)["vmId"]
    project(folder, "slow", 'CMD ["sleep", "1000"]\n')
    with subprocess.Popen(
        [*CAKEWORK, "deploy", str(folder)], env=env, stderr=subprocess.PIPE, text=True
    ) as deploying:
        new = waited_for(deploying)
        deploying.send_signal(signal.SIGINT)
        assert deploying.wait(DEADLINE_S) == 130
    assert remembered(folder) == {"vmId": first, "leftover": []}
    assert api.vm(new)["state"] == "destroyed"
    assert "first" in api.visit(api.vm(first)).text
    cakework("destroy", first)


def waited_for(deploying: "subprocess.Popen[str]") -> str:
    """Return the VM whose program a deploy waits for."""
    assert deploying.stderr
    line = next(line for line in deploying.stderr if "waiting for its program" in line)
    return line.split()[1]


def test_ctrl_c_cancels_a_build(api: Api, env: dict[str, str], tmp_path: Path) -> None:
    """The build has failed when the command has ended, with exit code 130."""
    mark = str(uuid.uuid4())
    (tmp_path / "Dockerfile").write_text(f"FROM cakework/busybox\nRUN echo {mark} && sleep 1000\n")
    with subprocess.Popen(
        [*CAKEWORK, "build", str(tmp_path)], env=env, stderr=subprocess.PIPE, text=True
    ) as building:
        assert building.stderr
        assert next(line for line in building.stderr if line == f"{mark}\n")
        building.send_signal(signal.SIGINT)
        told = next(line for line in building.stderr if "cancelled build" in line)
        assert building.wait(DEADLINE_S) == 130
    assert api.get(f"/v1/image/build/{told.split()[-1]}")["status"] == "failed"


@pytest.mark.usefixtures("python")
def test_the_readmes_commands_can_be_copied(env: dict[str, str], api: Api, tmp_path: Path) -> None:
    """Those with the command line, with curl, for a function; each as it stands but for the key."""
    for name in (".venv", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    told = (ROOT / "README.md").read_text()
    [use] = re.findall("^## Use it\n(.*?)^## ", told, FLAGS)
    serve, commands, calls, functions = re.findall(BLOCK.format("sh"), use, FLAGS)
    assert serve.startswith("make serve")
    script = commands.replace("cw_…", env["CAKEWORK_API_KEY"]).replace("cakework doctor", "true")
    assert "Hello, you!\n" in (shown := in_shell(script, env, tmp_path))
    assert shown.endswith("Hello from a microVM\n")
    called = in_shell(calls, env, tmp_path)
    assert "\nIt works.\n" in called
    assert '"state":"destroyed"' in called.replace(" ", "")
    for vm in api.vms(status="started"):
        api.post(f"/v1/vm/{vm['id']}/destroy")
    (tmp_path / "orders").mkdir()
    for language, name in (("python", "main.py"), ("toml", "cakework.toml")):
        (text,) = re.findall(BLOCK.format(language), use, FLAGS)
        (tmp_path / "orders" / name).write_text(text)
    shown = in_shell(f'PATH="$PWD/.venv/bin:$PATH"\n{functions}', env, tmp_path)
    assert shown.endswith('{"paid": 12}\n')
    in_shell(".venv/bin/cakework functions delete orders", env, tmp_path)


def in_shell(script: str, env: dict[str, str], folder: Path) -> str:
    """Run a script in a folder to its end; return what it printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_log_is_read_in_part(cakework: Run, api: Api, busybox: str) -> None:
    """So many lines, from either end, in JSON, with times."""
    script = "for n in 1 2 3; do echo line $n; done"
    vm_id = cakework("run", busybox, "-d", "-e", f"SCRIPT={script}").stdout.strip()
    until(lambda: len(api.printed(vm_id)) == 3, 120, "all is printed")
    last = cakework("logs", vm_id, "--order", "newest_first", "--batch", "2", "--json").stdout
    messages = [json.loads(line)["message"] for line in last.splitlines()]
    assert messages == ["line 3", "line 2"]
    dated = cakework("logs", "-t", "-f", vm_id, "--query", "LINE 1").stdout
    assert dated.endswith("Z  line 1\n")
    assert cakework("logs", vm_id, "--batch", "0", check=False).returncode == 2
