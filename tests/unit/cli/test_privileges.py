"""Running the server as its own user, also from folders closed to it."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from cakework.cli.exits import CommandFailed
from cakework.cli.folders import only_one, prepare_folders
from cakework.cli.privileges import as_server_user, hidden_paths
from cakework.settings import Settings

REPORT = """
import json, os, sys
from pathlib import Path
lines = Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":\\t") for line in lines if ":\\t" in line)
Path(sys.argv[1], "server", "mine").write_text("x")
print(json.dumps({
    "uid": os.getuid(), "groups": os.getgroups(), "caps": status["CapBnd"].strip(),
    "nnp": status["NoNewPrivs"].strip(), "beside": sorted(os.listdir(Path(sys.argv[1]).parent)),
    "node": os.path.exists(Path(sys.argv[1], "node", "secret")),
    "home": os.environ["HOME"],
}))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data folder below one that only root may enter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "unrelated").mkdir()
    settings = Settings(data_dir=closed / "data", server_user="nobody")
    prepare_folders(settings)
    (settings.node_dir / "secret").touch()
    return settings


def test_the_server_reaches_its_folder_and_nothing_else_behind_a_closed_one(
    settings: Settings,
) -> None:
    """Below a folder closed to it the server sees its own files only, has no capability and
    cannot get one."""
    argv = as_server_user([sys.executable, "-c", REPORT, str(settings.data_dir)], settings)
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/")
    nobody = pwd.getpwnam("nobody")
    assert json.loads(done.stdout) == {
        "uid": nobody.pw_uid,
        "groups": [nobody.pw_gid],
        "caps": "0" * 16,
        "nnp": "1",
        "beside": ["data"],
        "node": False,
        "home": nobody.pw_dir,
    }
    assert (settings.server_dir / "mine").stat().st_uid == nobody.pw_uid


def test_the_view_of_others_is_left_as_it_was(settings: Settings) -> None:
    """What is covered for the server is covered for nobody else."""
    argv = as_server_user(["true"], settings)
    subprocess.run(argv, check=True, cwd="/")
    assert (settings.data_dir.parent / "unrelated").is_dir()
    assert str(settings.data_dir.parent) not in Path("/proc/self/mounts").read_text()


def test_only_what_is_closed_is_hidden(tmp_path: Path) -> None:
    """A path is hidden by the topmost folder its user may not enter, and by none otherwise."""
    nobody = pwd.getpwnam("nobody")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    top = hidden_paths([tmp_path / "a"], nobody).get(tmp_path / "a")
    (tmp_path / "a").chmod(0o700)
    hidden = hidden_paths([tmp_path / "a" / "b" / "c", Path("/usr/bin")], nobody)
    assert hidden == {tmp_path / "a" / "b" / "c": top or tmp_path / "a"}


def test_folders_have_the_owners_that_keep_secrets(settings: Settings) -> None:
    """The node's folder is root's alone, the server's is its user's alone, the sockets' is
    between them."""
    found = {
        path.name: (path.stat().st_uid, path.stat().st_mode & 0o7777)
        for path in (settings.node_dir, settings.server_dir, settings.run_dir)
    }
    nobody = pwd.getpwnam("nobody").pw_uid
    assert found == {"node": (0, 0o700), "server": (nobody, 0o700), "run": (0, 0o750)}


def test_a_data_folder_is_used_by_one_at_a_time(settings: Settings) -> None:
    """The second is told who the first is; after the first has gone it may."""
    with (
        only_one(settings),
        pytest.raises(CommandFailed, match=f"pid {os.getpid()}"),
        only_one(settings),
    ):
        pass
    with only_one(settings):
        pass


def test_an_unknown_user_is_named(tmp_path: Path) -> None:
    """The message names the user and the setting."""
    settings = Settings(data_dir=tmp_path, server_user="no-such-user")
    with pytest.raises(CommandFailed, match=r"no-such-user.*CAKEWORK_SERVER_USER"):
        prepare_folders(settings)
