"""Reads JSON from its input and writes what it says as ``marshal`` does. Runs as a program by
itself, for bodies that would hold up the server: see :mod:`cakework.server.api.parsing`.

The first argument is how many values there may be, the second for how many seconds of a processor
one body may be read; the third and the fourth are descriptors of memory, from which a body is read
and to which a value is written. A question is ``QUESTION``, an answer ``ANSWER``. It ends when
there are no more questions, or when a body takes too much.
"""

import json
import marshal
import os
import resource
import struct
import sys

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

QUESTION = struct.Struct(">QQ")
"""Bytes of the body; bytes of memory that the process may have to read it."""
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
        used_s = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        allow(resource.RLIMIT_AS, memory_bytes)
        allow(resource.RLIMIT_CPU, int(used_s) + cpu_s)
        try:
            status, written = read(got(given, size), values_max)
        except MemoryError:
            status, written = TOO_MUCH, b""
        put(told, written)
        answers.write(ANSWER.pack(status, len(written)))
        answers.flush()
        del written
    return 0


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


def allow(what: int, most: int) -> None:
    """Change a limit of this process, which it may raise again."""
    resource.setrlimit(what, (most, resource.getrlimit(what)[1]))


def read(body: bytes, values_max: int) -> tuple[int, bytes]:
    """Return what came of it, and the value. Raises MemoryError."""
    try:
        value: Json = json.loads(body)
        if values_in(value, values_max) > values_max:
            return TOO_MUCH, b""
        return READ, marshal.dumps(value)
    except json.JSONDecodeError as error:
        return FAULT, marshal.dumps((error.msg, error.pos))
    except UnicodeDecodeError as error:
        return FAULT, marshal.dumps(("Not UTF-8", error.start))
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
