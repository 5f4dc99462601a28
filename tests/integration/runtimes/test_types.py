"""What editors are told: the types of both packages, and that the wheel has what it must."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from cakework.runtimes import NODE, PYTHON
from tests.integration.runtimes.adapters import NODE_PROGRAM
from tests.integration.runtimes.test_handlers_page import BLOCK, NAME, PAGE

ROOT = Path(__file__).resolve().parents[3]
TYPESCRIPT = ROOT / "sdk" / "typescript" / "node_modules"
RIGHT = """
import type { Context, Event, Handlers } from "@cakework/functions";
import { NonRetriable, RetryAfter } from "@cakework/functions";
import { call, fetch, makeEvent } from "@cakework/functions/testing";

type Order = { total: number };
const main = {
  fetch: async (request, env, ctx) => {
    ctx.waitUntil(Promise.resolve());
    return new Response(env["KEY"] ?? ctx.secrets["KEY"]);
  },
  event: (event, ctx) => {
    if (ctx.signal.aborted || event.data === undefined) throw new NonRetriable("x");
    if (ctx.deadline && ctx.deadline < new Date()) throw new RetryAfter(3);
    ctx.log.info(event.data.total);
    return event.data.total;
  },
  transform: (record: Order) => [record],
} satisfies Handlers<Order, Order>;
const total: number = await call(main.event, makeEvent({ total: 5 }), { attempt: 2 });
const text: string = await (await fetch(main, "https://a/")).text();
export default main;
export { text, total, type Context, type Event };
"""
WRONG = """
import type { Context, Event, Handlers } from "@cakework/functions";
import { RetryAfter } from "@cakework/functions";
declare const ctx: Context;
// @ts-expect-error
ctx.attempt = 2;
// @ts-expect-error
ctx.waitUntil(() => 1);
// @ts-expect-error
new RetryAfter("3");
// @ts-expect-error
export const handlers = { fetch: () => "text" } satisfies Handlers;
// @ts-expect-error
export const total = (event: Event<{ total: number }>): string => event.data?.total;
"""
PYTHON_WRONG = """
from cakework_functions import Context, Event, RetryAfter


def handler(event: Event, context: Context) -> int:
    context.attempt = 2  # frozen
    event["kind"]  # not there
    RetryAfter("3")  # seconds
    return context.invocation_id  # text
"""


def test_typescript(tmp_path: Path) -> None:
    """What is right compiles, each line that is wrong does not, and the page's examples do."""
    (tmp_path / "node_modules" / "@cakework").mkdir(parents=True)
    (tmp_path / "node_modules" / "@cakework" / "functions").symlink_to(NODE / "functions")
    (tmp_path / "node_modules" / "@types").symlink_to(TYPESCRIPT / "@types")
    (tmp_path / "node_modules" / "undici-types").symlink_to(TYPESCRIPT / "undici-types")
    sources = [text for language, _, text in BLOCK.findall(PAGE) if language == "ts"]
    assert len(sources) >= 4
    for number, source in enumerate([RIGHT, WRONG, *sources]):
        (tmp_path / f"file{number}.ts").write_text(source)
    options = json.loads((ROOT / "sdk" / "typescript" / "tsconfig.base.json").read_text())
    more = {"lib": ["ES2024", "DOM", "DOM.Iterable"], "types": ["node"], "noEmit": True}
    more["noUnusedParameters"] = False
    kept = {"compilerOptions": {**options["compilerOptions"], "target": "ES2024", **more}}
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "tsconfig.json").write_text(json.dumps(kept))
    compiler = TYPESCRIPT / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        [NODE_PROGRAM, compiler, "-p", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_python(tmp_path: Path) -> None:
    """Strictly typed, and each line that is wrong is an error."""
    (tmp_path / "wrong.py").write_text(PYTHON_WRONG)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(PYTHON)]})
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    told = json.loads(done.stdout)["generalDiagnostics"]
    lines = {each["range"]["start"]["line"] + 1 for each in told if each["severity"] == "error"}
    wrong = {number for number, line in enumerate(PYTHON_WRONG.splitlines(), 1) if "  # " in line}
    assert lines == wrong


def test_the_wheel_has_the_runtimes(tmp_path: Path) -> None:
    """Every file that an image needs, as it is here."""
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        for folder in (PYTHON, NODE):
            files = [each for each in folder.rglob("*") if each.is_file()]
            kept = [each for each in files if "__pycache__" not in each.parts]
            assert len(kept) > 10
            for file in kept:
                name = f"cakework/runtimes/{file.relative_to(PYTHON.parent)}"
                assert wheel.read(name) == file.read_bytes()
        assert not [name for name in names if name.endswith(".pyc")]


def test_every_example_names_its_file() -> None:
    """So that each is run: those that are neither are examples of unit tests."""
    sources = [
        text
        for language, test, text in BLOCK.findall(PAGE)
        if language not in ("text", "sh") and not test
    ]
    assert [text for text in sources if not NAME.match(text)] == []
