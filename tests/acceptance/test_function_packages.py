"""Functions that bring packages as they are published, in real VMs."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.functions import files, live
from tests.acceptance.packages import Packages, published

pytestmark = pytest.mark.timeout(600)
WHEELS = ("pydantic==2.11.7",)
MODULES = ("nanoid@5.1.5", "@node-rs/bcrypt@1.10.7", "@node-rs/bcrypt-linux-x64-gnu@1.10.7")
PYTHON = """\
import pydantic, pydantic_core._pydantic_core as compiled

class Order(pydantic.BaseModel):
    price: int

def handler(event, context):
    try:
        return [Order.model_validate(event["data"]).price, compiled.__file__.rpartition(".")[2]]
    except pydantic.ValidationError as error:
        return error.errors()[0]["type"]
"""
TYPESCRIPT = """\
import { hashSync, verifySync } from "@node-rs/bcrypt";
import { customAlphabet } from "nanoid";
import { half } from "./lib/half.ts";

interface Order { price: number }
const known: string = await new Promise((resolve) => setTimeout(() => resolve("waited for"), 5));
const dice = customAlphabet("123456", 8);

export default {
  event(event: { data: Order }) {
    const kept = hashSync("secret", 4);
    return { half: half(event.data.price), known, dice: dice(),
      verified: [verifySync("secret", kept), verifySync("guess", kept)] };
  },
};
"""


@pytest.fixture(scope="module")
def packages() -> Iterator[Packages]:
    with published(WHEELS, MODULES) as packages:
        yield packages


def called(api: Api, function_id: str, data: object) -> Any:
    done = api.post(f"/v1/functions/{function_id}/invoke", {"data": data})
    assert done["state"] == "succeeded", done
    return done["result"]


def test_a_compiled_wheel_is_there_and_stays_for_the_next_version(
    api: Api, packages: Packages
) -> None:
    """It is installed once: a version with other code has the same layer."""
    lines = f"--index-url {packages.wheels}\n{WHEELS[0]}\n"
    source = files({"main.py": PYTHON, "requirements.txt": lines})
    name = f"wheel-{time.time_ns()}"
    body = {"name": name, "runtime": "python3.13", "source": source}
    function_id = api.post("/v1/functions", body)["id"]
    first = live(api, function_id)
    assert called(api, function_id, {"price": "5"}) == [5, "so"]
    assert called(api, function_id, {"price": "five"}) == "int_parsing"
    again = PYTHON.replace(".price,", ".price + 1,")
    source = files({"main.py": again, "requirements.txt": lines})
    api.post(f"/v1/functions/{function_id}/versions", {"source": source})
    second = live(api, function_id, 2)
    assert called(api, function_id, {"price": "5"}) == [6, "so"]
    assert second["buildId"] == first["buildId"]
    api.http.delete(f"/v1/functions/{function_id}")


def test_typescript_with_an_esm_package_and_native_code(api: Api, packages: Packages) -> None:
    """Modules are resolved from the code's own folder, awaited at their top, and what is compiled
    for Node is loaded; forks draw for themselves."""
    wanted = {name: kept["version"] for name, kept in packages.locked.items()}
    lock = {
        "lockfileVersion": 3,
        "packages": {
            "": {"dependencies": wanted},
            **{f"node_modules/{name}": kept for name, kept in packages.locked.items()},
        },
    }
    source = files(
        {
            "main.ts": TYPESCRIPT,
            "lib/half.ts": "export const half = (price: number): number => price / 2;\n",
            "package.json": json.dumps({"type": "module", "dependencies": wanted}),
            "package-lock.json": json.dumps(lock),
        }
    )
    body: Json = {"name": f"module-{time.time_ns()}", "runtime": "node24", "source": source}
    body["settings"] = {"isolation": "invocation"}
    function_id = api.post("/v1/functions", body)["id"]
    live(api, function_id)
    answers = [called(api, function_id, {"price": 5}) for _ in range(2)]
    dice = {answer.pop("dice") for answer in answers}
    assert len(dice) == 2
    assert answers == [{"half": 2.5, "known": "waited for", "verified": [True, False]}] * 2
    api.http.delete(f"/v1/functions/{function_id}")
