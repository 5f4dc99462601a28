"""Why a registry did not give an image, from what skopeo prints."""

from cakework.domain.errors import (
    CakeworkError,
    ImageNotInRegistry,
    InvalidRequest,
    RegistryDenied,
    RegistryUnreachable,
    WrongPlatform,
)
from cakework.domain.image_references import registry_of
from cakework.node.builds.failure import last_fatal

_PLATFORM = "it is not for linux/amd64"
_DENIED = "the registry does not take the user name and password, or does not give it to them"
_BROKE_OFF = ("unexpected EOF", "connection reset by peer")
_SIGNS: tuple[tuple[str, type[InvalidRequest] | type[ImageNotInRegistry], str], ...] = (
    ("no image found in manifest list", WrongPlatform, _PLATFORM),
    ("no image found in image index", WrongPlatform, _PLATFORM),
    ("unsupported image-specific operation on artifact", WrongPlatform, "it is not an image"),
    ("unsupported schema version", WrongPlatform, "it is not an image"),
    ("no such host", RegistryUnreachable, "{registry} has no address that may be reached"),
    (
        "operation not permitted",
        RegistryUnreachable,
        "{registry} is no address that may be reached",
    ),
    ("network is unreachable", RegistryUnreachable, "{registry} cannot be reached"),
    ("no route to host", RegistryUnreachable, "{registry} is no address that may be reached"),
    ("connection refused", RegistryUnreachable, "{registry} does not answer"),
    ("i/o timeout", RegistryUnreachable, "{registry} does not answer in time"),
    ("server misbehaving", RegistryUnreachable, "the name of {registry} cannot be looked up now"),
    ("x509: ", RegistryUnreachable, "{registry} shows a certificate that is not trusted"),
    ("tls: ", RegistryUnreachable, "{registry} speaks no TLS that is understood"),
    ("HTTP response to HTTPS client", RegistryUnreachable, "{registry} speaks no TLS"),
    (
        "Unexpectedly received a manifest list",
        WrongPlatform,
        "it is an index within an index, which is not taken",
    ),
    (
        "Digest did not match",
        RegistryUnreachable,
        "the registry gives what is not of the digest that it names",
    ),
    *(
        (sign, RegistryUnreachable, "{registry} broke off the connection, again and again")
        for sign in _BROKE_OFF
    ),
    ("unauthorized", RegistryDenied, _DENIED),
    ("authentication required", RegistryDenied, _DENIED),
    ("401 (Unauthorized)", RegistryDenied, _DENIED),
    ("no basic auth credentials", RegistryDenied, _DENIED),
    ("403 (Forbidden)", RegistryDenied, _DENIED),
    ("access to the resource is denied", RegistryDenied, _DENIED),
    ("denied:", RegistryDenied, _DENIED),
    ("manifest unknown", ImageNotInRegistry, "the registry has no such image"),
    ("name unknown", ImageNotInRegistry, "the registry has no such image"),
    ("repository name not known", ImageNotInRegistry, "the registry has no such image"),
    ("404 (Not Found)", ImageNotInRegistry, "the registry has no such image"),
)
NO_SPACE = "no space left on device"
TOO_LARGE = "file too large"


def explain_fetch(reference: str, output: str) -> CakeworkError:
    """Return the error that skopeo's stderr stands for."""
    for sign, kind, reason in _SIGNS:
        if sign in output:
            return kind(f"{reference}: {reason.format(registry=registry_of(reference))}.")
    told = last_fatal(output) or "the registry gave no reason"
    return RegistryUnreachable(f"{reference} cannot be fetched: {told}")


def broke_off(output: str) -> bool:
    """Say whether the connection ended in the midst of something, by skopeo's stderr."""
    return any(sign in output for sign in _BROKE_OFF)


def too_slow(reference: str) -> CakeworkError:
    """Return the error for a registry that does not answer in time."""
    return RegistryUnreachable(f"{reference}: {registry_of(reference)} does not answer in time.")
