"""The Python client against the running platform: every call, of both kinds, errors included."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cakework_client import (
    BuildFailed,
    CakeworkClient,
    Conflict,
    ImageNotInRegistry,
    InvalidRequest,
    LogLine,
    NotFound,
    RetrySettings,
    TooLarge,
    Unauthenticated,
    Vm,
    VmEnded,
)
from tests.acceptance import guests
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until
from tests.integration.node.registries import PASSWORD, Registry
from tests.python_sdk.clients import KINDS, Kind, client_of
from tests.python_sdk.test_document import OPERATIONS, SECOND_NAMES, snake_case

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "sdk" / "python" / "README.md"
NOWHERE = "0" * 14


@dataclass
class Recorded:
    """A client that remembers which of its calls were made."""

    client: CakeworkClient
    called: set[str] = field(default_factory=set[str])

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self.client, name)


@pytest.fixture(params=KINDS)
def sdk(request: pytest.FixtureRequest, platform: Platform) -> Iterator[Any]:
    """A client of each kind."""
    kind: Kind = request.param
    with client_of(kind, url=platform.url, api_key=platform.key) as client:
        yield Recorded(client)


def test_every_call_of_the_contract(
    sdk: Any, platform: Platform, registry: Registry, shell: str, busybox: str, tmp_path: Path
) -> None:
    """Each operation of the document is called, and does what it says."""
    about_builds(sdk, tmp_path)
    about_images(sdk, registry, shell)
    about_vms(sdk, busybox)
    about_cached_vms(sdk, busybox)
    about_kept_programs(sdk, busybox)
    about_webhooks(sdk)
    function_id = about_functions(sdk, tmp_path)
    about_drafts_and_archives(sdk, function_id)
    about_secrets(sdk, function_id)
    about_triggers(sdk, function_id)
    about_events(sdk, function_id)
    about_transforms(sdk)
    sdk.delete_function(function_id)
    assert (sdk.healthz().status, sdk.readyz().node) == ("ok", "ok")
    operations = {snake_case(name) for name in set(OPERATIONS) - set(SECOND_NAMES)}
    assert operations - sdk.called == set()


def about_builds(sdk: CakeworkClient, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM cakework/busybox\nCOPY . /here\nRUN ls -a /here\n")
    (folder / ".dockerignore").write_text("*.key\n")
    (folder / "private.key").write_text("secret")
    (folder / "new").write_text(str(uuid4()))
    build = sdk.upload_directory(folder)
    lines: list[LogLine] = []
    done = sdk.wait_for_build(build.build_id, on_line=lines.append, timeout=120)
    messages = [line.message for line in lines]
    assert ".dockerignore" in messages
    assert "private.key" not in messages
    assert sdk.get_build_logs(build.build_id, batch=1000).lines == lines
    assert list(sdk.iter_logs(build.build_id)) == lines
    assert sdk.get_build(build.build_id).image_id == done.image_id
    assert build.build_id in {each.build_id for each in sdk.list_builds(status="succeeded").builds}

    failing = sdk.build_image_from_files("FROM cakework/busybox\nRUN exit 9\n", {"a.txt": "a"})
    with pytest.raises(BuildFailed, match="9") as failure:
        sdk.wait_for_build(failing.build_id, timeout=120)
    assert failure.value.build.status == "failed"

    fetched = sdk.build_image_from_github("FROM cakework/busybox\n", "no/where", "main")
    cancelled = sdk.cancel_build(fetched.build_id)
    assert cancelled.status == "failed"
    assert next(sdk.iter_builds(status="failed")).build_id == fetched.build_id


def about_images(sdk: CakeworkClient, registry: Registry, shell: str) -> None:
    image_id = sdk.import_image(shell, PASSWORD).image_id
    until(lambda: sdk.get_image(image_id).state == "ready", 120, "the image is there")
    image = sdk.get_image(image_id)
    assert (image.source, image.image_uri) == ("import", shell)
    assert image in sdk.list_images().images
    assert image in list(sdk.iter_images())
    assert sdk.delete_image(image_id).state == "deleted"
    with pytest.raises(ImageNotInRegistry):
        sdk.import_image(f"{registry.address}/nothing:here", PASSWORD)


def about_vms(sdk: CakeworkClient, image: str) -> None:
    web = {"SCRIPT": guests.WEB, "NAME": "sdk"}
    with sdk.vm(image, port=8000, env_vars=web) as vm, sdk.http(vm) as http:
        assert http.get("/").text == "hello from sdk\n"
        assert vm.url.startswith(f"http://{vm.hostname}:")
        assert sdk.wait_for_vm(vm.id) == vm
        assert vm.id in {each.id for each in sdk.list_vms(status="started").vms}
        assert vm.id in {each.id for each in sdk.iter_vms(image_id=image)}
        with closing(sdk.follow_logs(vm.id)) as lines:
            assert next(lines).message == "ready"
    assert sdk.get_vm(vm.id).state == "destroyed"

    counting = {"SCRIPT": guests.COUNT.replace("sleep 1000", ""), "LAST": "30"}
    started = sdk.start_vm(image, env_vars=counting, memory=256, volume_gb=1)
    assert (started.memory, started.volume_gb, started.url) == (256, 1, None)
    followed = list(sdk.follow_logs(started.id, timeout=60))
    assert [line.message for line in followed] == [
        *(f"line {number}" for number in range(1, 31)),
        "done",
    ]
    assert sdk.get_vm_logs(started.id, order="newest_first").lines == followed[::-1]
    assert [line.message for line in sdk.iter_logs(started.id, query="DONE")] == ["done"]
    assert sdk.stop_vm(started.id).state == "destroyed"
    assert sdk.destroy_vm(started.id).exit_code == 0


def about_cached_vms(sdk: CakeworkClient, image: str) -> None:
    vm = sdk.cache_vm(image, port=8000, env_vars={"SCRIPT": guests.WEB, "NAME": "again"})
    assert vm.state == "stopped"
    for _ in range(2):
        assert sdk.start_cached_vm(vm.id).hostname == vm.hostname
        sdk.wait_for_vm(vm.id)
        assert sdk.stop_cached_vm(vm.id).state == "stopped"
    with pytest.raises(Conflict):
        sdk.stop_vm(vm.id)
    assert sdk.get_cached_vm_logs(vm.id).lines[0].message == "ready"
    assert sdk.destroy_cached_vm(vm.id).state == "destroyed"


def about_kept_programs(sdk: CakeworkClient, image: str) -> None:
    env = {"SCRIPT": guests.WEB, "NAME": "kept"}
    vm = sdk.cache_vm(image, port=8000, env_vars=env, snapshot="ready")
    with pytest.raises(Conflict):
        sdk.fork_cached_vm(vm.id, 1)
    sdk.start_cached_vm(vm.id)
    assert sdk.stop_cached_vm(vm.id, keep="memory").memory_kept
    until(lambda: made(sdk.get_vm(vm.id)), 120, "it is on record that the snapshot is made")
    forks = sdk.fork_cached_vm(vm.id, 2).vms
    assert len({vm.hostname, *(fork.hostname for fork in forks)}) == 3
    for fork in forks:
        assert fork.fork_of == vm.id
        assert sdk.wait_for_vm(fork.id).url
        sdk.stop_vm(fork.id)
    sdk.destroy_cached_vm(vm.id)


def made(vm: Vm) -> bool:
    return vm.snapshot is not None and vm.snapshot.state == "made"


CODE = """
import os
def handler(event, context):
    print("at work")
    if event["data"] == "raise":
        raise ValueError("no")
    return event["data"]
