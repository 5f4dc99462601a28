"""The readers of the journal and of lines: what comes from the node is stored, then acknowledged.

A batch is what has come since the last one was stored: one fact when all is quiet, hundreds
when not. Each reader has a connection of its own, so that changes of state never wait for lines.
Cursors are kept by node id, so a node with a new data folder starts afresh.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import ClassVar, cast

import structlog
from pydantic import ValidationError

from cakework.domain.errors import Unavailable
from cakework.domain.facts import FACT, LINE, AnyFact, AnyLine, VmLine
from cakework.server.loops.gathering import gathered
from cakework.server.loops.loop import retry_wait_s
from cakework.server.node.client import NodeClient
from cakework.server.services.facts import Facts

FACT_BYTES_MAX = 8 * 1024 * 1024
_log = structlog.stdlib.get_logger(__name__)


class Reader(ABC):
    """Reads one stream of a node for as long as it runs, connecting again when it breaks off."""

    name: ClassVar[str]
    """What is read, for the log."""

    def __init__(self, node: NodeClient, facts: Facts) -> None:
        """Read from ``node`` and apply with ``facts``."""
        self._node = node
        self._facts = facts
        self._failures = 0

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self._read()
            except Unavailable as error:
                _log.info(f"{self.name}.waits", detail=error.detail, failures=self._failures)
            except Exception:
                _log.exception(f"{self.name}.failed", failures=self._failures)
            self._failures += 1
            await asyncio.sleep(retry_wait_s(self._failures))

    @abstractmethod
    async def _read(self) -> None:
        """Connect once and read until that breaks off, which raises."""


class JournalReader(Reader):
    """Reads the journal, which is changes of state."""

    name = "journal"

    async def _read(self) -> None:
        node_id = (await self._node.health()).node_id
        after = await self._facts.cursor(node_id)
        async with self._node.journal(after) as chunks, gathered(chunks) as batches:
            if (await self._node.health()).node_id != node_id:
                raise Unavailable("The node's data folder was exchanged just now.")
            _log.info("journal.reading", node_id=node_id, after=after)
            async for lines in whole_lines(batches):
                self._failures = 0
                await self._take(node_id, lines)
        raise Unavailable("The node ended its journal.")

    async def _take(self, node_id: str, lines: list[bytes]) -> None:
        facts: list[AnyFact] = []
        cursor = 0
        for line in lines:
            fact, at = parse_fact(line)
            cursor = max(cursor, at)
            if fact is not None:
                facts.append(fact)
        if cursor:
            await self._facts.apply(node_id, facts, cursor)
            await self._node.acknowledge(cursor)


class LinesReader(Reader):
    """Reads the lines of all VMs and builds."""

    name = "lines"

    async def _read(self) -> None:
        async with self._node.lines() as chunks, gathered(chunks) as batches:
            _log.info("lines.reading")
            async for texts in whole_lines(batches):
                self._failures = 0
                lines = [LINE.validate_json(text) for text in texts]
                await self._facts.keep(lines)
                await self._node.acknowledge_lines({_whose(line): line.seq for line in lines})
        raise Unavailable("The node ended its lines.")


def _whose(line: AnyLine) -> str:
    return line.vm_id if isinstance(line, VmLine) else line.build_id


async def whole_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the lines that each chunk completes, without those that are empty.

    Raises:
        ValueError: a line is longer than any fact.
    """
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > FACT_BYTES_MAX:
            raise ValueError("the journal has a line longer than any fact")
        if lines := [line for line in whole if line.strip()]:
            yield lines


def parse_fact(line: bytes) -> tuple[AnyFact | None, int]:
    """Return a fact and its cursor; None for a fact of a kind this server does not know.

    Raises:
        ValueError: the line has no cursor, so it cannot even be passed over.
    """
    try:
        fact = FACT.validate_json(line)
    except ValidationError as error:
        record: object = json.loads(line)
        fields = cast("dict[str, object]", record) if isinstance(record, dict) else {}
        cursor = fields.get("cursor")
        if not isinstance(cursor, int):
            raise ValueError("the journal has a line that is no fact") from error
        _log.exception("journal.fact_unknown", cursor=cursor, kind=fields.get("kind"))
        return None, cursor
    return fact, fact.cursor
