"""Base images hold what docs/base-images.md says, come from nowhere else than they should, and
are whole or not there."""

import base64
import json
import platform
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cakework.domain.orders import BuildOrder
from cakework.node.builds import bases
from cakework.node.builds.layers import LayerStore
from cakework.node.builds.recipes import RECIPES
from tests.integration.node import own_base
from tests.integration.node.build_bench import NOTHING, Bench, mounted, order
from tests.integration.node.builder_site import BuilderBench
from tests.integration.node.gates import gate

DEADLINE_S = 200
TIMEOUT_S = 3600
"""What is made of hundreds of packages takes long where much else runs; this tells what hangs."""
ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "base-images.md"
PASSWORD = "correct-horse"
SIZE_TOLERANCE = 0.15
"""Debian's updates change sizes a little."""

LOOK = """\
set -eu
say() { printf '%s=%s\\n' "$1" "$2"; }
say debian "$(. /etc/os-release && echo "$VERSION_ID")"
say size "$(du -sxm --exclude=/look / | cut -f 1)"
bash -c 'type useradd adduser' >/dev/null
test -s /etc/ssl/certs/ca-certificates.crt
test -e /usr/share/zoneinfo/Europe/Berlin
grep -q '^https' /etc/services
"""
LOOK_PYTHON = """\
say python "$(python --version | cut -d ' ' -f 2)"
test "$(python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')" = "$PYTHON_VERSION"
say pip "$(pip --version | cut -d ' ' -f 2)"
say uv "$(uv --version | cut -d ' ' -f 2)"
pip install --quiet --no-index /look/one-1.0-py3-none-any.whl
uv pip install --quiet --system --no-index --offline /look/two-1.0-py3-none-any.whl
test -e /usr/share/python-wheels/pip-*.whl
python -m venv --without-pip /tmp/v
/tmp/v/bin/python -c 'import ensurepip'
test "$PYTHONUNBUFFERED$PIP_ROOT_USER_ACTION" = 1ignore
"""
LOOK_NODE = """\
say node "$(node --version | tr -d v)"
test "$(node -p process.versions.node)" = "$NODE_VERSION"
say npm "$(npm --version)"
npx --version >/dev/null
test "$(id -u node):$(id -g node):$(stat -c %U /home/node)" = 1000:1000:node
if type corepack >/dev/null; then
    say corepack "$(corepack --version)"
    test -L /usr/local/bin/yarn
fi
"""
ALL = """\
FROM cakework/python:3.11 AS python311
COPY . /look
RUN sh /look/python >/facts
FROM --platform=linux/amd64 cakework/python:3.13 AS python313
COPY . /look
RUN sh /look/python >/facts
FROM cakework/node:18 AS node18
COPY . /look
RUN sh /look/node >/facts
FROM cakework/node:24 AS node24
COPY . /look
RUN sh /look/node >/facts
FROM cakework/python:3.13
COPY --from=cakework/node:24 /usr/local/bin/node /usr/local/bin/node
ENV PACKAGES=/usr/local/lib/python3.13/site-packages
COPY --from=python313 $PACKAGES $PACKAGES
RUN node -p 1+1 && python -c "import one, two; print(one.__file__, two.__file__)"
FROM cakework/busybox
COPY --from=python311 /facts /python-3.11
COPY --from=python313 /facts /python-3.13
COPY --from=node18 /facts /node-18
COPY --from=node24 /facts /node-24
COPY --from=4 /etc/os-release /etc/os-release
"""


@pytest.mark.timeout(TIMEOUT_S)
def test_they_hold_what_the_documentation_says(bench: Bench, tmp_path: Path) -> None:
    """Versions and sizes are those of the table; pip, uv, npm and users do as on Docker Hub; and
    files are copied from one to another by a name with a version."""
    files = {
        "python": LOOK + LOOK_PYTHON,
        "node": LOOK + LOOK_NODE,
        **{f"{name}-1.0-py3-none-any.whl": _wheel(name) for name in ("one", "two")},
    }
    image = bench.image(order(ALL, files), build_timeout_s=TIMEOUT_S)
    told = _table()
    assert set(told) == {each.key for each in RECIPES if each.basis}
    with mounted(image, tmp_path / "rootfs") as rootfs:
        for key, columns in told.items():
            lines = (rootfs / key).read_text().splitlines()
            facts = dict(line.split("=", 1) for line in lines)
            size = int(facts.pop("size"))
            assert abs(size - int(columns.pop("size"))) <= SIZE_TOLERANCE * size, (key, size)
            assert facts.keys() == columns.keys(), key
            for name, version in columns.items():
                assert re.match(rf"{re.escape(version)}(\.|$)", facts[name]), (key, name, facts)


