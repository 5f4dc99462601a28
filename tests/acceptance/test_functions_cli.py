"""A new user's road with functions, by the command line alone, on real VMs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

CAKEWORK = [sys.executable, "-m", "cakework.cli"]
DEADLINE_S = 240.0
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def cakework(platform: Platform, tmp_path: Path) -> Callable[..., Done]:
    """Runs a command in the folder of the test."""
    own = {"CAKEWORK_URL": platform.url, "CAKEWORK_API_KEY": platform.key}
    env = {**os.environ, "CAKEWORK_CONFIG": os.devnull, **own}

    def run(*words: str, check: bool = True) -> Done:
        done = subprocess.run(
            [*CAKEWORK, *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def test_a_new_users_road(
    cakework: Callable[..., Done], platform: Platform, tmp_path: Path
) -> None:
    """Written, deployed, invoked; broken, which changes nothing; changed, rolled back; its log
    read; deleted, with all its machines."""
    cakework("init", "--function", "python", "hello")
    main = tmp_path / "hello" / "main.py"
    deployed = cakework("deploy", "hello")
    assert deployed.stdout.startswith("http://")
    assert "version 1 is live after" in deployed.stderr
    invoked = cakework("invoke", "hello", "--data", '{"name": "Ada"}')
    assert json.loads(invoked.stdout) == {"hello": "Ada"}
    assert "attempt 1 of inv_" in invoked.stderr

    written = main.read_text()
    main.write_text(f"import nothing_there\n{written}")
    broken = cakework("deploy", "hello", check=False)
    assert (broken.returncode, broken.stdout) == (1, "")
    assert "Version 2 could not be made. Version 1 is live as before." in broken.stderr
    assert 'File "/app/main.py", line 1, in <module>' in broken.stderr
    assert "ModuleNotFoundError: No module named 'nothing_there'" in broken.stderr
    assert json.loads(cakework("invoke", "hello").stdout) == {"hello": "world"}

    main.write_text(written.replace('"hello"', '"goodbye"'))
    cakework("deploy", "hello", "--message", "says goodbye")
    assert json.loads(cakework("invoke", "hello").stdout) == {"goodbye": "world"}
    cakework("rollback", "hello")
    assert json.loads(cakework("invoke", "hello").stdout) == {"hello": "world"}

    main.write_text("def handler(event):\n    print('no luck')\n    raise ValueError('at all')\n")
    cakework("deploy", "hello")
    failed = cakework("invoke", "hello", check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[0] == "no luck"
    assert "error: ValueError: at all" in failed.stderr
    log = cakework("logs", "hello", "--query", "no luck", "--json").stdout
    (line,) = map(json.loads, log.splitlines())
    (listed,) = json.loads(
        cakework("invocations", "--function", "hello", "--state", "failed", "--json").stdout
    )
    assert (line["invocationId"], line["version"]) == (listed["id"], 4)
    assert "no luck" in cakework("logs", listed["id"]).stdout

    running = platform.machines()
    cakework("functions", "delete", "hello")
    listed = json.loads(cakework("functions", "--json").stdout)
    assert "hello" not in [function["name"] for function in listed]
    assert cakework("invoke", "hello", check=False).returncode == 1
    until(lambda: running - platform.machines(), 60, "what served it is gone")