"""


def about_functions(sdk: CakeworkClient, folder: Path) -> str:
    """Return the id of a function that is live."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "main.py").write_text(CODE)
    retry: RetrySettings = {"maxAttempts": 1}
    made = sdk.create_function(f"f-{uuid4()}", "python", settings={"retry": retry})
    version = sdk.deploy_folder(made.id, code)
    assert sdk.wait_for_version(made.id, version.version, timeout=300).state == "ready"
    assert sdk.get_version(made.id, 1).handlers == ["event"]
    assert [each.version for each in sdk.list_versions(made.id).versions] == [1]
    assert [file.path for file in sdk.get_version_source(made.id, 1).files] == ["main.py"]
    assert sdk.promote_version(made.id, 1).live_version == 1
    assert sdk.get_function(made.id).state == "active"
    assert sdk.list_functions(name=made.name).functions[0].id == made.id
    assert sdk.update_function(made.id, {"timeout": 9}).settings.timeout == 9

    done = sdk.invoke(made.id, {"n": 1})
    assert (done.state, done.result) == ("succeeded", {"n": 1})
    assert [each.result for each in sdk.invoke_many(made.id, range(4), at_once=2)] == [0, 1, 2, 3]
    assert sdk.get_invocation(done.id).result == done.result
    assert sdk.get_invocation_event(done.id)["data"] == {"n": 1}
    assert sdk.get_invocation_result(done.id).json() == {"n": 1}
    assert sdk.list_invocations(function_id=made.id, state="succeeded").invocations
    later = sdk.invoke_function(made.id, mode="async", delay=600)
    assert sdk.cancel_invocation(later.id).state == "canceled"
    again = sdk.replay_invocation(done.id, event={"data": 2})
    assert sdk.wait_for_invocation(again.id).result == 2
    failed = [sdk.invoke(made.id, "raise") for _ in range(2)]
    dead = sdk.list_dead_letters(function_id=made.id).invocations
    assert {each.id for each in dead} == {each.id for each in failed}
    assert sdk.replay_dead_letters(ids=[failed[0].id], per_second=0.001).matched == 1
    assert sdk.discard_dead_letters(filter={"functionId": made.id}).matched >= 1
    until(
        lambda: [line.message for line in sdk.get_invocation_logs(done.id).lines] == ["at work"],
        60,
        "its lines are there",
    )
    assert "at work" in {line.message for line in sdk.get_function_logs(made.id).lines}
    return made.id


