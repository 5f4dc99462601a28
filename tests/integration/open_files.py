"""How many files this process, and what it starts, has open and may have."""

import gc
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_files(soft: int) -> Generator[int]:
    """Have ``soft`` as the soft limit; give the hard one."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def count_open_files() -> int:
    """Return how many files this process has open, when those that nobody has any more are shut:
    what other tests left to the collector is not to go between one count and the next."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
