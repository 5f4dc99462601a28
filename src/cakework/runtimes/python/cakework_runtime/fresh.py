"""What makes two copies of one snapshot draw different numbers."""

import os
import random
import sys
from typing import Any


def reseed() -> None:
    """Seed anew what has been seeded in this process, from the kernel.

    pid 1 has given the kernel a seed of this machine's own before anything ran. Generators that
    the function made itself are its own affair: it has ``after_resume`` for them.
    """
    random.seed(os.urandom(32))
    if "ssl" in sys.modules:
        # OpenSSL keeps a generator in the process, and hands it to all who ask.
        sys.modules["ssl"].RAND_add(os.urandom(64), 64.0)
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed(list(os.urandom(64)))
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None and getattr(tempfile, "_name_sequence", None) is not None:
        tempfile._name_sequence = None
