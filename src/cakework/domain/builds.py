"""The life of a build.

    created ──▶ succeeded (has an image)
       └──────▶ failed    (has an error)

A build is ``created`` from the moment it is asked for until its image is there or cannot be.
"""

from enum import StrEnum


class BuildStatus(StrEnum):
    """Where a build is in its life."""

    CREATED = "created"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


TRANSITIONS: dict[BuildStatus, frozenset[BuildStatus]] = {
    BuildStatus.CREATED: frozenset({BuildStatus.SUCCEEDED, BuildStatus.FAILED}),
    BuildStatus.SUCCEEDED: frozenset(),
    BuildStatus.FAILED: frozenset(),
}
