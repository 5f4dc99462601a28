"""The events that are told, by the names they have on the wire, and ids of this package."""

from enum import StrEnum

from ulid import ULID

ENDPOINT_ID_PATTERN = r"^ep_[0-9A-HJKMNP-TV-Z]{26}$"
DELIVERY_ID_PATTERN = r"^dlv_[0-9A-HJKMNP-TV-Z]{26}$"


class EventType(StrEnum):
    """What may happen that is told."""

    BUILD_SUCCEEDED = "build.succeeded"
    BUILD_FAILED = "build.failed"
    VM_STARTED = "vm.started"
    VM_STOPPED = "vm.stopped"
    VM_DESTROYED = "vm.destroyed"
    FUNCTION_DEPLOYED = "function.deployed"
    FUNCTION_FAILED = "function.failed"
    INVOCATION_SUCCEEDED = "invocation.succeeded"
    INVOCATION_FAILED = "invocation.failed"
    TRIGGER_PAUSED = "trigger.paused"
    TEST = "webhook.test"


BY_NAME_ALONE = frozenset({EventType.INVOCATION_SUCCEEDED})
"""What comes only to those who name it: not to those who want every event."""


def new_endpoint_id() -> str:
    """Return an id for an endpoint."""
    return f"ep_{ULID()}"


def new_event_id() -> str:
    """Return an id for an event: the ``webhook-id`` of its deliveries."""
    return f"msg_{ULID()}"


def new_delivery_id() -> str:
    """Return an id for a delivery; later ones sort behind earlier ones."""
    return f"dlv_{ULID()}"
