"""What a folder remembers of its deployment."""

from pathlib import Path

import pytest

from cakework.cli.deploy import exposed_port
from cakework.cli.deployments import Deployment, only_one_deploys
from cakework.cli.exits import CommandFailed, ExitCode


def test_each_server_has_its_own(tmp_path: Path) -> None:
    """What one server has is not looked for on another."""
    with only_one_deploys(tmp_path):
        Deployment.read(tmp_path, "http://a").write()
        other = Deployment.read(tmp_path, "http://b")
        other.vm_id, other.leftover = "1", ["2"]
        other.write()
    assert Deployment.read(tmp_path, "http://a").vm_id is None
    again = Deployment.read(tmp_path, "http://b")
    assert (again.vm_id, again.leftover) == ("1", ["2"])
    assert (tmp_path / ".cakework" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("text", ["", "[]", "{", "\0"])
def test_a_file_that_is_broken_is_named(tmp_path: Path, text: str) -> None:
    """With what to do about it; nothing is guessed."""
    (tmp_path / ".cakework").mkdir()
    (tmp_path / ".cakework" / "deployments.json").write_text(text)
    with pytest.raises(CommandFailed, match=r"deployments\.json is not understood") as failure:
        Deployment.read(tmp_path, "http://a")
    assert failure.value.exit_code == ExitCode.USAGE


def test_one_command_at_a_time_deploys(tmp_path: Path) -> None:
    """The second is refused while the first is at it."""
    with (
        only_one_deploys(tmp_path),
        pytest.raises(CommandFailed, match="by another command"),
        only_one_deploys(tmp_path),
    ):
        raise AssertionError("both deploy")
    with only_one_deploys(tmp_path):
        pass


@pytest.mark.parametrize("line", ["EXPOSE 8000", "  expose 8000/tcp", "EXPOSE 8000\nEXPOSE 8000"])
def test_the_port_is_what_the_dockerfile_exposes(tmp_path: Path, line: str) -> None:
    """However it is written."""
    (tmp_path / "Dockerfile").write_text(f"FROM cakework/busybox\n{line}\nCMD x\n")
    assert exposed_port(tmp_path) == 8000


@pytest.mark.parametrize("line", ["", "EXPOSE 53/udp", "EXPOSE $PORT", "EXPOSE 1\nEXPOSE 2"])
def test_a_port_in_doubt_is_asked_for(tmp_path: Path, line: str) -> None:
    """None, several, one that only the build knows."""
    (tmp_path / "Dockerfile").write_text(f"FROM cakework/busybox\n{line}\n")
    with pytest.raises(CommandFailed, match="--port"):
        exposed_port(tmp_path)