def _table() -> dict[str, dict[str, str]]:
    """Read the document's table: of each image, the version of what it has, without dashes."""
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    head, _, *lines = ([cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows)
    found: dict[str, dict[str, str]] = {}
    for image, *cells in lines:
        columns = zip(head[1:], cells, strict=True)
        name = image.removeprefix("cakework/").replace(":", "-")
        found[name] = {
            column.lower().removesuffix(", mb"): cell for column, cell in columns if cell != "-"
        }
    return found


@pytest.mark.timeout(TIMEOUT_S)
def test_a_machine_has_every_name(
    vm_bench: BuilderBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a build in a machine names with a version, without, and to copy from, is there."""
    scripts = own_base.write_scripts(tmp_path / "scripts", 'echo made >"$1/made"')
    own_base.use(scripts, monkeypatch.setattr)
    dockerfile = f"""\
FROM --platform=linux/amd64 {own_base.NAME} AS made
RUN true
FROM cakework/busybox
COPY --from=made /made /one
COPY --from={own_base.NAME.partition(":")[0]} /made /two
"""
    image = vm_bench.image(order(dockerfile))
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert [(rootfs / name).read_text() for name in ("one", "two")] == ["made\n", "made\n"]


def test_a_wheel_is_the_one_that_is_locked(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an index gives in its place is refused; and the index's password, which pip sends, is
    in no log, in no command and on no disk."""
    own = Bench(tmp_path / "data", bench.netns)
    lock = f"one==1.0 --hash=sha256:{'0' * 64}\n"
    own_base.use(own_base.write_scripts(tmp_path / "scripts", "", lock=lock), monkeypatch.setattr)
    wanted = order(f"FROM {own_base.NAME}")
    page, wheel = "/one/", "/one/one-1.0-py3-none-any.whl"
    files = {page: f'<a href="{wheel}">one-1.0-py3-none-any.whl</a>'.encode(), wheel: _wheel("one")}
    places: list[str] = []
    with (
        _server(files, f"user:{PASSWORD}", lambda: places.extend(_places(own.data_dir))) as port,
        capture_logs() as logs,
    ):
        monkeypatch.setenv("PIP_INDEX_URL", f"http://user:{PASSWORD}@127.0.0.1:{port}/")
        error = own.error(wanted)
    assert error == (
        f"base image {own_base.NAME} could not be made: the index of Python packages gave another "
        "wheel than is locked"
    )
    told = json.dumps([logs, own.ledger.texts(wanted.build_id)], default=str)
    assert "one==1.0" in told
    assert PASSWORD not in told
    assert places == ["looked", "looked"]
    assert own.leftovers() == NOTHING


def _places(data_dir: Path) -> Iterator[str]:
    """Yield where the password is, and that somebody looked."""
    yield "looked"
    found = subprocess.run(["grep", "-rl", PASSWORD, data_dir], capture_output=True, text=True)
    yield from found.stdout.split()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if PASSWORD in file.read_text():
                yield str(file)
        except OSError:
            continue


def test_packages_are_signed_by_debian(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that gives a release of its own making, of another than the host's, is refused."""
    path = "/debian/dists/trixie/Release"
    release = b"Suite: trixie\nCodename: trixie\nComponents: main\nArchitectures: amd64\n"
    apt = tmp_path / "apt"
    apt.mkdir()
    asked: list[str] = []
    with _server({path: release}, None, lambda: asked.append(path)) as port:
        host = platform.freedesktop_os_release()["VERSION_CODENAME"]
        (apt / "sources.list").write_text(f"deb http://127.0.0.1:{port}/debian {host} main\n")
        monkeypatch.setattr(bases, "APT", apt)
        error = Bench(tmp_path / "data", bench.netns).error(order("FROM cakework/node:24"))
    assert asked == [path]
    assert error.startswith("base image cakework/debian:13 could not be made: ")
    assert "signed" in error


def test_a_kill_leaves_nothing_half_made(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that comes back has what was whole, nothing of what was not, and makes it."""
    own = Bench(tmp_path / "data", bench.netns)
    store = LayerStore(own.settings().node_dir / "builds" / "bases")
    wanted = order(f"FROM {own_base.NAME}\nRUN cat /made")
    with gate("/proc/self/ns/net") as shut:
        script = f'echo made >"$1/made"; busybox {shut.step}'
        scripts = own_base.write_scripts(tmp_path / "scripts", script)
        with _node(own, tmp_path, wanted, scripts) as process:
            _wait(lambda: list(store.storage.glob("overlay/*/diff/made")) != [], process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        _wait(lambda: not own.leftovers()["processes"])
        assert store.has_containers()
        shut.open()
        own_base.use(scripts, monkeypatch.setattr)
        own.image(wanted)
    texts = own.ledger.texts(wanted.build_id)
    assert "made" in texts
    assert [text for text in texts if text.startswith(f"making base image {own_base.NAME}: ")]
    assert not [text for text in texts if text.startswith("making base image cakework/busybox: ")]
    assert own.leftovers() == NOTHING
    assert not store.has_unused_layers()


@contextmanager
def _node(
    own: Bench, folder: Path, wanted: BuildOrder, scripts: Path
) -> Generator[subprocess.Popen[bytes]]:
    """Run builds in a process of their own, with a base image of our own."""
    (folder / "orders").write_text(wanted.model_dump_json() + "\n")
    module = ("-m", own_base.__name__)
    files = (scripts, own.data_dir, own.netns, folder / "orders", folder / "facts")
    with subprocess.Popen([sys.executable, *module, *map(str, files)], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait(reached: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def _server(
    files: Mapping[str, bytes], credentials: str | None, asked: Callable[[], None]
) -> Generator[int]:
    """Serve files on a port of this host's; call ``asked`` before each."""
    wanted = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            if self.headers["Authorization"] != wanted:
                self.send_error(401)
            elif content is None:
                self.send_error(404)
            else:
                asked()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _wheel(name: str) -> bytes:
    """Return a package of one empty module."""
    info = f"{name}-1.0.dist-info"
    content = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*content, f"{info}/RECORD"))
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return file.getvalue()
