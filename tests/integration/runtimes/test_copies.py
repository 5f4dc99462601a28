"""Copies of one snapshot: what they draw, and what is done around it."""

import json
import socket
import subprocess
from pathlib import Path

import pytest

from cakework.runtimes import NODE
from tests.integration.runtimes.adapters import LANGUAGES, NODE_PROGRAM, adapter

SEEDED = """
import random, sys, types
random.seed(1)
numpy = types.ModuleType("numpy.random")
numpy.seed = lambda seed: SEEDS.append(list(seed))
SEEDS = []
sys.modules["numpy.random"] = numpy
def handler(event, context):
    return [random.random(), SEEDS]
"""
SAME = """
import crypto from "node:crypto";
import {{ createRequire }} from "node:module";
import * as names from "node:crypto";

// What a copy's own generator gives: the same as that of every other.
crypto.randomBytes = (size, done) => (done ? done(null, Buffer.alloc(size)) : Buffer.alloc(size));
crypto.randomFillSync = (view) => view;
crypto.randomFill = (view, ...rest) => rest.pop()(null, view);
Object.getPrototypeOf(crypto.webcrypto).getRandomValues = (view) => view;
const before = Math.random();
const {{ install, reseed }} = await import("{random}");
install();
const draws = async () => [
  Math.random(),
  crypto.randomBytes(8).toString("hex"),
  await new Promise((done) => names.randomBytes(8, (_, bytes) => done(bytes.toString("hex")))),
  Buffer.from(crypto.randomFillSync(new Uint8Array(8))).toString("hex"),
  await new Promise((done) =>
    crypto.randomFill(Buffer.alloc(8), (_, bytes) => done(bytes.toString("hex")))),
  crypto.randomFillSync(new Uint16Array(4), 1, 2).join(),
  Buffer.from(globalThis.crypto.getRandomValues(new Uint8Array(8))).toString("hex"),
  globalThis.crypto.randomUUID(),
  names.randomUUID(),
  createRequire(import.meta.url)("crypto").randomInt(2 ** 40),
  names.randomInt(1, 2 ** 40),
  await new Promise((done) => crypto.randomInt(2 ** 40, (_, number) => done(number))),
];
const first = await draws();
reseed();
console.log(JSON.stringify([before, first, await draws()]));
"""
CONSTANT = """
import fs from "node:fs";
const { openSync, readSync } = fs;
let kernel;
fs.openSync = (path, ...rest) => {
  const fd = openSync(path, ...rest);
  if (path === "/dev/urandom") kernel = fd;
  return fd;
};
fs.readSync = (fd, buffer, ...rest) => {
  if (fd !== kernel) return readSync(fd, buffer, ...rest);
  buffer.fill(7);
  return buffer.length;
};
"""
HOOKS = {
    "python": """
CALLED = []
def before_snapshot():
    CALLED.append("before")
async def afterResume():
    CALLED.append("after")
    if len(CALLED) > 2:
        raise ValueError("no connection")
def handler(event):
    return CALLED
""",
    "node": """
const called = [];
export const beforeSnapshot = () => void called.push("before");
export async function afterResume() {
  called.push("after");
  if (called.length > 2) throw new TypeError("no connection");
}
export const handler = () => called;
""",
}
NAMES = {"python": "main.py", "node": "main.mjs"}


def test_copies_draw_different_numbers_in_python(tmp_path: Path) -> None:
    """Their generators are alike until they were told that they are resumed."""
    (tmp_path / "main.py").write_text(SEEDED)
    with (
        adapter("python", "main.py", folder=tmp_path) as one,
        adapter("python", "main.py", folder=tmp_path) as other,
    ):
        assert one.result() == other.result()
        for each in (one, other):
            each.order("POST", "/after-resume")
        (first, first_seeds), (second, second_seeds) = one.result(), other.result()
    assert first != second
    assert len(first_seeds) == len(second_seeds) == 1
    assert first_seeds != second_seeds


def test_copies_draw_different_numbers_in_node(tmp_path: Path) -> None:
    """Whatever their own generators give, which would be the same."""
    script = tmp_path / "same.mjs"
    script.write_text(SAME.format(random=(NODE / "adapter" / "random.mjs").as_uri()))
    command = [NODE_PROGRAM, "--random-seed=1", script]
    one, other = (
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(2)
    )
    assert one[0] == other[0]
    drawn = [one[1], one[2], other[1], other[2]]
    for each in zip(*drawn, strict=True):
        assert len(set(each)) == 4, each
    assert all(0 <= each[0] < 1 for each in drawn)
    assert all(0 <= number < 2**40 for each in drawn for number in each[-3:])
    assert all(each[5].startswith("0,") and each[5].endswith(",0") for each in drawn)


def test_math_random_is_seeded_by_the_kernel(tmp_path: Path) -> None:
    """At the start and when it is resumed, for who has kept the function since the import too.

    Here the kernel gives always the same, so that its numbers begin again.
    """
    (tmp_path / "kernel.mjs").write_text(CONSTANT)
    (tmp_path / "main.mjs").write_text(
        "const { random } = Math;\nexport const event = () => [random(), Math.random()]"
    )
    flags = ("--import", str(tmp_path / "kernel.mjs"))
    with adapter("node", "main.mjs", folder=tmp_path, flags=flags) as running:
        first, second = running.result(), running.result()
        running.order("POST", "/after-resume")
        assert running.result() == first
        assert len({*first, *second}) == 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_hooks_run_around_the_snapshot(language: str, tmp_path: Path) -> None:
    """Each once for each order; one that fails says so, with what it raised."""
    (tmp_path / NAMES[language]).write_text(HOOKS[language])
    with adapter(language, NAMES[language], folder=tmp_path) as running:
        ready = running.order("GET", "/ready")
        assert sorted(ready["hooks"]) == ["afterResume", "beforeSnapshot"]
        assert ready["handlers"] == ["event"]
        running.order("POST", "/before-snapshot")
        running.order("POST", "/after-resume")
        assert running.result() == ["before", "after"]
        with running.asked("POST", "/after-resume") as response:
            assert response.status == 500
            assert json.loads(response.read())["error"]["message"] == "no connection"


@pytest.mark.parametrize("language", LANGUAGES)
def test_kept_connections_are_dropped(language: str) -> None:
    """What a visitor had open before the snapshot is of another machine's time."""
    entry = {"python": "plain.py", "node": "plain.mjs"}[language]
    with adapter(language, entry) as running, running.connect() as kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200")
        running.order("POST", "/after-resume")
        while kept.recv(65_536):
            pass


def test_pid_1_is_told_of_readiness(tmp_path: Path) -> None:
    """By sd_notify's message, once the function is loaded and both ports are there."""
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(place))
        notify.settimeout(60)
        env = {"NOTIFY_SOCKET": str(place)}
        with adapter("python", "cases.py", env=env) as running:
            assert notify.recv(100) == b"READY=1\n"
            running.connect().close()