def about_drafts_and_archives(sdk: CakeworkClient, function_id: str) -> None:
    saved = sdk.put_draft(function_id, {"main.py": CODE + "# draft\n"}, if_match='"0"')
    draft = sdk.get_draft(function_id)
    assert (draft.etag, draft.files[0].path) == (saved.etag, "main.py")
    assert sdk.test_function(function_id, data=3).result == 3
    version = sdk.deploy_function(function_id, {"draft": True}, message="draft")
    assert sdk.wait_for_version(function_id, version.version, timeout=300).message == "draft"
    sdk.delete_draft(function_id, if_match=saved.etag)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("main.py")
        entry.size = len(CODE)
        archive.addfile(entry, io.BytesIO(CODE.encode()))
    deployed = sdk.deploy_function_from_archive(
        packed.getvalue(), runtime="python", handler_file="main.py", handler_function="handler"
    )
    assert sdk.wait_for_version(deployed.id, 1, timeout=300).state == "ready"
    sdk.delete_function(deployed.id)


def about_secrets(sdk: CakeworkClient, function_id: str) -> None:
    kept = sdk.put_secret("KEY", "value of it", function_id=function_id)
    (found,) = sdk.list_secrets(function_id=function_id).secrets
    assert (found.name, found.fingerprint) == ("KEY", kept.fingerprint)
    sdk.delete_secret("KEY", function_id=function_id)
    assert list(sdk.iter_secrets(function_id=function_id)) == []


