"""Reads JSON from its input and writes what it says as ``marshal`` does. Runs as a program by
itself, for bodies that would hold up the server: see :mod:`cakework.server.api.parsing`.

The first argument is how many values there may be, the second for how many seconds of a processor
one body may be read; the third and the fourth are descriptors of memory, from which a body is read
and to which a value is written. A question is ``QUESTION``, an answer ``ANSWER``. It ends when
there are no more questions.

Each body is read by a process of its own, forked from this one: what one leaves behind, in Python's
memory above all, the next does not meet.
"""

import json
import marshal
import os
import resource
import struct
import sys

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

QUESTION = struct.Struct(">QQ")
"""Bytes of the body; bytes of memory that may be had to read it."""
ANSWER = struct.Struct(">BQ")
"""What came of it; bytes of the value that follows."""
READ, FAULT, TOO_MUCH = range(3)
"""It is the value; it is no JSON, the value is the message and the place; there is too much of it,
and no value."""


def main() -> int:
    """Answer until there are no more questions."""
    os.nice(5)
    values_max, cpu_s, given, told = map(int, sys.argv[1:])
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := questions.read(QUESTION.size):
        size, memory_bytes = QUESTION.unpack(head)
        if not (child := os.fork()):
            status = TOO_MUCH
            try:
                resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
                status, written = read(got(given, size), values_max)
                put(told, written)
            except MemoryError:
                status = TOO_MUCH
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        status = os.waitstatus_to_exitcode(ended)
        if status not in (READ, FAULT):
            answers.write(ANSWER.pack(TOO_MUCH, 0))
        else:
            answers.write(ANSWER.pack(status, os.fstat(told).st_size))
        answers.flush()
    return 0


def loads(body: bytes) -> Json:
    """Return what JSON says that is UTF-8, as it has to be between systems (RFC 8259, 8.1).

    Raises:
        json.JSONDecodeError: it is no JSON.
        RecursionError, ValueError: it is nested too deeply, or has a number that is too long.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("Not UTF-8", "", error.start) from error
    return json.loads(text)


def put(memory: int, written: bytes) -> None:
    """Write to the beginning of what a descriptor leads to."""
    view, at = memoryview(written), 0
    while at < len(view):
        at += os.pwrite(memory, view[at:], at)


def got(memory: int, size: int) -> bytes:
    """Return ``size`` bytes from the beginning of what a descriptor leads to."""
    found = os.pread(memory, size, 0)
    while len(found) < size and (more := os.pread(memory, size - len(found), len(found))):
        found += more
    return found


def read(body: bytes, values_max: int) -> tuple[int, bytes]:
    """Return what came of it, and the value. Raises MemoryError."""
    try:
        value = loads(body)
        if values_in(value, values_max) > values_max:
            return TOO_MUCH, b""
        return READ, marshal.dumps(value)
    except json.JSONDecodeError as error:
        return FAULT, marshal.dumps((error.msg, error.pos))
    except (RecursionError, ValueError):
        return FAULT, marshal.dumps(("Nested too deeply, or a number too long", 0))


def values_in(value: Json, most: int) -> int:
    """Return how many values there are in ``value``, names among them; over ``most``, some more."""
    count = 0
    left: list[Json] = [value]
    while left and count <= most:
        found = left.pop()
        if isinstance(found, dict):
            count += 2 * len(found)
            left.extend(found.values())
        elif isinstance(found, list):
            count += len(found)
            left.extend(found)
    return count


if __name__ == "__main__":
    sys.exit(main())
