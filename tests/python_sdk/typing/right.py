# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Uses of the client whose types are as stated; pyright checks them, nothing runs them."""

from collections.abc import AsyncGenerator, Generator
from datetime import datetime
from typing import Any, Literal, assert_type

import httpx2

from cakework_client import (
    AsyncCakeworkClient,
    Build,
    CakeworkClient,
    FunctionLogLine,
    Invocation,
    LogLine,
    LogPage,
    NotFound,
    ReachableVm,
    Settings,
    SucceededBuild,
    Trigger,
    TriggerConfig,
    TriggerSettings,
    TriggerWithSecret,
    Version,
    Vm,
    VmPage,
    Webhook,
    WebhookWithSecret,
    verify_webhook,
)


def calls(client: CakeworkClient) -> None:
    build = client.upload_directory("folder", timeout=5, idempotency_key="k")
    assert_type(build, Build)
    assert_type(build.image_id, str | None)
    assert_type(build.status, Literal["created", "succeeded", "failed"])
    assert_type(build.created_at, datetime)
    done = client.wait_for_build(build.build_id, on_line=lambda line: print(line.message))
    assert_type(done, SucceededBuild)
    assert_type(done.image_id, str)
    assert_type(client.start_vm(done.image_id, env_vars={"A": "b"}), Vm)
    assert_type(client.list_vms(status="started"), VmPage)
    assert_type(client.iter_vms(), Generator[Vm, None, None])
    assert_type(client.get_vm_logs("v", batch=50, from_=datetime.now()), LogPage)
    assert_type(client.follow_logs("v"), Generator[LogLine, None, None])
    client.build_image_from_files("FROM x", {"a.txt": "text", "b.bin": b"bytes"})
    client.build_image_from_files("FROM x", [{"dir": ".", "name": "a", "content": "b"}])


def blocks(client: CakeworkClient) -> None:
    with client.vm("i", port=8000, memory=512) as vm, client.http(vm) as http:
        assert_type(vm, ReachableVm)
        assert_type(vm.url, str)
        assert_type(http, httpx2.Client)
    with client.vm("i") as plain:
        assert_type(plain, Vm)
        assert_type(plain.url, str | None)


def webhooks(client: CakeworkClient) -> None:
    made = client.create_webhook("https://example.test", events=["build.failed"])
    assert_type(made, WebhookWithSecret)
    assert_type(client.update_webhook(made.id, events=None, enabled=False), Webhook)
    event = verify_webhook(b"{}", {}, made.secret)
    assert_type(event.data, Build | Vm | Version | Invocation | Trigger | dict[str, Any])


def errors(client: CakeworkClient) -> None:
    try:
        client.get_vm("v")
    except NotFound as error:
        assert_type(error.code, str)
        assert_type(error.request_id, str | None)
        assert_type(error.errors[0].field, str)


async def without_threads(client: AsyncCakeworkClient) -> None:
    assert_type(await client.get_build("b"), Build)
    assert_type(await client.wait_for_build("b"), SucceededBuild)
    assert_type(client.follow_logs("v"), AsyncGenerator[LogLine, None])
    async for line in client.iter_logs("v"):
        assert_type(line.level, Literal["info", "error"])
    async with client.vm("i", port=1) as vm, client.http(vm) as http:
        assert_type(vm, ReachableVm)
        assert_type(http, httpx2.AsyncClient)


def about_functions(client: CakeworkClient) -> None:
    settings: Settings = {"memory": 512, "retry": {"maxAttempts": 2, "on": ["timeout"]}}
    function = client.create_function("f", "node", settings=settings)
    client.deploy_function(function.id, {"files": {"main.py": "x", "b": b"\0"}}, promote=False)
    client.deploy_function(function.id, {"version": 3}, lock="")
    client.deploy_function(function.id, archive=b"")
    for done in client.invoke_many(function.id, [1, "a", None], at_once=2):
        print(done.state == "failed", done.error and done.error.stack)
    for line in client.follow_logs(function.id):
        print(line.message, isinstance(line, FunctionLogLine) and line.invocation_id)


def about_triggers(client: CakeworkClient) -> None:
    weekdays: TriggerSettings = {"cron": "0 9 * * 1-5", "timeZone": "Europe/Berlin"}
    made = client.create_trigger("f", "cron", weekdays, retry={"maxAttempts": 3})
    assert_type(made, TriggerWithSecret)
    assert_type(made.config, TriggerConfig | dict[str, Any])
    assert_type(made.next, list[datetime] | None)
    client.create_trigger("f", "webhook", {"verify": {"scheme": "stripe", "secret": "s"}})
    assert_type(client.update_trigger(made.id, enabled=False, config={"every": 60}), Trigger)
    assert_type(client.iter_triggers(type="event"), Generator[Trigger, None, None])
    assert_type(client.emit("order.paid", data={"n": 1}).invocations, int)
