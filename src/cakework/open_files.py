"""How many files a process may have open: Debian's usual 1,024 are too few to serve many."""

import resource


def allow_most() -> None:
    """Have as many open files as this process may allow itself; children inherit that."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
