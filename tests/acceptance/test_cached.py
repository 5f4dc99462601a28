"""Cached VMs through the public API: started again and again, with what they had."""

import os
import signal

from tests.acceptance.api import Api
from tests.acceptance.footprint import Footprint, machine_of
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

COUNT = """
mkdir -p /www
echo run >> /data/runs
sync
wc -l < /data/runs > /www/index.html
echo "$NAME run $(wc -l < /data/runs)"
exec httpd -f -p 8000 -h /www
"""
ONCE = "echo x >> /data/runs; wc -l < /data/runs; exit 3"


def test_a_cached_vm_comes_back_with_all_it_had(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """Environment, port, hostname and volume stay through stops, and through kill -9 of QEMU,
    node and server; destroying frees everything, and the log stays."""
    env = {"SCRIPT": COUNT, "NAME": "Ada"}
    body = {"imageId": busybox, "port": 8000, "envVars": env, "diskSize": 1}
    vm = api.post("/v1/vm/cache", body)
    path = f"/v1/vm/cached/{vm['id']}"
    assert (vm["state"], vm["volumeGB"]) == ("stopped", 1)
    volume = platform.settings.node_dir / "volumes" / vm["id"]
    for run in (1, 2, 3):
        started = api.post(f"{path}/start")
        assert (started["state"], started["hostname"]) == ("started", vm["hostname"])
        assert api.visit_when_up(vm).text.strip() == str(run)
        if run == 1:
            assert api.post(f"{path}/stop")["state"] == "stopped"
            assert api.visit(vm).json()["code"] == "vm_stopped"
        elif run == 2:
            os.kill(machine_of(platform, vm["id"]), signal.SIGKILL)
            assert "exitCode" not in api.wait_for_state(vm["id"], "stopped")
            platform.kill("node")
        else:
            platform.kill("server")
    assert api.visit(vm).text.strip() == "3"
    assert volume.stat().st_blocks * 512 < 200 << 20
    assert api.http.post(f"/v1/vm/{vm['id']}/stop").status_code == 409
    assert api.post(f"{path}/destroy")["state"] == "destroyed"
    assert not volume.exists()
    assert api.messages(f"{path}/logs") == ["Ada run 1", "Ada run 2", "Ada run 3"]
    assert api.http.post(f"{path}/start").status_code == 409


def test_it_stops_when_its_program_ends(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """`stopped` with the exit code, each time; what is secret in it is in no file of the server."""
    env = {"SCRIPT": ONCE, "SECRET": "correct-horse-battery-staple"}
    vm = api.post("/v1/vm/cache", {"imageId": busybox, "envVars": env, "volumeGB": 1})
    for run in (1, 2):
        api.post(f"/v1/vm/cached/{vm['id']}/start")
        stopped = api.wait_for_state(vm["id"], "stopped")
        assert stopped["exitCode"] == 3
        until(lambda run=run: api.printed(vm["id"]) == [*map(str, range(1, run + 1))], 60, "lines")
    for kept in platform.settings.server_dir.rglob("*"):
        assert not kept.is_file() or env["SECRET"].encode() not in kept.read_bytes()
    assert (platform.settings.server_dir / "secret.key").stat().st_mode & 0o777 == 0o600
    assert api.post(f"/v1/vm/{vm['id']}/destroy")["state"] == "destroyed"