def about_triggers(sdk: CakeworkClient, function_id: str) -> None:
    cron = "0 9 * * 1-5"
    times = sdk.preview_schedule(cron, time_zone="Europe/Berlin").times
    made = sdk.create_trigger(function_id, "cron", {"cron": cron, "timeZone": "Europe/Berlin"})
    assert made.next == times
    assert sdk.wait_for_invocation(sdk.run_trigger(made.id, data=3).id).result == 3
    assert sdk.get_trigger(made.id).last_result == "succeeded"
    assert sdk.update_trigger(made.id, enabled=False).state == "paused"
    sdk.delete_trigger(made.id)
    hook = sdk.create_trigger(function_id, "webhook", {"verify": {"scheme": "standard"}})
    assert [each.id for each in sdk.list_triggers(function_id=function_id).triggers] == [hook.id]
    assert sdk.rotate_trigger_secret(hook.id).secret not in (None, hook.secret)
    sdk.delete_trigger(hook.id)
    assert list(sdk.iter_triggers(function_id=function_id)) == []


def about_events(sdk: CakeworkClient, function_id: str) -> None:
    kind = f"order.{uuid4()}"
    wanted = sdk.create_trigger(function_id, "event", {"types": [kind]}, filter={"data": ["a"]})
    (one, other) = sdk.emit_events([{"type": kind, "data": "a"}, {"type": kind}]).events
    assert (one.invocations, other.invocations) == (1, 0)
    (led,) = sdk.get_event(one.id).invocations or []
    assert led.trigger_id == wanted.id
    assert sdk.wait_for_invocation(led.id).result == "a"
    assert len(sdk.list_events(type=kind).events) == len(list(sdk.iter_events(type=kind))) == 2
    assert sdk.test_filter({"data": ["a"]}, {"type": kind, "data": "a"}).matches
    sdk.delete_trigger(wanted.id)


def about_transforms(sdk: CakeworkClient) -> None:
    code = "def transform(record):\n    return {**record, 'cents': 100 * record['total']}\n"
    made = sdk.create_function(
        *(f"t-{uuid4()}", "python"),
        kind="transform",
        settings={"timeoutMs": 30_000},
        source={"files": {"main.py": code}},
    )
    assert sdk.wait_for_version(made.id, 1, timeout=300).handlers == ["transform"]
    assert sdk.apply_transform(made.id, {"total": 5}) == {"total": 5, "cents": 500}
    told = sdk.apply_transform_to_all(made.id, [{"total": 1}, {"total": 2}])
    assert [each["cents"] for each in told] == [100, 200]
    sdk.delete_function(made.id)


def about_webhooks(sdk: CakeworkClient) -> None:
    made = sdk.create_webhook("https://hooks.example/", events=["vm.started"], description="x")
    assert made.secret.startswith("whsec_")
    assert sdk.get_webhook(made.id).events == ["vm.started"]
    changed = sdk.update_webhook(made.id, events=None, description="y")
    assert (changed.events, changed.description, changed.url) == (None, "y", made.url)
    assert made.id in {webhook.id for webhook in sdk.list_webhooks().webhooks}
    assert sdk.rotate_webhook_secret(made.id).secret != made.secret
    sent = sdk.test_webhook(made.id)
    assert sent.event_type == "webhook.test"
    until(lambda: next(sdk.iter_webhook_deliveries(made.id)).attempts, 60, "it was attempted")
    sdk.update_webhook(made.id, enabled=False)
    assert sdk.list_webhook_deliveries(made.id, status="failed").deliveries[0].id == sent.id
    sdk.update_webhook(made.id, enabled=True)
    assert sdk.redeliver_webhook(made.id, sent.id).event_id == sent.event_id
    assert sdk.delete_webhook(made.id).id == made.id
    with pytest.raises(NotFound):
        sdk.get_webhook(made.id)


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_are_errors_of_their_own(kind: Kind, platform: Platform, busybox: str) -> None:
    """With the code, the status, the request's id, and the fields at fault."""
    with client_of(kind, url=platform.url, api_key=platform.key) as sdk:
        with pytest.raises(NotFound) as absent:
            sdk.get_vm(NOWHERE)
        assert (absent.value.code, absent.value.status) == ("not_found", 404)
        assert absent.value.request_id
        with pytest.raises(InvalidRequest) as invalid:
            sdk.start_vm(busybox, memory=1)
        assert [error.field for error in invalid.value.errors] == ["memory"]
        with pytest.raises(NotFound):
            list(sdk.follow_logs(NOWHERE))
        with pytest.raises(TooLarge):
            sdk.build_image_from_files("FROM x", {"large": "x" * 70_000_000})
    wrong = {"url": platform.url, "api_key": "cw_" + "x" * 43}
    with client_of(kind, **wrong) as sdk, pytest.raises(Unauthenticated):
        sdk.list_vms()


