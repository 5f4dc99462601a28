"""What the router tells its server of functions."""

import asyncio
from collections.abc import Callable
from typing import Any

from cakework.domain import routes as wire
from cakework.line_wire import LINE_BYTES_MAX
from cakework.router.direct import ERROR_BYTES_MAX
from cakework.router.functions import ASKED_OF_ACCOUNT, Functions, Instance, Ticket


class Server:
    """In the place of the way to the server: lends as many instances as are asked for."""

    def __init__(self) -> None:
        self.is_whole = True
        self.heard: list[wire.Message] = []
        self.lent = self.asked = 0
        self.may_lend: dict[str, asyncio.Event] = {}
        """When instances of functions are lent, for those that are not at once."""

    def say(self, message: wire.Message) -> None:
        self.heard.append(message)

    async def ask(
        self, question: Callable[[int], wire.Message], within_s: float = 5.0
    ) -> wire.Message:
        asked = question(0)
        assert isinstance(asked, wire.Borrow), within_s
        self.asked += 1
        if (may := self.may_lend.get(asked.function_id)) is not None:
            await may.wait()
        self.lent += 1
        return wire.Lent(
            ask=0,
            function_id=asked.function_id,
            vm_id=f"{self.lent:014}",
            version=1,
            port=8080,
            concurrency=1,
            uses=1000,
            timeout_s=60,
            start="warm",
        )


class Client:
    """A client that stays."""

    is_lost = False
    on_lost = None


def found(function_id: str, account_id: str = "an-account") -> wire.Found:
    return wire.Found(ask=0, function_id=function_id, account_id=account_id)


def begun(functions: Functions, instance: Instance, path: str) -> Ticket:
    return functions.begin(instance, "an-account", "GET", path)


def test_no_line_about_requests_ends_the_connection() -> None:
    """However long what programs tell of their errors is: that connection is everybody's."""

    async def scene() -> None:
        server = Server()
        functions = Functions(server, wait_s=20)
        client: Any = Client()
        async with asyncio.timeout(20):
            instance = await functions.place(found("fn"), client)
            first, *others = [begun(functions, instance, "/" + "x" * 600) for _ in range(13)]
            error = {name: "x" * (most - 2) for name, most in ERROR_BYTES_MAX.items()}
            last = begun(functions, instance, "/")
            for ticket in (first, last):
                ticket.end("failed", "handler_error", error)
        functions.leave(instance)
        server.is_whole = False
        await functions.close()
        told = [each for each in server.heard if isinstance(each, wire.Work)]
        assert sum(len(work.visits) for work in told) == len(others) + 2
        assert max(len(work.line()) for work in told) <= LINE_BYTES_MAX

    asyncio.run(scene())


def test_one_account_does_not_ask_for_all_that_can_be_asked() -> None:
    """Whoever waits for its many functions waits; others, and what is lent, are seen to."""

    async def scene() -> None:
        server, gate = Server(), asyncio.Event()
        functions = Functions(server, wait_s=60)
        names = [f"fn-{number}" for number in range(ASKED_OF_ACCOUNT // 8)]
        server.may_lend = dict.fromkeys(names, gate)
        waiting = [
            asyncio.create_task(functions.place(found(name, "hostile"), Client()))  # type: ignore[arg-type]
            for name in names
            for _ in range(16)
        ]
        other: Any = Client()
        async with asyncio.timeout(60):
            await functions.place(found("other"), other)
            assert server.asked == ASKED_OF_ACCOUNT + 1
            gate.set()
            assert len({instance.vm_id for instance in await asyncio.gather(*waiting)}) == len(
                waiting
            )
        server.is_whole = False
        await functions.close()

    asyncio.run(scene())
