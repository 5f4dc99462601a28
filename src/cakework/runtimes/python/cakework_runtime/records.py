"""Records through a transform, one after the other; a synchronous one in one thread for all.

What comes of them goes back in one line. When that is long the rest is not begun: whoever asked
sends those records again, as others.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from inspect import isawaitable
from typing import Any, cast

from cakework_functions.calling import encoded, is_async, parameters, to_its_end
from cakework_functions.context import Context
from cakework_runtime.failure import Failure, describe, show

PART_BYTES = 512 * 1024
"""Of answers, after which no other record is begun: with one more of 1 MiB it is a line."""
_RESULT = len(b'{"result":')


async def transformed(
    function: Callable[..., Any],
    records: list[Any],
    context: Context,
    threads: Executor,
    *,
    each: bool,
) -> bytes:
    """Return ``{"result": {"records": [{"out": […]} | {"error": …}]}}`` as JSON: for all records,
    or the first of them. The function takes ``each`` record, or a list of it."""
    taken = parameters(function)
    parts: list[bytes] = []
    size = 0
    if not is_async(function):
        loop, within = asyncio.get_running_loop(), contextvars.copy_context()

        def call() -> BaseException | None:
            return within.run(_in_thread, loop, function, taken, records, context, parts, each)

        failed = await to_its_end(loop.run_in_executor(threads, call))
        if failed is not None:
            raise failed
    else:
        for record in records:
            if size >= PART_BYTES:
                break
            given = (record if each else [record], context)[:taken]
            try:
                parts.append(_part(await function(*given)))
            except Exception as error:
                parts.append(_failed(error))
            size += len(parts[-1])
    return b'{"result":{"records":[' + b",".join(parts) + b"]}}"


def _in_thread(
    loop: asyncio.AbstractEventLoop,
    function: Callable[..., Any],
    taken: int,
    records: list[Any],
    context: Context,
    parts: list[bytes],
    each: bool,
) -> BaseException | None:
    # Not even SystemExit may leave a thread: the loop would end with it.
    size = 0
    try:
        for record in records:
            if context.signal.is_set():
                return Failure("Canceled", "it was given up", True)
            given = (record if each else [record], context)[:taken]
            try:
                answer = function(*given)
                if isawaitable(answer):
                    answer = asyncio.run_coroutine_threadsafe(_awaited(answer), loop).result()
                parts.append(_part(answer))
            except Exception as error:
                parts.append(_failed(error))
            size += len(parts[-1])
            if size >= PART_BYTES:
                break
    except BaseException as error:
        return error
    return None


async def _awaited(answer: Any) -> Any:
    return await answer


def outputs(answer: Any) -> list[Any]:
    """Return what an answer is for those who take the results: none, one, or several."""
    if answer is None:
        return []
    return cast("list[Any]", answer) if isinstance(answer, list) else [answer]


def _part(answer: Any) -> bytes:
    return b'{"out":' + encoded(outputs(answer))[_RESULT:-1] + b"}"


def _failed(error: Exception) -> bytes:
    show(error)
    return b'{"error":' + encoded(describe(error))[_RESULT:-1] + b"}"
