"""How many examples properties are tried on.

In ``make test`` the same few every time, so that a run tells of the change and not of its luck;
in ``make test-long`` many more, other ones each time.

``CAKEWORK_TEST_EXAMPLES`` says how many times as many; without it, or with 1, it is the former.
What is found stays to be tried first, in .build/hypothesis; make it an example or a test too.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

FACTOR = int(os.environ.get("CAKEWORK_TEST_EXAMPLES") or "1")
FOUND = Path(__file__).parents[1] / ".build" / "hypothesis"


def use_profile() -> None:
    """Have every property that says nothing else tried as this file says."""
    settings.register_profile(
        "cakework",
        max_examples=100 * FACTOR,
        derandomize=FACTOR == 1,
        database=DirectoryBasedExampleDatabase(FOUND) if FACTOR > 1 else None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("cakework")


def examples(count: int) -> int:
    """Return how many examples a property is tried on that is tried on ``count`` in ``make test``;
    for those whose examples are dear."""
    return count * FACTOR
