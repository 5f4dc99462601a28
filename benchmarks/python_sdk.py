"""How long the import of the Python client takes, in interpreters of their own."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

from benchmarks.comparison import Comparison, Taken
from benchmarks.site import Site

CLOCKED = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
TURNS = 30


@contextmanager
def python_import(_site: Site) -> Generator[Comparison]:
    """``import cakework_client`` against ``import httpx2``, which it loads with the first call."""
    yield Comparison(
        "import cakework_client",
        lambda: Taken(import_ms("cakework_client")),
        "import httpx2",
        lambda: import_ms("httpx2"),
        goal=1.5,
        turns=TURNS,
    )


def import_ms(module: str) -> float:
    """Return how long a new interpreter takes to import a module."""
    command = [sys.executable, "-c", CLOCKED.format(module)]
    return 1000 * float(subprocess.run(command, check=True, capture_output=True).stdout)
