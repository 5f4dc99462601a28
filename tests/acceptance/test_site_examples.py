"""The examples that the REST reference shows: every one of them is run as it stands there."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cakework_client import CakeworkClient
from tests.acceptance.api import Api
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until
from tests.integration.node.registries import PASSWORD, USERNAME

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "web" / "examples" / "rest.md").read_text()
NODE = ROOT / ".venv" / "bin" / "node"
SDK = ROOT / "sdk" / "typescript"
TIMEOUT_S = 240.0


def examples(language: str) -> list[tuple[str, str]]:
    """Return call and code of each example in one language, in the order of the document."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]:
        name = part.split("\n", 1)[0]
        code = re.search(rf"^```{language}\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
        assert code, f"{name} has no example in {language}"
        found.append((name, code[1]))
    return found


@pytest.fixture(scope="module")
def owner(platform: Platform) -> Iterator[Api]:
    """An account of its own, whose VMs end with these tests."""
    with platform.api(platform.new_key("examples")) as api:
        yield api
        for vm in api.vms():
            if vm["state"] != "destroyed":
                api.post(f"/v1/vm/{vm['id']}/destroy")


@pytest.fixture(scope="module")
def image(owner: Api) -> str:
    """An image whose program says hello and waits."""
    return owner.image("FROM cakework/busybox\nCMD echo hello && exec sleep 3600\n")


@pytest.fixture(scope="module")
def warm(owner: Api) -> str:
    """A cached VM whose snapshot is made."""
    httpd = owner.image("FROM cakework/busybox\nCMD httpd -f -p 8000\n")
    body = {"imageId": httpd, "port": 8000, "snapshot": "ready"}
    vm_id: str = owner.post("/v1/vm/cache", body)["id"]
    until(lambda: owner.vm(vm_id)["snapshot"]["state"] == "made", 120, "the snapshot is made")
    return vm_id


@pytest.fixture
def given(platform: Platform, owner: Api, image: str, warm: str, shell: str) -> Mapping[str, str]:
    """What the examples take for granted, by the names that they use in the shell."""
    dockerfile = "FROM cakework/busybox\nCMD true\n"
    unused = owner.build(dockerfile)
    endless: dict[str, Any] = {"dockerfile": "FROM cakework/busybox\nRUN sleep 3600\n", "files": []}
    vm = owner.start(image)
    owner.wait_for_line(vm["id"], "hello")
    webhook, old = (owner.post("/v1/webhooks", {"url": "https://example.com/"}) for _ in range(2))
    return {
        "API": platform.url,
        "KEY": owner.key,
        "IMAGE_URI": shell,
        "USERNAME": USERNAME,
        "PASSWORD": PASSWORD,
        "GITHUB_TOKEN": "ghp_example",
        "BUILD_ID": unused["buildId"],
        "RUNNING_BUILD_ID": owner.post("/v1/image/build/files", endless)["buildId"],
        "IMAGE_ID": image,
        "UNUSED_IMAGE_ID": unused["imageId"],
        "VM_ID": vm["id"],
        "CACHED_VM_ID": owner.post("/v1/vm/cache", {"imageId": image})["id"],
        "WARM_VM_ID": warm,
        "WEBHOOK_ID": webhook["id"],
        "OLD_WEBHOOK_ID": old["id"],
        "DELIVERY_ID": owner.post(f"/v1/webhooks/{webhook['id']}/test")["id"],
    }


def test_examples_for_curl(given: Mapping[str, str]) -> None:
    """Each is answered as it should be."""
    env = {"PATH": os.environ["PATH"], **given}
    for name, code in examples("sh"):
        done = subprocess.run(
            ["sh", "-e", "-c", code], env=env, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert "requestId" not in answer, f"{name}: {answer}"


def test_examples_in_typescript(given: Mapping[str, str], tmp_path: Path) -> None:
    """Each runs to its end."""
    names = {camel_case(name): value for name, value in given.items()}
    blocks = [
        f"await (async () => {{\n{code}}})().catch((error) => {{\n"
        f"  throw new Error({json.dumps(name)}, {{ cause: error }});\n}});\n"
        for name, code in examples("ts")
    ]
    script = tmp_path / "examples.mjs"
    script.write_text(
        f"import {{ CakeworkClient }} from {json.dumps(str(SDK / 'dist/esm/index.js'))};\n"
        f"const {{ {', '.join(names)} }} = {json.dumps(names)};\n"
        "const client = new CakeworkClient({ url: api, apiKey: key });\n" + "\n".join(blocks)
    )
    done = subprocess.run([NODE, script], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr


def test_examples_in_python(given: Mapping[str, str]) -> None:
    """Each runs to its end."""
    names = {name.lower(): value for name, value in given.items()}
    with CakeworkClient(url=given["API"], api_key=given["KEY"]) as client:
        for name, code in examples("py"):
            exec(compile(code, name, "exec"), {**names, "client": client})


def camel_case(name: str) -> str:
    """Return the spelling in TypeScript of a variable of the shell."""
    first, *others = name.lower().split("_")
    return first + "".join(word.title() for word in others)
