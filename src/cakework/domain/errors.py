"""The one error tree.

    CakeworkError
    ├── InvalidRequest    malformed or out of range; names the fields at fault
    │   ├── RegistryDenied       the registry does not take the credentials
    │   ├── RegistryUnreachable  the registry cannot, or must not, be reached
    │   └── WrongPlatform        the image is not for linux/amd64
    ├── Unauthenticated   no key, or a wrong one
    │   └── SignatureInvalid     what came in at a webhook is not signed as it has to be
    ├── NotFound          not there, or not the caller's
    │   └── ImageNotInRegistry
    ├── Conflict          the state does not allow it
    │   ├── NoLiveVersion        nothing of the function is live yet
    │   ├── LoopDetected         what caused it leads too deep
    │   └── NoHandler            what is live has no handler for this
    ├── PreconditionFailed  it was changed since it was looked at
    ├── TooLarge          more bytes than are taken
    ├── TooSlow           the request did not come to its end in time
    ├── QuotaExceeded     more than the account may have
    │   ├── QueueFull            as much work waits as may
    │   └── ConcurrencyExceeded  no instance came free for who waited
    ├── NoRoom            the host cannot fit it now
    ├── Unavailable       a part that is needed does not answer
    ├── HandlerFailed     the user's code failed for a caller who waited
    │   └── ResultTooLarge       it answered more than may be
    └── HandlerTimeout    the user's code took too long for a caller who waited

Every error has a stable ``code`` for programs and a sentence for the person. Which HTTP
status an error gets is decided where HTTP is, not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field at fault: its path in the request (``files.0.name``) and what is wrong."""

    field: str
    message: str


class CakeworkError(Exception):
    """What every error of the platform is; ``code`` is stable, ``detail`` is for people."""

    code = "internal_error"

    def __init__(self, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class InvalidRequest(CakeworkError):
    """The request is malformed or out of range."""

    code = "invalid_request"

    def __init__(self, detail: str, fields: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.fields = tuple(fields)


class Unauthenticated(CakeworkError):
    """No API key came with the request, or it is not a valid one."""

    code = "unauthenticated"


class SignatureInvalid(Unauthenticated):
    """What came in at a webhook was not sent now by who knows its secret."""

    code = "signature_invalid"


class NotFound(CakeworkError):
    """The thing is not there, or belongs to somebody else."""

    code = "not_found"


class RegistryDenied(InvalidRequest):
    """A registry does not take the user name and password, or does not give the image to them."""

    code = "registry_denied"


class RegistryUnreachable(InvalidRequest):
    """A registry does not answer, speaks no TLS that is trusted, or is at a forbidden address."""

    code = "registry_unreachable"


class WrongPlatform(InvalidRequest):
    """An image in a registry is not for linux/amd64, or is no image at all."""

    code = "wrong_platform"


class ImageNotInRegistry(NotFound):
    """A registry has no such image."""

    code = "image_not_in_registry"


class Conflict(CakeworkError):
    """The thing's state does not allow the request."""

    code = "conflict"


class PreconditionFailed(CakeworkError):
    """The thing was changed since the caller looked at it; ``etag`` is what it has now, or None."""

    code = "precondition_failed"

    def __init__(self, detail: str, etag: str | None = None) -> None:
        super().__init__(detail)
        self.etag = etag


class NoLiveVersion(Conflict):
    """Nothing of the function is live yet: nothing was deployed, or nothing promoted."""

    code = "no_live_version"


class LoopDetected(Conflict):
    """An event comes of work that comes of an event, and so on, too often."""

    code = "loop_detected"


class NoHandler(Conflict):
    """What is live of the function has no handler for what is asked."""

    code = "no_handler"


class TooLarge(CakeworkError):
    """The request has more bytes than are taken."""

    code = "too_large"


class TooSlow(CakeworkError):
    """The request did not come to its end in time."""

    code = "request_timeout"


class QuotaExceeded(CakeworkError):
    """The account has, or asks for, more than it may."""

    code = "quota_exceeded"


class QueueFull(QuotaExceeded):
    """As much work of a function, or of the account, waits as may."""

    code = "queue_full"


class ConcurrencyExceeded(QuotaExceeded):
    """As many instances of the function as may be are busy, and none came free in time."""

    code = "concurrency_exceeded"


class NoRoom(CakeworkError):
    """The host cannot fit what is asked now."""

    code = "no_room"


class Unavailable(CakeworkError):
    """A part of the platform that is needed does not answer now."""

    code = "unavailable"


class HandlerFailed(CakeworkError):
    """A function failed while its caller waited: the user's code, and no fault of the platform."""

    code = "handler_failed"


class ResultTooLarge(HandlerFailed):
    """A function answered more than may be."""

    code = "result_too_large"


class HandlerTimeout(CakeworkError):
    """A function took longer than it may while its caller waited."""

    code = "timeout"


ERRORS_BY_CODE: dict[str, type[CakeworkError]] = {
    error.code: error
    for error in (
        CakeworkError,
        InvalidRequest,
        Unauthenticated,
        SignatureInvalid,
        RegistryDenied,
        RegistryUnreachable,
        WrongPlatform,
        NotFound,
        ImageNotInRegistry,
        Conflict,
        PreconditionFailed,
        NoLiveVersion,
        LoopDetected,
        NoHandler,
        TooLarge,
        TooSlow,
        QuotaExceeded,
        QueueFull,
        ConcurrencyExceeded,
        NoRoom,
        Unavailable,
        HandlerFailed,
        ResultTooLarge,
        HandlerTimeout,
    )
}
