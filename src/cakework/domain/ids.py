"""Identifiers, each a type of its own so that one cannot be passed for another."""

import secrets
import uuid
from typing import NewType

from ulid import ULID

AccountId = NewType("AccountId", str)
BuildId = NewType("BuildId", str)
ImageId = NewType("ImageId", str)
KeyId = NewType("KeyId", str)
VmId = NewType("VmId", str)
FunctionId = NewType("FunctionId", str)
InvocationId = NewType("InvocationId", str)
TriggerId = NewType("TriggerId", str)
EventId = NewType("EventId", str)
UserId = NewType("UserId", str)
"""An end user of an account's, by the account's own word."""
ACCOUNT_ITSELF = UserId("")
"""In the place of an end user: it is the account's own."""

BUILD_ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
IMAGE_ID_PATTERN = r"^[0-9A-HJKMNP-TV-Z]{26}$"
VM_ID_PATTERN = r"^[0-9a-f]{14}$"
FUNCTION_ID_PATTERN = r"^fn_[0-9A-HJKMNP-TV-Z]{26}$"
INVOCATION_ID_PATTERN = r"^inv_[0-9A-HJKMNP-TV-Z]{26}$"
TRIGGER_ID_PATTERN = r"^trg_[0-9A-HJKMNP-TV-Z]{26}$"
EVENT_ID_PATTERN = r"^evt_[0-9A-HJKMNP-TV-Z]{26}$"


def new_build_id() -> BuildId:
    """Return a random UUID (RFC 9562, version 4) in lower case."""
    return BuildId(str(uuid.uuid4()))


def new_image_id() -> ImageId:
    """Return a ULID: 26 characters of Crockford's base 32, ordered by time."""
    return ImageId(str(ULID()))


def new_vm_id() -> VmId:
    """Return 14 random hexadecimal digits (56 bits)."""
    return VmId(secrets.token_hex(7))


def new_function_id() -> FunctionId:
    """Return ``fn_`` and a ULID."""
    return FunctionId(f"fn_{ULID()}")


def new_invocation_id() -> InvocationId:
    """Return ``inv_`` and a ULID."""
    return InvocationId(f"inv_{ULID()}")


def new_trigger_id() -> TriggerId:
    """Return ``trg_`` and a ULID."""
    return TriggerId(f"trg_{ULID()}")


def new_event_id() -> EventId:
    """Return ``evt_`` and a ULID."""
    return EventId(f"evt_{ULID()}")


def new_layer_id() -> str:
    """Return ``lay_`` and a ULID."""
    return f"lay_{ULID()}"


def new_host_label() -> str:
    """Return the first label of a VM's hostname: a lower-case ULID."""
    return str(ULID()).lower()
