"""The life of an image.

    importing ──▶ ready ──▶ deleted
        └───────▶ failed ──────┘

importing   it is being fetched from a registry
ready       VMs can be started from it; the image of a build begins here
failed      it could not be imported; there is no image, and why is on record
deleted     no VM can be started from it any more; its file goes, the record until retention
            takes it

An image is not deleted while a VM uses it: one that is not destroyed.
"""

from enum import StrEnum


class ImageState(StrEnum):
    """Where an image is in its life."""

    IMPORTING = "importing"
    READY = "ready"
    FAILED = "failed"
    DELETED = "deleted"


class ImageSource(StrEnum):
    """Where an image came from: a build of files or of a repository, or a registry."""

    FILES = "files"
    GITHUB = "github"
    IMPORT = "import"
