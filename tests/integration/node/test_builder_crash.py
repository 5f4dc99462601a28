"""A whole node whose builds run in machines, killed in the middle of one."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from cakework.domain.facts import BuildLine, BuildSucceeded
from tests.integration.node.build_bench import order
from tests.integration.node.builder_site import BuilderBench
from tests.integration.node.node_process import NodeProcess
from tests.integration.node.vm_site import Yard, processes_of, until

BASES_S = 200
"""The bench's first build makes the base images too."""
AGAIN = "[cakework: the node was restarted; building again]"


@pytest.mark.anyio
async def test_a_killed_nodes_build_ends_and_is_run_again(
    vm_bench: BuilderBench, yard: Yard
) -> None:
    """kill -9 ends the machine too, without another node; the next one builds again, and line
    numbers go on without gap or repeat."""
    node = _node(vm_bench, yard)
    wanted = order("FROM cakework/busybox\nRUN echo begins; [ -e /proc/1 ] && sleep 8; echo done")
    try:
        await node.start()
        assert node.call("GET", "/v1/health")[1]["build_isolation"] == "vm"
        body = json.loads(wanted.model_dump_json())
        assert (await asyncio.to_thread(node.call, "PUT", f"/v1/builds/{wanted.build_id}", body))[
            0
        ] < 300
        await until(lambda: "begins" in _texts(node), BASES_S)
        node.kill()
        await until(lambda: not processes_of(node.territory))

        await node.start()
        await until(lambda: any(isinstance(fact, BuildSucceeded) for fact in node.facts()), BASES_S)
        lines = [fact for fact in node.facts() if isinstance(fact, BuildLine)]
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
        texts = _texts(node)
        assert texts.count("begins") == 2
        assert texts.count("done") == 1
        assert AGAIN in texts
        await until(lambda: not list(_machines(node)))
        assert node.images.get(wanted.image_id) is not None
    finally:
        node.kill()
        shutil.rmtree(node.folder / "node" / "journal")


def _node(bench: BuilderBench, yard: Yard) -> NodeProcess:
    """Return a node in the bench's folder, which has base images and the machines' templates."""
    templates = bench.settings().node_dir / "templates"
    if not templates.exists():
        shutil.copytree(yard.templates, templates)
    return NodeProcess(
        yard,
        bench.data_dir,
        CAKEWORK_BUILD_ISOLATION="vm",
        CAKEWORK_BUILD_MEMORY_MB="256",
        CAKEWORK_IMAGE_SIZE_MB="512",
    )


def _texts(node: NodeProcess) -> list[str]:
    return [fact.text for fact in node.facts() if isinstance(fact, BuildLine)]


def _machines(node: NodeProcess) -> list[Path]:
    return list((node.folder / "node" / "machines").iterdir())