@pytest.mark.parametrize("kind", KINDS)
def test_work_with_one_key_is_done_once(kind: Kind, platform: Platform, busybox: str) -> None:
    """The same key and question give the same VM; another question with it is a conflict."""
    with client_of(kind, url=platform.url, api_key=platform.key) as sdk:
        script = {"SCRIPT": "exit 0"}
        first = sdk.start_vm(busybox, env_vars=script, idempotency_key=f"sdk-{kind}")
        again = sdk.start_vm(busybox, env_vars=script, idempotency_key=f"sdk-{kind}")
        assert first.id == again.id
        with pytest.raises(Conflict):
            sdk.start_vm(busybox, cpu=2, env_vars=script, idempotency_key=f"sdk-{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_ends_is_not_waited_for(
    kind: Kind, platform: Platform, busybox: str
) -> None:
    """A block for a VM that ended before it listened does not begin; the VM is ended."""
    with (
        client_of(kind, url=platform.url, api_key=platform.key) as sdk,
        pytest.raises(VmEnded) as ended,
        sdk.vm(busybox, port=8000, env_vars={"SCRIPT": "exit 3"}),
    ):
        raise AssertionError("the block began")
    assert ended.value.vm.exit_code == 3


INTERRUPTED = {
    "sync": """
        import sys, time
        from cakework_client import CakeworkClient
        with CakeworkClient() as client:
            with client.vm(sys.argv[1], env_vars={"SCRIPT": "sleep 1000"}) as vm:
                print(vm.id, flush=True)
                time.sleep(1000)
    """,
    "async": """
        import asyncio, sys
        from cakework_client import AsyncCakeworkClient
        async def main():
            async with AsyncCakeworkClient() as client:
                async with client.vm(sys.argv[1], env_vars={"SCRIPT": "sleep 1000"}) as vm:
                    print(vm.id, flush=True)
                    await asyncio.sleep(1000)
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_stops_the_vm_of_a_block(kind: Kind, platform: Platform, busybox: str) -> None:
    """The program that uses the client is interrupted; the VM is gone before it is."""
    environment = {**os.environ, "CAKEWORK_URL": platform.url, "CAKEWORK_API_KEY": platform.key}
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED[kind]), busybox]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout
        assert program.stderr
        vm_id = program.stdout.readline().strip()
        assert vm_id, program.stderr.read()
        program.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in program.stderr.read()
    with client_of("sync", url=platform.url, api_key=platform.key) as sdk:
        assert sdk.get_vm(vm_id).state == "destroyed"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


@pytest.mark.usefixtures("python")
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_block_of_the_readme_works(
    number: int, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands, in the folder of the checkout."""
    monkeypatch.setenv("CAKEWORK_URL", platform.url)
    monkeypatch.setenv("CAKEWORK_API_KEY", platform.key)
    monkeypatch.chdir(ROOT)
    exec(compile(blocks("python")[number], str(README), "exec"), {"__name__": "__main__"})
