"""A node that prepares itself: its templates are made, whatever comes between."""

import asyncio
from typing import Any

import pytest

from cakework.domain.errors import Unavailable
from cakework.domain.vms import Shape
from cakework.node import app
from cakework.node.app import Node
from cakework.node.territory import Territory


class BusyWorkshop:
    """Makes a template at the third try, the first two failing each in its way."""

    accelerator = "tcg"

    def __init__(self) -> None:
        self.faults: list[Exception] = [Unavailable("the guest did not answer"), ValueError("x")]
        self.told: list[str] = []
        self.made: list[Shape] = []
        self.node: Node

    async def template(self, shape: Shape) -> None:
        self.told.append(self.node.detail)
        if self.faults:
            assert not self.node.ready
            raise self.faults.pop(0)
        self.made.append(shape)


class Filled:
    """A pool that says when it is to be filled."""

    def __init__(self) -> None:
        self.filling = asyncio.Event()

    async def fill(self) -> None:
        self.filling.set()


def test_a_template_that_cannot_be_made_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node says meanwhile what went wrong, is ready when it is made, and fills its pool."""
    monkeypatch.setattr(app, "PREPARE_RETRY_S", 0)

    async def scene() -> None:
        workshop: Any = BusyWorkshop()
        pool: Any = Filled()
        other: Any = None
        node = workshop.node = Node(
            *("id", Territory(0), other, other, other, other, other, other, other, other),
            pool=pool,
            workshop=workshop,
        )
        await node.prepare([Shape()])
        assert (node.ready, node.detail) == (True, "ready")
        assert workshop.made == [Shape()]
        again = "no template could be made, which is tried again"
        assert workshop.told == [
            "making templates",
            f"{again}: the guest did not answer",
            f"{again}: a fault of the node",
        ]
        assert pool.filling.is_set()

    asyncio.run(scene())
