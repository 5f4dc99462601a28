"""Runs: what a guest is told to run, and in words how that ended."""

from cakework.domain.orders import VmOrder
from cakework.node.guest.protocol import Exited, Run
from cakework.node.images import Image
from cakework.node.vms.processes import signal_name
from cakework.node.vms.questions import identity_of


def run_order(order: VmOrder, image: Image, dns: tuple[str, ...]) -> Run:
    """Put image and order together."""
    env = environment(order, image)
    return Run(
        identity=identity_of(order, dns),
        cwd=image.config.cwd,
        user=image.config.user,
        argv=image.config.argv,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        volume=order.volume_gb > 0,
    )


def environment(order: VmOrder, image: Image) -> dict[str, str]:
    """Return the program's environment: the order's wins over the image's."""
    env = dict(entry.split("=", 1) for entry in image.config.env if "=" in entry)
    if order.port is not None:
        env["PORT"] = str(order.port)
    return env | order.env


def how_it_ended(exited: Exited) -> str:
    """Say how a program ended, for people."""
    if exited.out_of_memory:
        return "the program ran out of memory"
    if exited.by_signal:
        return f"the program was ended by {signal_name(exited.value)}"
    return f"the program ended with exit code {exited.value}"
