"""Errors of a function's code, as the server gets to know them."""

import linecache
import sys
import traceback
from pathlib import Path
from typing import Any

from cakework_functions.calling import BadAnswer, ResultTooLarge

TYPE_MAX = 200
MESSAGE_MAX = 4096
STACK_MAX = 16_384
FRAMES_MAX = 50
LATEST_S = 1e9
OURS = str(Path(__file__).resolve().parents[1])
"""Frames of files in here are the adapter's, not the function's."""


class Failure(Exception):
    """What the adapter itself finds wrong, without frames."""

    def __init__(self, type_: str, message: str, retriable: bool = False) -> None:
        super().__init__(message)
        self.type = type_
        self.retriable = retriable


def describe(error: BaseException) -> dict[str, Any]:
    """Return ``{type, message, stack?, retriable, retryAfter?}``, each bounded."""
    told: dict[str, Any] = {
        "type": bounded(
            error.type if isinstance(error, Failure) else type(error).__name__, TYPE_MAX
        ),
        "message": bounded(_message(error), MESSAGE_MAX),
        "retriable": _attribute(error, "retriable") is not False,
    }
    if stack := bounded(_stack(error), STACK_MAX):
        told["stack"] = stack
    after = _attribute(error, "retry_after")
    if isinstance(after, int | float) and not isinstance(after, bool) and after >= 0:
        told["retryAfter"] = min(after, LATEST_S)
    return told


def show(error: BaseException) -> None:
    """Print an error among the function's own lines."""
    told = describe(error)
    text = told.get("stack") or f"{told['type']}: {told['message']}\n"
    try:
        sys.stderr.write(text if text.endswith("\n") else text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # The function has closed or replaced it.


def bounded(text: str, most: int) -> str:
    """Return ``text`` with something left out of its middle, and without what is no UTF-8."""
    if len(text) > most:
        text = f"{text[: most // 4]}\n…\n{text[-(most - most // 4) :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "(its message cannot be made)"


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except BaseException:
        return None


def _stack(error: BaseException) -> str:
    if isinstance(error, Failure | BadAnswer | ResultTooLarge):
        return ""
    try:
        linecache.checkcache()
        told = traceback.TracebackException.from_exception(error, limit=-FRAMES_MAX, compact=True)
        _keep_theirs(told, 0)
        return "".join(told.format())
    except Exception:
        return ""


def _keep_theirs(told: traceback.TracebackException | None, depth: int) -> None:
    if told is None or depth > FRAMES_MAX:
        return
    theirs = [frame for frame in told.stack if not _is_ours(frame.filename)]
    told.stack = traceback.StackSummary.from_list(theirs)
    for each in (told.__cause__, told.__context__, *(told.exceptions or ())):
        _keep_theirs(each, depth + 1)


def _is_ours(filename: str) -> bool:
    return filename.startswith((OURS, "<frozen importlib"))
