"""How many files this process, and what it starts, may have open."""

import resource
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def open_files(soft: int) -> Generator[int]:
    """Have ``soft`` as the soft limit; give the hard one."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
