"""Checks of what VMs and server need of the network and of the kernel's namespaces."""

import os
import pwd
import socket

from cakework.cli.checks.check import Check, Level, last_line, run
from cakework.cli.checks.software import find_program
from cakework.cli.privileges import hidden_paths, needed_paths
from cakework.settings import Settings


def check_tun() -> Check:
    """VMs reach the network through tap devices."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return Check("/dev/net/tun", Level.FAIL, str(error.strerror), "modprobe tun, as root.")
    return Check("/dev/net/tun", Level.OK, "opens")


def check_namespaces() -> Check:
    """Each VM has a network namespace, the server sometimes a mount namespace."""
    done = run(["unshare", "--net", "--mount", "true"])
    if done.returncode != 0:
        advice = "Run as root, and not inside a container without CAP_SYS_ADMIN."
        return Check("namespaces", Level.FAIL, last_line(done.stderr), advice)
    return Check("namespaces", Level.OK, "network and mount")


def check_nftables() -> Check:
    """What a VM may reach is decided by nftables rules in its namespace."""
    rules = "add table inet t; add chain inet t c { type filter hook forward priority 0; }"
    done = run(["unshare", "--net", find_program("nft") or "nft", rules])
    if done.returncode != 0:
        advice = "The kernel needs nf_tables; without it VMs are not started."
        return Check("nftables", Level.FAIL, last_line(done.stderr), advice)
    return Check("nftables", Level.OK, "takes rules")


def check_server_user(settings: Settings) -> Check:
    """Who the server runs as, and whether that user reaches its files."""
    try:
        account = pwd.getpwnam(settings.server_user)
    except KeyError:
        advice = "adduser --system, or CAKEWORK_SERVER_USER."
        return Check("server user", Level.FAIL, f"{settings.server_user}: no such user", advice)
    covers = sorted(
        {str(cover) for cover in hidden_paths(needed_paths(settings), account).values()}
    )
    way = f"; gets its own view of {', '.join(covers)}" if covers else ""
    return Check("server user", Level.OK, f"{account.pw_name} (uid {account.pw_uid}){way}")


def check_port(name: str, host: str, port: int, setting: str) -> Check:
    """Whether a port is free, or Cakework's own."""
    where = f"{host}:{port}"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = f"If that is not Cakework itself, set {setting} to another port."
            return Check(name, Level.WARN, f"{where}: {error.strerror}", advice)
    return Check(name, Level.OK, f"{where} is free")
