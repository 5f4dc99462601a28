"""Where the program in a VM is reached, and whether it listens yet."""

import json
from collections.abc import Iterator, Mapping
from typing import TypedDict
from urllib.parse import urlsplit, urlunsplit

from cakework_client.models import ReachableVm, Vm

NOT_YET = {"vm_not_started", "vm_not_listening", "vm_closed", "vm_timeout", "vm_stopped"}
"""Codes of the router's answers for a program that is not there (yet, or any more)."""
FROM_ROUTER = (502, 504)
"""Statuses that its answers have; a program may answer with them too."""
PAUSE_S = 0.05
PAUSE_MAX_S = 1.0


class Wanted(TypedDict, total=False):
    """What a VM is started with, besides its image and its port, and ``timeout``."""

    cpu: int | None
    memory: int | None
    env_vars: Mapping[str, str] | None
    volume_gb: int | None
    timeout: float


def address(vm: ReachableVm, server_url: str) -> tuple[str, str]:
    """Return the URL to connect to for a VM, and the name to ask for there."""
    parts = urlsplit(vm.url)
    if not vm.hostname.endswith(".localhost"):
        return vm.url, parts.netloc
    host = urlsplit(server_url).hostname or "127.0.0.1"
    bracketed = f"[{host}]" if ":" in host else host
    netloc = bracketed if parts.port is None else f"{bracketed}:{parts.port}"
    return urlunsplit((parts.scheme, netloc, parts.path, "", "")), parts.netloc


def listens(status: int, body: bytes) -> bool:
    """Say whether an answer of the router's is the program's own, or a refusal that will stay."""
    if status not in FROM_ROUTER:
        return True
    try:
        return json.loads(body)["code"] not in NOT_YET
    except (ValueError, TypeError, KeyError):
        return True


def has_ended(vm: Vm) -> bool:
    """Say whether a VM's program has ended, or will never run."""
    return vm.state in ("stopped", "destroyed")


def pauses_s() -> Iterator[float]:
    """Yield pauses between looks, each longer, for ever."""
    pause_s = PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.5, PAUSE_MAX_S)
