"""Names of images in registries: ``registry.example:5000/team/app:1.2``.

Read as https://pkg.go.dev/github.com/distribution/reference has them; a name without a
registry is Docker Hub's, as everywhere.
"""

import re

HUB = "docker.io"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"^{_HOST}(?::[0-9]{{1,5}})?\Z")
_NAME = re.compile(
    r"^(?=.{1,255}$)[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z"
)
_TAG = re.compile(r"^\w[\w.-]{0,127}\Z", re.ASCII)
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}\Z")
CHARS_MAX = 800


class ImageReferenceError(ValueError):
    """No name of an image; ``str()`` of it says why, for people."""


def whole_reference(text: str) -> str:
    """Return ``text`` with its registry, and with a digest or else a tag.

    ``docker://`` in front is left out. Where there are both, the digest counts.

    Raises:
        ImageReferenceError: it is no name of an image.
    """
    rest = text.removeprefix("docker://")
    if "://" in rest:
        raise ImageReferenceError("must be registry/name:tag, without a scheme")
    rest, at, digest = rest.partition("@")
    registry, name, tag = _parts(rest)
    if len(text) > CHARS_MAX or not _REGISTRY.match(registry) or not _NAME.match(name):
        raise ImageReferenceError("must be the name of an image: registry/name:tag")
    if at and not _DIGEST.match(digest):
        raise ImageReferenceError("must have a digest of the form sha256:<64 digits>")
    if not _TAG.match(tag):
        raise ImageReferenceError("must have a tag of letters, digits, dots and dashes")
    return f"{registry}/{name}@{digest}" if at else f"{registry}/{name}:{tag}"


def registry_of(reference: str) -> str:
    """Return the registry, ``host[:port]``, of a whole reference."""
    return reference.partition("/")[0]


def _parts(text: str) -> tuple[str, str, str]:
    first, slash, rest = text.partition("/")
    if not (slash and ("." in first or ":" in first or first == "localhost")):
        first, rest = HUB, text if slash else f"library/{text}"
    name, colon, tag = rest.partition(":")
    return first, name, tag if colon else "latest"
