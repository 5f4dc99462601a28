"""What `cakework doctor` looks at, one function per thing; each returns a :class:`Check`."""

from cakework.cli.checks.check import Check, Level
from cakework.cli.checks.machine import (
    check_builds,
    check_cgroups,
    check_disk,
    check_kvm,
    check_memory,
    check_root,
    check_store,
    check_system,
)
from cakework.cli.checks.network import (
    check_namespaces,
    check_nftables,
    check_port,
    check_server_user,
    check_tun,
)
from cakework.cli.checks.software import PROGRAMS, check_built, check_kernel, check_program
from cakework.settings import Settings

__all__ = ["Check", "Level", "all_checks"]


def all_checks(settings: Settings) -> list[Check]:
    """Look at everything, in the order it is needed."""
    programs = [check_program(*program) for program in PROGRAMS]
    return [
        check_system(),
        check_root(),
        check_kvm(settings),
        check_builds(settings),
        *programs,
        check_kernel(settings),
        check_built(settings),
        check_tun(),
        check_namespaces(),
        check_nftables(),
        check_cgroups(),
        check_memory(settings),
        check_disk(settings),
        check_store(settings),
        check_server_user(settings),
        check_port("port API", settings.host, settings.port, "CAKEWORK_PORT"),
        check_port("port router", settings.proxy_host, settings.proxy_port, "CAKEWORK_PROXY_PORT"),
    ]
