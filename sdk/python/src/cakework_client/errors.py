"""What goes wrong, as exceptions.

    CakeworkError
    ├── ApiError                the server refused; ``code`` says why
    │   ├── InvalidRequest      invalid_request
    │   │   ├── RegistryDenied       registry_denied
    │   │   ├── RegistryUnreachable  registry_unreachable
    │   │   └── WrongPlatform        wrong_platform
    │   ├── Unauthenticated     unauthenticated
    │   │   └── SignatureInvalid     signature_invalid
    │   ├── NotFound            not_found
    │   │   └── ImageNotInRegistry   image_not_in_registry
    │   ├── Conflict            conflict
    │   │   ├── NoLiveVersion        no_live_version
    │   │   ├── LoopDetected         loop_detected
    │   │   └── NoHandler            no_handler
    │   ├── PreconditionFailed  precondition_failed
    │   ├── TooLarge            too_large
    │   ├── TooSlow             request_timeout
    │   ├── QuotaExceeded       quota_exceeded
    │   │   ├── QueueFull            queue_full
    │   │   └── ConcurrencyExceeded  concurrency_exceeded
    │   ├── HandlerFailed       handler_failed
    │   │   └── ResultTooLarge       result_too_large
    │   ├── HandlerTimeout      timeout
    │   ├── Unavailable         unavailable
    │   │   └── NoRoom               no_room
    │   ├── InternalError       internal_error
    │   └── UnexpectedAnswer    not an answer of Cakework's
    ├── ConnectionFailed        the server was not reached, or the connection broke
    ├── TimedOut                not done within ``timeout``; a TimeoutError too
    ├── BuildFailed             a build that was waited for has failed
    ├── DeployFailed            a version that was waited for has failed
    ├── VmEnded                 a VM that was waited for has ended
    ├── FolderError             a folder cannot be sent
    ├── InvalidId               what was given is no id; a ValueError too
    └── WebhookRejected         a webhook that Cakework did not sign, or too old a one

A code that this version does not know is raised as the class of its status.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from cakework_client.models import FieldError
from cakework_client.wire import read

if TYPE_CHECKING:
    from cakework_client.models import Build, Version, Vm


class CakeworkError(Exception):
    """What every error of this package is."""


class ApiError(CakeworkError):
    """The server refused a request, which then has changed nothing.

    Attributes:
        code: Why, for programs; see the table of errors in the documentation.
        status: The HTTP status.
        detail: Why, for people.
        request_id: Id of the request, as the server's log has it.
        errors: The fields at fault, where fields are.
        retry_after_s: When to try again, where the server says so.
        problem: The server's whole account (RFC 9457).
    """

    code = "internal_error"

    def __init__(self, problem: Mapping[str, Any], *, retry_after_s: float | None = None) -> None:
        self.problem = dict(problem)
        self.code = str(problem.get("code", self.code))
        self.status = int(problem.get("status", 0))
        self.detail = str(problem.get("detail", ""))
        self.request_id: str | None = problem.get("requestId")
        self.errors: Sequence[FieldError] = tuple(
            read(FieldError, error) for error in problem.get("errors") or ()
        )
        self.retry_after_s = retry_after_s
        super().__init__(self.problem)

    def __str__(self) -> str:
        """Say what went wrong, and with which fields."""
        faults = "".join(f"\n  {error.field}: {error.message}" for error in self.errors)
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.detail} [{self.code}]{request}{faults}"


class InvalidRequest(ApiError):
    """The request is malformed or out of range; ``errors`` names the fields at fault."""

    code = "invalid_request"


class RegistryDenied(InvalidRequest):
    """The registry does not take the user name and password, or gives them no image."""

    code = "registry_denied"


class RegistryUnreachable(InvalidRequest):
    """The registry cannot, or must not, be reached."""

    code = "registry_unreachable"


class WrongPlatform(InvalidRequest):
    """The image is not for linux/amd64, or is no image."""

    code = "wrong_platform"


class Unauthenticated(ApiError):
    """No API key, or not a valid one."""

    code = "unauthenticated"


class SignatureInvalid(Unauthenticated):
    """What came in at a webhook is not signed as it should be."""

    code = "signature_invalid"


class NotFound(ApiError):
    """Not there, or not yours."""

    code = "not_found"


class ImageNotInRegistry(NotFound):
    """The registry has no such image."""

    code = "image_not_in_registry"


class Conflict(ApiError):
    """The thing's state does not allow it."""

    code = "conflict"


class NoLiveVersion(Conflict):
    """Nothing of the function is live yet."""

    code = "no_live_version"


class LoopDetected(Conflict):
    """An event comes of work that comes of an event, and so on, too deep."""

    code = "loop_detected"


