"""``cakework build --github`` and ``cakework import`` against a real server."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cakework.domain.orders import GithubSource

from .fake_node import FakeNode
from .rig import DOCKERFILE, KEY, Rig, running, settings_for, until

pytestmark = pytest.mark.anyio
URI = "registry.example/team/app:1"


@dataclass
class Command:
    """A command that runs."""

    process: asyncio.subprocess.Process

    async def ended(self, stdin: bytes | None = None) -> tuple[int, str, str]:
        """Return its exit code, stdout and stderr."""
        stdout, stderr = await self.process.communicate(stdin)
        assert self.process.returncode is not None
        return self.process.returncode, stdout.decode(), stderr.decode()


async def cakework(
    rig: Rig,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    stdin: int = asyncio.subprocess.DEVNULL,
) -> Command:
    """Start a command."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CAKEWORK_CONFIG": os.devnull,
        "CAKEWORK_URL": str(rig.client.base_url),
        "CAKEWORK_API_KEY": KEY,
        **(variables or {}),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cakework.cli", *arguments),
        env=environment,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    return Command(process)


async def test_a_repository_is_built(folder: Path, node: FakeNode) -> None:
    """What the options say is ordered, with the token of the environment; the log is shown, the
    image's id printed."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "ignore").write_text("*.md\n")
    async with running(settings_for(folder, None), node) as rig:
        command = await cakework(
            rig,
            *("build", "--github", "team/app", "--branch", "dev"),
            *("-f", str(folder / "Dockerfile"), "--dockerignore", str(folder / "ignore")),
            variables={"GITHUB_TOKEN": "ghp_usual\n"},
        )
        await until(lambda: node.build_orders, "the node has the order")
        order = node.build_orders[0]
        assert order.source == GithubSource(repository="team/app", branch="dev", token="ghp_usual")
        assert (order.dockerfile, order.dockerignore) == (DOCKERFILE, "*.md\n")
        await node.push(node.build_line(order.build_id, "cloning"))
        await node.succeed(order.build_id)
        status, stdout, stderr = await command.ended()
        assert (status, stdout) == (0, f"{order.image_id}\n")
        assert "cloning" in stderr


async def test_a_build_of_a_repository_that_fails(folder: Path, node: FakeNode) -> None:
    """Its error is shown; the variable that is named counts, the branch is main."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    async with running(settings_for(folder, None), node) as rig:
        variables = {"GITHUB_TOKEN": "ghp_usual", "OTHER": "ghp_other"}
        words = ("build", "--github", "team/app", "--token-env", "OTHER")
        file = ("-f", str(folder / "Dockerfile"))
        command = await cakework(rig, *words, *file, variables=variables)
        await until(lambda: node.build_orders, "the node has the order")
        order = node.build_orders[0]
        assert order.source == GithubSource(repository="team/app", branch="main", token="ghp_other")
        await node.fail(order.build_id, "team/app has no branch main")
        status, _, stderr = await command.ended()
        assert status == 1
        assert "The build failed: team/app has no branch main" in stderr


async def test_a_token_is_asked_for_at_a_terminal(folder: Path, node: FakeNode) -> None:
    """And not shown; elsewhere there is none."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    words = ("build", "--github", "team/app", "-f", str(folder / "Dockerfile"))
    async with running(settings_for(folder, None), node) as rig:
        ours, theirs = pty.openpty()
        command = await cakework(rig, *words, stdin=theirs)
        assert command.process.stderr
        prompt = await command.process.stderr.readuntil(b": ")
        assert prompt == b"Token (empty for none): "
        os.write(ours, b"ghp_typed\n")
        await until(lambda: node.build_orders, "the node has the order")
        assert node.build_orders[0].token == "ghp_typed"
        await node.succeed(node.build_orders[0].build_id)
        status, _, stderr = await command.ended()
        assert status == 0
        assert "ghp_typed" not in stderr
        os.close(ours)
        os.close(theirs)
        command = await cakework(rig, *words)
        await until(lambda: len(node.build_orders) == 2, "the node has the order")
        assert node.build_orders[1].token == ""
        await node.succeed(node.build_orders[1].build_id)
        assert (await command.ended())[0] == 0


WRONG: tuple[tuple[tuple[str, ...], str], ...] = (
    (("build",), "Name a folder, or --github org/repo"),
    (("build", ".", "--github", "a/b"), "Name a folder, or --github org/repo"),
    (("build", ".", "--branch", "dev"), "go with --github"),
    (("build", "--github", "a/b", "-f", "nowhere"), "There is no nowhere"),
    (("build", "--github", "a/b", "--token-env", "NONE"), "no variable NONE"),
    (("import", URI, "--password-env", "NONE"), "no variable NONE"),
)


async def test_options_that_are_wrong(folder: Path, node: FakeNode) -> None:
    """2, and nothing is asked for."""
    async with running(settings_for(folder, None), node) as rig:
        commands = [await cakework(rig, *words) for words, _ in WRONG]
        for command, (_, told) in zip(commands, WRONG, strict=True):
            status, stdout, stderr = await command.ended()
            assert (status, stdout) == (2, "")
            assert told in stderr
    assert node.build_orders == []
    assert node.import_orders == []


async def test_an_import_is_waited_for(folder: Path, node: FakeNode) -> None:
    """The id comes when VMs can be started from it; the password is of standard input."""
    async with running(settings_for(folder, None), node) as rig:
        words = ("import", URI, "--username", "me", "--password-stdin", "--json")
        command = await cakework(rig, *words, stdin=asyncio.subprocess.PIPE)
        assert command.process.stdin
        command.process.stdin.write(b"of the registry\n")
        await until(lambda: node.import_orders, "the node has the order")
        order = node.import_orders[0]
        assert (order.image_uri, order.username, order.password) == (URI, "me", "of the registry")
        await node.imported(order.image_id)
        status, stdout, stderr = await command.ended()
        assert status == 0, stderr
        assert json.loads(stdout)["imageId"] == order.image_id
        assert stderr.splitlines()[0] == f"importing {URI}"


async def test_an_import_that_fails(folder: Path, node: FakeNode) -> None:
    """Why is shown; the password is of the environment."""
    async with running(settings_for(folder, None), node) as rig:
        command = await cakework(rig, "import", URI, variables={"REGISTRY_PASSWORD": "usual"})
        await until(lambda: node.import_orders, "the node has the order")
        order = node.import_orders[0]
        assert (order.username, order.password) == ("AWS", "usual")
        await node.not_imported(order.image_id, "the disk for images is full")
        status, stdout, stderr = await command.ended()
        assert (status, stdout) == (1, "")
        assert "The import failed: the disk for images is full" in stderr
