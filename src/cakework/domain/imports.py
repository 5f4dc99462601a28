"""The life of an import.

    importing ──▶ succeeded (the image is there)
        └───────▶ failed    (has an error)

Its image has an id from the beginning; VMs that are started from it meanwhile wait.
"""

from enum import StrEnum


class ImportStatus(StrEnum):
    """Where an import is in its life."""

    IMPORTING = "importing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
