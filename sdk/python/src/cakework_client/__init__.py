"""Client of Cakework: build, run and observe your users' code in microVMs.

    from cakework_client import CakeworkClient

    with CakeworkClient() as client:
        build = client.wait_for_build(client.upload_directory("examples/python-web").build_id)
        with client.vm(build.image_id, port=8000) as vm, client.http(vm) as http:
            print(http.get("/").text)

:class:`AsyncCakeworkClient` is the same with ``async`` and ``await``.
"""

from cakework_client._async.client import AsyncCakeworkClient
from cakework_client._sync.client import CakeworkClient
from cakework_client.errors import (
    ApiError,
    BuildFailed,
    CakeworkError,
    Conflict,
    ConnectionFailed,
    FolderError,
    ImageNotInRegistry,
    InternalError,
    InvalidId,
    InvalidRequest,
    NoRoom,
    NotFound,
    QuotaExceeded,
    RegistryDenied,
    RegistryUnreachable,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
    VmEnded,
    WebhookRejected,
    WrongPlatform,
)
from cakework_client.folders import File, Files, Folder
from cakework_client.models import (
    Build,
    BuildPage,
    BuildStatus,
    DeliveryStatus,
    EventType,
    FieldError,
    Health,
    Image,
    ImagePage,
    ImageSource,
    ImageState,
    ImportedImage,
    LogLine,
    LogPage,
    Order,
    ReachableVm,
    Readiness,
    SucceededBuild,
    Vm,
    VmPage,
    VmState,
    Webhook,
    WebhookDelivery,
    WebhookDeliveryPage,
    WebhookList,
    WebhookWithSecret,
)
from cakework_client.webhooks import WebhookEvent, verify_webhook
from cakework_client.wire import UNSET, Answer

__version__ = "0.1.0"

__all__ = [
    "UNSET",
    "Answer",
    "ApiError",
    "AsyncCakeworkClient",
    "Build",
    "BuildFailed",
    "BuildPage",
    "BuildStatus",
    "CakeworkClient",
    "CakeworkError",
    "Conflict",
    "ConnectionFailed",
    "DeliveryStatus",
    "EventType",
    "FieldError",
    "File",
    "Files",
    "Folder",
    "FolderError",
    "Health",
    "Image",
    "ImageNotInRegistry",
    "ImagePage",
    "ImageSource",
    "ImageState",
    "ImportedImage",
    "InternalError",
    "InvalidId",
    "InvalidRequest",
    "LogLine",
    "LogPage",
    "NoRoom",
    "NotFound",
    "Order",
    "QuotaExceeded",
    "ReachableVm",
    "Readiness",
    "RegistryDenied",
    "RegistryUnreachable",
    "SucceededBuild",
    "TimedOut",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "Vm",
    "VmEnded",
    "VmPage",
    "VmState",
    "Webhook",
    "WebhookDelivery",
    "WebhookDeliveryPage",
    "WebhookEvent",
    "WebhookList",
    "WebhookRejected",
    "WebhookWithSecret",
    "WrongPlatform",
    "verify_webhook",
]
