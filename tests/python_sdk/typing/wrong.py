# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Uses of the client that are wrong. Each is an error of pyright's, or its comment would be one."""

from cakework_client import AsyncCakeworkClient, CakeworkClient


def calls(client: CakeworkClient) -> None:
    client.start_vm()  # pyright: ignore[reportCallIssue]
    client.start_vm(image="i")  # pyright: ignore[reportCallIssue]
    client.start_vm("i", memory="512")  # pyright: ignore[reportArgumentType]
    client.start_vm("i", volumeGB=1)  # pyright: ignore[reportCallIssue]
    client.start_vm("i", env={"A": "b"})  # pyright: ignore[reportCallIssue]
    client.iter_vms(state="started")  # pyright: ignore[reportCallIssue]
    client.get_vm_logs("v", follow=True)  # pyright: ignore[reportCallIssue]
    client.start_vm("i", 2)  # pyright: ignore[reportCallIssue]
    client.get_vm("v", idempotency_key="k")  # pyright: ignore[reportCallIssue]
    client.get_vm("v", timeout="5")  # pyright: ignore[reportArgumentType]
    client.list_vms(status="running")  # pyright: ignore[reportArgumentType]
    client.get_vm_logs("v", order="random")  # pyright: ignore[reportArgumentType]
    client.create_webhook("u", events=["vm.exploded"])  # pyright: ignore[reportArgumentType]
    client.update_webhook("w", url=None)  # pyright: ignore[reportArgumentType]
    client.build_image_from_files("FROM x", {"a": 1})  # pyright: ignore[reportArgumentType]
    client.launch_vm("i")  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    client.create_function("f", "node", settings={"memry": 1})  # pyright: ignore[reportArgumentType]
    client.create_trigger("f", "timer", {"every": 60})  # pyright: ignore[reportArgumentType]
    client.create_trigger("f", "cron", {"evry": 60})  # pyright: ignore[reportArgumentType]
    client.update_trigger("t", enabled=None)  # pyright: ignore[reportArgumentType]
    client.emit()  # pyright: ignore[reportCallIssue]
    client.invoke_function("f", mode="later")  # pyright: ignore[reportArgumentType]
    client.list_invocations(state="dead")  # pyright: ignore[reportArgumentType]
    client.put_draft("f", {})  # pyright: ignore[reportCallIssue]


def answers(client: CakeworkClient) -> None:
    build = client.get_build("b")
    client.start_vm(build.image_id)  # pyright: ignore[reportArgumentType]
    build.status = "failed"  # pyright: ignore[reportAttributeAccessIssue]
    vm = client.get_vm("v")
    print(vm.imageId)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    print(vm.state == "running")  # pyright: ignore[reportUnnecessaryComparison]
    client.http(vm)  # pyright: ignore[reportArgumentType]
    with client.vm("i") as plain:
        print(plain.url.upper())  # pyright: ignore[reportOptionalMemberAccess]


async def without_threads(client: AsyncCakeworkClient) -> None:
    client.get_vm("v")  # pyright: ignore[reportUnusedCoroutine]
    for _ in client.iter_vms():  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    with client.vm("i"):  # pyright: ignore[reportGeneralTypeIssues]
        pass
