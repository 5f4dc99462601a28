"""How handlers are called, and what their answers may be. The runtime's, and that of unit tests."""

import asyncio
import base64
import contextvars
import inspect
import json
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, cast

RESULT_MAX_BYTES = 1024 * 1024
_json = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


class BadAnswer(Exception):
    """The answer is neither JSON nor bytes."""

    retriable = False


class ResultTooLarge(Exception):
    """The answer has more than 1 MiB."""

    retriable = False


async def called(function: Callable[..., Any], *given: Any, threads: Executor | None = None) -> Any:
    """Return what ``function`` answers, called with as many of ``given`` as it takes.

    Asynchronous ones run on this loop, others in a thread, each in a copy of the context.
    """
    taken = given[: parameters(function)]
    if is_async(function):
        return await function(*taken)
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    work = loop.run_in_executor(threads, lambda: context.run(_outcome, function, taken))
    failed, answer = await to_its_end(work)
    if failed is not None:
        raise failed
    return await answer if inspect.isawaitable(answer) else answer


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether calling ``function`` gives a coroutine, or an asynchronous generator."""
    called_by = inspect.getattr_static(type(function), "__call__", None)
    candidates = (function, getattr(function, "func", None), called_by)
    return any(inspect.iscoroutinefunction(each) for each in candidates)


def parameters(function: Callable[..., Any]) -> int:
    """Return how many arguments by position ``function`` takes, at most 9."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return 2
    if any(each.kind is each.VAR_POSITIONAL for each in found):
        return 9
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in found)


def encoded(answer: object) -> bytes:
    """Return ``answer`` as JSON: ``{"result": …}`` or ``{"resultBase64", "contentType"}``.

    Raises:
        BadAnswer: it is neither JSON nor bytes.
        ResultTooLarge: it has more than 1 MiB.
    """
    if isinstance(answer, bytes | bytearray | memoryview):
        return encoded_bytes(bytes(cast("bytes", answer)), "application/octet-stream")
    try:
        result = _json(answer).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadAnswer(f"the answer is no JSON: {error}") from error
    _check_size(len(result))
    return b'{"result":' + result + b"}"


def encoded_bytes(answer: bytes, content_type: str) -> bytes:
    """Return bytes of a content type as ``encoded`` does."""
    _check_size(len(answer))
    text = base64.b64encode(answer).decode()
    return json.dumps({"resultBase64": text, "contentType": content_type}).encode()


def _check_size(size: int) -> None:
    if size > RESULT_MAX_BYTES:
        raise ResultTooLarge(f"the answer has {size} bytes, of 1 MiB that it may have")


async def to_its_end(work: asyncio.Future[Any]) -> Any:
    """Wait for a thread, which cannot be stopped, also when the task is cancelled."""
    while True:
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                raise


def _outcome(
    function: Callable[..., Any], given: tuple[Any, ...]
) -> tuple[BaseException | None, Any]:
    # Not even SystemExit may leave a thread: the loop would end with it.
    try:
        return None, function(*given)
    except BaseException as error:
        return error, None
