"""What the router needs to know about VMs, and what it allows them and their callers."""

from dataclasses import dataclass
from typing import Protocol

from cakework.domain.vms import VmState


class Route(Protocol):
    """A hostname's VM, its account, the port inside it (None: not to be reached), and its state.

    ``run`` is another one after each start; with ``auto_start`` a request starts the VM.
    """

    @property
    def vm_id(self) -> str: ...  # noqa: D102
    @property
    def account_id(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int | None: ...  # noqa: D102
    @property
    def state(self) -> VmState: ...  # noqa: D102
    @property
    def run(self) -> int: ...  # noqa: D102
    @property
    def auto_start(self) -> bool: ...  # noqa: D102


class Routes(Protocol):
    """Knows the VM of every hostname."""

    def find(self, host: str) -> Route | None:
        """Return the route of ``host`` (lower case, no port), or None when no VM has it."""
        ...

    async def confirm(self) -> None:
        """Return once what is found is as new as this call.

        Raises:
            Unavailable: nobody says.
        """
        ...


class Waker(Protocol):
    """Starts VMs that a request came for."""

    async def wake(self, vm_id: str) -> None:
        """Have a VM started, or wait until it is.

        Raises:
            CakeworkError: it cannot be, and why.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection through the router may cost.

    ``idle_timeout_s`` is how long an exchange, or a connection that was upgraded, may go on
    without a byte moving; ``keep_alive_s`` how long a connection may wait for a request;
    ``wake_timeout_s`` how long a request may wait for its VM to be started and to listen. The first
    head has ``head_timeout_s`` to begin, and as long again to end; as long may an answer of the
    router's own wait to be taken. Of ``connections`` in all, half
    may have requests to the VMs of one account under way. Of what waits in all of them to be taken,
    ``held_bytes`` are kept.
    """

    head_bytes: int = 32 * 1024
    head_timeout_s: float = 15.0
    keep_alive_s: float = 75.0
    idle_timeout_s: float = 3600.0
    wake_timeout_s: float = 30.0
    linger_s: float = 2.0
    connections: int = 4000
    connections_per_vm: int = 256
    held_bytes: int = 256 << 20
