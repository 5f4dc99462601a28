"""Reads JSON from its input and writes what it says as ``marshal`` does. Runs as a program by
itself, for bodies that would hold up the server: see :mod:`cakework.server.api.parsing`.

Ends with status 0; 1 when it is no JSON, with the message and the place of the fault as the value;
and 2 when it is too much. The first argument is how many values there may be, the second how many
bytes of memory it may take, the third how many seconds of a processor.
"""

import json
import marshal
import os
import resource
import sys

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def main() -> int:
    """Read, look, write."""
    os.nice(5)
    values_max, memory_bytes, cpu_s = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    status = 0
    try:
        value: Json = json.loads(sys.stdin.buffer.read())
        if values_in(value, values_max) > values_max:
            return 2
        written = marshal.dumps(value)
    except json.JSONDecodeError as error:
        status, written = 1, marshal.dumps((error.msg, error.pos))
    except UnicodeDecodeError as error:
        status, written = 1, marshal.dumps(("Not UTF-8", error.start))
    except (RecursionError, ValueError):
        status, written = 1, marshal.dumps(("Nested too deeply, or a number too long", 0))
    except MemoryError:
        return 2
    sys.stdout.buffer.write(written)
    return status


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
