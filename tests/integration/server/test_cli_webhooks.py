"""``cakework webhooks`` and ``cakework builds`` against a real server."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from .fake_node import FakeNode
from .receiver import receiving
from .rig import KEY, Rig, running, settings_for, until

pytestmark = pytest.mark.anyio


async def cakework(rig: Rig, *arguments: str) -> Any:
    """Run a command with --json, which must succeed; returns what it printed."""
    status, output, errors = await run(rig, *arguments)
    assert status == 0, errors
    return json.loads(output)


async def run(rig: Rig, *arguments: str) -> tuple[int | None, str, str]:
    """Run a command with --json; returns its exit code, and what it printed on either stream."""
    environment = {
        "PATH": os.environ["PATH"],
        "CAKEWORK_CONFIG": os.devnull,
        "CAKEWORK_URL": str(rig.client.base_url),
        "CAKEWORK_API_KEY": KEY,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cakework.cli", *arguments, "--json"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_webhooks_by_command(folder: Path, node: FakeNode) -> None:
    """Made, tested, its log read, its secret changed, removed."""
    with receiving() as receiver:
        settings = settings_for(folder, None, webhook_allow=[f"127.0.0.1:{receiver.port}"])
        async with running(settings, node) as rig:
            one = ("--event", "vm.stopped", "--description", "ours")
            made = await cakework(rig, "webhooks", "create", receiver.url, *one)
            assert (made["events"], made["description"]) == (["vm.stopped"], "ours")
            listed = await cakework(rig, "webhooks", "list")
            assert [webhook["id"] for webhook in listed] == [made["id"]]
            sent = await cakework(rig, "webhooks", "test", made["id"])
            await until(lambda: receiver.received, "the test has arrived")
            log = await cakework(rig, "webhooks", "deliveries", made["id"])
            assert [delivery["id"] for delivery in log] == [sent["id"]]
            rotated = await cakework(rig, "webhooks", "rotate", made["id"])
            assert rotated["secret"] != made["secret"]
            await cakework(rig, "webhooks", "delete", made["id"])
            assert await cakework(rig, "webhooks", "list") == []


async def test_builds_by_command(folder: Path, node: FakeNode) -> None:
    """Listed, narrowed by status, cancelled."""
    async with running(settings_for(folder, None), node) as rig:
        build_id = (await rig.build())["buildId"]
        listed = await cakework(rig, "builds", "--status", "created")
        assert [build["buildId"] for build in listed] == [build_id]
        cancelled = await cakework(rig, "builds", "cancel", build_id)
        assert cancelled["status"] == "failed"
        assert await cakework(rig, "builds") == [cancelled]