class NoHandler(Conflict):
    """What is live of the function has no handler for this."""

    code = "no_handler"


class PreconditionFailed(ApiError):
    """It was changed since you looked at it: look again, and send your change with its ``etag``."""

    code = "precondition_failed"


class TooLarge(ApiError):
    """More bytes than the server takes."""

    code = "too_large"


class TooSlow(ApiError):
    """The request did not reach the server in time."""

    code = "request_timeout"


class QuotaExceeded(ApiError):
    """More than the account may have."""

    code = "quota_exceeded"


class QueueFull(QuotaExceeded):
    """As many invocations wait as may."""

    code = "queue_full"


class ConcurrencyExceeded(QuotaExceeded):
    """All instances of the function that may be are busy, and none came free in time."""

    code = "concurrency_exceeded"


class HandlerFailed(ApiError):
    """Your function failed while the call waited for it."""

    code = "handler_failed"


class ResultTooLarge(HandlerFailed):
    """Your function answered more than may be."""

    code = "result_too_large"


class HandlerTimeout(ApiError):
    """Your function took longer than it may while the call waited for it."""

    code = "timeout"


class Unavailable(ApiError):
    """A part of the platform does not answer now."""

    code = "unavailable"


class NoRoom(Unavailable):
    """The host cannot fit it now."""

    code = "no_room"


class InternalError(ApiError):
    """A fault of the platform's; report it with the ``request_id``."""

    code = "internal_error"


class UnexpectedAnswer(ApiError):
    """What answered does not speak as Cakework does: a proxy, or another server."""

    code = "unexpected_answer"


class ConnectionFailed(CakeworkError):
    """The server was not reached, or the connection broke.

    ``sent`` is false when the request cannot have been carried out.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent

    def __reduce__(self) -> Any:
        """Be copied with ``sent``."""
        return _connection_failed, (str(self), self.sent)


class TimedOut(CakeworkError, TimeoutError):
    """A call was not done within its ``timeout``; whether it was carried out is not known."""


class BuildFailed(CakeworkError):
    """A build that was waited for has failed; ``build.error`` says why."""

    def __init__(self, build: "Build") -> None:
        super().__init__(build)
        self.build = build

    def __str__(self) -> str:
        """Say why."""
        return f"Build {self.build.build_id} failed: {self.build.error or 'it says no more'}"


class DeployFailed(CakeworkError):
    """A version that was waited for has failed; ``version.error`` says why."""

    def __init__(self, version: "Version") -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        """Say why."""
        version = self.version
        why = version.error or "it says no more"
        return f"Version {version.version} of {version.function_id} failed: {why}"


class VmEnded(CakeworkError):
    """A VM that was waited for has ended; its log says more."""

    def __init__(self, vm: "Vm") -> None:
        super().__init__(vm)
        self.vm = vm

    def __str__(self) -> str:
        """Say how it ended."""
        how = self.vm.reason or self.vm.state
        return f"VM {self.vm.id} ended before it listened on port {self.vm.port}: {how}"


class FolderError(CakeworkError):
    """A folder cannot be sent: something is missing or cannot be read."""


class InvalidId(CakeworkError, ValueError):
    """What was given is no id at all."""


class WebhookRejected(CakeworkError):
    """A webhook has no valid signature, or is too old or too new."""


ERRORS_BY_CODE: dict[str, type[ApiError]] = {
    error.code: error
    for error in (
        InvalidRequest,
        RegistryDenied,
        RegistryUnreachable,
        WrongPlatform,
        Unauthenticated,
        NotFound,
        ImageNotInRegistry,
        Conflict,
        NoLiveVersion,
        NoHandler,
        SignatureInvalid,
        ConcurrencyExceeded,
        HandlerFailed,
        ResultTooLarge,
        HandlerTimeout,
        LoopDetected,
        PreconditionFailed,
        TooLarge,
        TooSlow,
        QuotaExceeded,
        QueueFull,
        Unavailable,
        NoRoom,
        InternalError,
    )
}
ERRORS_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    404: NotFound,
    408: TooSlow,
    409: Conflict,
    412: PreconditionFailed,
    413: TooLarge,
    429: QuotaExceeded,
    500: InternalError,
    502: HandlerFailed,
    503: Unavailable,
    504: HandlerTimeout,
}


def error_of(problem: Mapping[str, Any], retry_after_s: float | None) -> ApiError:
    """Return the error that a problem of the server's stands for."""
    by_status = ERRORS_BY_STATUS.get(cast("int", problem.get("status")), ApiError)
    kind = ERRORS_BY_CODE.get(str(problem.get("code")), by_status)
    return kind(problem, retry_after_s=retry_after_s)


def _connection_failed(message: str, sent: bool) -> ConnectionFailed:
    return ConnectionFailed(message, sent=sent)
