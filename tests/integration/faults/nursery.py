"""A part that has everything imported, and forks to start: most of a start is importing.

Run as ``python -m tests.integration.faults.nursery <module>``. For each line that comes in, a
JSON object of environment variables, a child runs the module's ``main`` as ``python -m`` does;
its process id is written, and, when it has ended, its exit status as ``waitpid`` has it. One
child at a time.
"""

import importlib
import json
import os
import sys


def main() -> None:
    module = importlib.import_module(f"{sys.argv[1]}.__main__")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            os.setsid()
            os.environ.update(json.loads(line))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            sys.exit(module.main())
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
