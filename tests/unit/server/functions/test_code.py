"""Code of strangers on its way in: what is no code, or too much of it, is refused and told why."""

import gzip
import io
import itertools
import secrets
import tarfile
from collections.abc import Callable
from typing import Literal

import pytest

from cakework.domain.errors import CakeworkError, InvalidRequest, TooLarge
from cakework.domain.functions import Runtime
from cakework.server.api.forms import read_form
from cakework.server.functions import archives
from cakework.server.functions.archives import files_of
from cakework.server.functions.dependencies import layer_of
from cakework.server.functions.intake import with_lock
from cakework.server.functions.sources import pack, source_of

MIB = 1 << 20
Member = tuple[str, bytes] | tuple[str, bytes, bytes]


def tar(*members: Member, mode: Literal["w", "w:gz"] = "w:gz") -> bytes:
    """Return an archive of members: name, content, and what kind they are where that is no file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name, content, *kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.linkname = len(content), "/etc/passwd"
            info.type = kind[0] if kind else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def liar() -> bytes:
    """Return a tar whose file says that it has a gigabyte."""
    info = tarfile.TarInfo("a")
    info.size = 1 << 30
    return info.tobuf() + bytes(1024)


def bomb(size: int) -> bytes:
    """Return a tar.gz of a file of zeros, in a folder that is passed over."""
    info = tarfile.TarInfo("node_modules/zeros")
    info.size = size
    made = io.BytesIO()
    with gzip.open(made, "wb", compresslevel=1) as packed:
        packed.write(info.tobuf())
        for _ in range(size // MIB):
            packed.write(bytes(MIB))
        packed.write(bytes(1024))
    return made.getvalue()


def header(name: str, kind: bytes, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def told(kind: bytes, *records: str) -> bytes:
    """Return attributes for what follows in a tar: of it, or of all."""
    body = b""
    for record in records:
        size = len(record) + 2
        while len(f"{size} {record}\n") != size:
            size += 1
        body += f"{size} {record}\n".encode()
    return header("attributes", kind, len(body)) + body + bytes(-len(body) % 512)


def sparse(*records: str) -> bytes:
    """Return a tar of a file that has, as it says, a million holes."""
    holes = b"1000000\n" + b"0\n" * 2_000_000
    head = told(tarfile.XHDTYPE, "GNU.sparse.name=main.py", "GNU.sparse.realsize=1", *records)
    return gzip.compress(head + header("main.py", tarfile.REGTYPE, len(holes)) + holes, 1)


def negative() -> bytes:
    """Return a tar whose file has less than nothing."""
    made = bytearray(header("main.py", tarfile.REGTYPE))
    made[124:136] = b"\xff" * 11 + b"\x00"
    made[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(made))[0]  # type: ignore[attr-defined]
    return bytes(made) + bytes(1024)


def test_files_of_an_archive() -> None:
    """As tar packs a folder, with what is no code left out, compressed or not."""
    members: tuple[Member, ...] = (
        ("./", b"", tarfile.DIRTYPE),
        ("./main.py", b"1"),
        ("./lib/\u00e4 b.py", b"\0\xff"),
        ("./node_modules/x/index.js", b"2"),
        ("./lib/__pycache__/a.pyc", b"3"),
        (".git/config", b"4"),
    )
    wanted = [("main.py", b"1"), ("lib/\u00e4 b.py", b"\0\xff")]
    assert files_of(tar(*members)) == files_of(tar(*members, mode="w")) == wanted
    assert files_of(tar(*members), "lib") == [("\u00e4 b.py", b"\0\xff")]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: b"", "cannot be read"),
        (lambda: b"PK\3\4" + bytes(600), "cannot be read"),
        (lambda: bytes(range(256)) * 40, "cannot be read"),
        (lambda: tar(("a", b"x" * 4000))[:-40], "cannot be read"),
        (lambda: liar(), "larger than 20 MiB"),
        (lambda: tar(("../a", b"")), "leads out"),
        (lambda: tar(("a/../../b", b"")), "leads out"),
        (lambda: tar(("/etc/passwd", b"")), "leads out"),
        (lambda: tar(("a", b"", tarfile.SYMTYPE)), "a symbolic link"),
        (lambda: tar(("a", b"", tarfile.LNKTYPE)), "a hard link"),
        (lambda: tar(("a", b"", tarfile.CHRTYPE)), "a device"),
        (lambda: tar(("a", b"", tarfile.FIFOTYPE)), "a pipe"),
        (lambda: tar(("a" * 70_000, b"")), "too long"),
        (lambda: told(tarfile.XHDTYPE, "a=b") * 2000, "too long"),
        (lambda: told(tarfile.XGLTYPE, "a=b") * 2000, "too long"),
        (lambda: sparse("GNU.sparse.major=1", "GNU.sparse.minor=0"), "holes"),
        (lambda: sparse("GNU.sparse.map=0,1"), "holes"),
        (lambda: sparse("GNU.sparse.size=1"), "holes"),
        (lambda: header("main.py", tarfile.GNUTYPE_SPARSE) + bytes(1024), "holes"),
        (negative, "holes"),
        (lambda: tar(*((f"f{n}", b"") for n in range(1001))), "more than 1000 files"),
        (lambda: tar(("a", bytes(21 * MIB))), "larger than 20 MiB"),
    ],
    ids=itertools.count(),
)
def test_archives_that_are_refused(make: Callable[[], bytes], why: str) -> None:
    with pytest.raises(CakeworkError) as refused:
        files_of(make())
    assert isinstance(refused.value, InvalidRequest | TooLarge)
    assert why in refused.value.detail


def test_attributes_for_all_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries follow them; and so much of them is read, and no more."""
    looked = 0
    apply = tarfile.TarInfo._apply_pax_info  # type: ignore[attr-defined]

    def counted(self: tarfile.TarInfo, headers: dict[str, str], *more: str) -> None:
        nonlocal looked
        looked += len(headers)
        apply(self, headers, *more)

    monkeypatch.setattr(tarfile.TarInfo, "_apply_pax_info", counted)
    of_all = told(tarfile.XGLTYPE, *(f"a{number}=" for number in range(100)))
    folders = header("folder", tarfile.DIRTYPE) * 50
    assert files_of(of_all + folders + header("a", tarfile.REGTYPE) + bytes(1024)) == [("a", b"")]
    assert looked == 100
    monkeypatch.setattr(archives, "_TOLD_IN_ALL_BYTES_MAX", 3000)
    with pytest.raises(InvalidRequest, match="too long"):
        files_of((of_all + header("folder", tarfile.DIRTYPE)) * 9 + bytes(1024))


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one of bytes, nor one of entries, also where they are passed over."""
    monkeypatch.setattr(archives, "UNPACKED_BYTES_MAX", 8 * MIB)
    monkeypatch.setattr(archives, "MEMBERS_MAX", 100)
    with pytest.raises(TooLarge, match="More than 8 MiB"):
        files_of(bomb(16 * MIB))
    assert files_of(bomb(4 * MIB)) == []
    with pytest.raises(TooLarge, match="more than 100 entries"):
        files_of(tar(*((f".git/{n}", b"") for n in range(101))))


def one(path: str) -> Callable[[], object]:
    return lambda: source_of([("main.py", b""), (path, b"")])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: source_of([]), "no files"),
        (one("../a"), "must not have .."),
        (one("/etc/passwd"), "relative"),
        (one("a\0b"), "NUL"),
        (one("a//b"), "plain form"),
        (one("main.py"), "given twice"),
        (one("main.py/a"), "both a file and a folder"),
        (one("Main.py"), "upper and lower case"),
        (one("x" * 300), "255 bytes"),
        (lambda: source_of((f"f{n}", b"") for n in range(1001)), "1001 files"),
        (lambda: source_of([("a", bytes(11 * MIB))]), "11 MiB"),
    ],
    ids=itertools.count(),
)
def test_sources_that_are_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(CakeworkError) as refused:
        make()
    assert isinstance(refused.value, InvalidRequest | TooLarge)
    assert why in refused.value.detail


def test_code_counts_whatever_it_is_made_of() -> None:
    """What is kept of it is no more: of names without end, too, and of a row."""
    names = ["/".join(secrets.token_hex(100) for _ in range(6)) for _ in range(100)]
    source = source_of([(name, b"") for name in names])
    assert source.bytes >= len(pack(source))
    least = source_of([("a", b"")])
    assert least.bytes >= len(pack(least))


def layer(runtime: Runtime, **files: str | bytes) -> str:
    """Return the Dockerfile of the layer that files need: their names with _ for the dot."""
    named = {name.replace("__", "-").replace("_", "."): said for name, said in files.items()}
    content = {name: s.encode() if isinstance(s, str) else s for name, s in named.items()}
    return layer_of(runtime, source_of({"main.py": b"", **content}.items()), {}).dockerfile


@pytest.mark.parametrize(
    "text",
    [
        "requests",
        "requests==2.32.3 --hash=sha256:00 \\\n    --hash=sha256:11\n",
        "# a comment\n\nuvicorn[standard]>=0.30,<1 ; python_version >= '3.11'  # another\n",
        "--index-url https://packages.example.com/simple\n--pre\nours\n",
        "ours @ https://example.com/ours-1.0-py3-none-any.whl\n",
        "git+https://example.com/a/b.git@v1\n",
    ],
    ids=itertools.count(),
)
def test_requirements_that_are_taken(text: str) -> None:
    assert "uv pip install" in layer(Runtime.PYTHON_313, requirements_txt=text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("requests\n-e .\n", "line 2 has the option -e"),
        ("--editable ../x", "--editable"),
        ("-r other.txt", "the option -r"),
        ("-c /etc/passwd", "the option -c"),
        ("--find-links file:///var/cache", "--find-links"),
        ("-f /", "the option -f"),
        ("--index-url file:///srv/simple", "other than https"),
        ("-i=ftp://example.com", "other than https"),
        ("--trusted-host x", "--trusted-host"),
        ("a \\\n --config-settings=x=y", "line 1 has the option --config-settings"),
        ("a @ file:///etc/passwd", "no https"),
        ("file:///etc/passwd", "no https"),
        ("ssh://git@example.com/a", "no https"),
        ("./wheel.whl", "no requirement"),
        ("../../x", "no requirement"),
        ("/etc/passwd", "no requirement"),
        ("$(id)", "no requirement"),
        ("a; rm -rf /", "the option -rf"),
        (b"\xff\xfe\0", "not text"),
        ("a\0b", "NUL"),
    ],
    ids=itertools.count(),
)
def test_requirements_that_are_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        layer(Runtime.PYTHON_313, requirements_txt=text)
    assert why in refused.value.detail


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"package_json": "{"}, "not JSON"),
        ({"package_json": "[]"}, "no object"),
        ({"package_json": "[" * 100_000}, "not JSON"),
        ({"package_json": '{"dependencies": []}'}, "no object"),
        ({"package_json": '{"dependencies": {"a": "file:../../etc"}}'}, "not with it"),
        ({"package_json": '{"devDependencies": {"a": "link:/etc"}}'}, "not with it"),
        ({"package_json": '{"dependencies": {"a": "/etc"}}'}, "not with it"),
        ({"package_json": '{"dependencies": {"a": 1}}'}, "not with it"),
        ({"package_json": "{}", "package__lock_json": "no"}, "not JSON"),
        ({"package__lock_json": "{}"}, "no package.json"),
    ],
    ids=itertools.count(),
)
def test_packages_that_are_refused(files: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        layer(Runtime.NODE_24, **files)
    assert why in refused.value.detail


def test_what_packages_say_is_no_command() -> None:
    """Scripts are not run, and nothing of what a file says is in a command."""
    said = '{"scripts": {"postinstall": "id"}, "dependencies": {"a": "git+https://x.example/a"}}'
    dockerfile = layer(Runtime.NODE_24, package_json=said)
    assert "--ignore-scripts" in dockerfile
    assert "postinstall" not in dockerfile
    assert "x.example" not in dockerfile


@pytest.mark.parametrize(
    "lock", ["", "version = ", "nothing = 1", "{", "\0"], ids=itertools.count()
)
def test_a_lock_that_is_none(lock: str) -> None:
    files = {"main.py": b"", "pyproject.toml": b"[project]", "package.json": b"{}"}
    source = source_of(files.items())
    for runtime in (Runtime.PYTHON_313, Runtime.NODE_24):
        with pytest.raises(InvalidRequest, match="is not what a"):
            with_lock(source, runtime, lock)
    with pytest.raises(InvalidRequest, match=r"has no pyproject\.toml"):
        with_lock(source_of([("main.py", b"")]), Runtime.PYTHON_313, "version = 1")
    locked = with_lock(source, Runtime.NODE_24, '{"lockfileVersion": 3}')
    assert locked.files["package-lock.json"] == b'{"lockfileVersion": 3}'


def test_what_is_not_locked_is_installed_anew_for_a_day() -> None:
    source = source_of([("main.py", b""), ("requirements.txt", b"requests")])
    layers = [layer_of(Runtime.PYTHON_313, source, {}, day) for day in (None, "d1", "d1", "d2")]
    assert layers[1].digest == layers[2].digest
    assert len({each.digest for each in layers}) == 3
    locked = source_of([("main.py", b""), ("pyproject.toml", b""), ("uv.lock", b"version = 1")])
    today, ever = (layer_of(Runtime.PYTHON_313, locked, {}, day) for day in ("d1", None))
    assert today == ever


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


def test_a_form() -> None:
    """Its archive is bytes, also with what looks like a boundary in it."""
    archive = bytes(range(256)) + b"\r\n--a\r\n\r\n --b--"
    body = PART % (b"entry", "m\u00e4in.py".encode()) + PART % (b"promote", b"false")
    body += (
        b'--b\r\nContent-Type: application/gzip\r\ncontent-disposition: form-data; name="archive"; '
        b'filename="a.tgz"\r\n\r\n' + archive + b"\r\n--b--\r\n"
    )
    form = read_form('multipart/form-data; boundary="b"', body, ("promote",))
    assert form.fields == {"entry": "m\u00e4in.py", "promote": False}
    assert form.archive == archive


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", PART % (b"a", b"")),
        (f"multipart/form-data; boundary={'b' * 71}", PART % (b"a", b"")),
        (FORM, b""),
        (FORM, b"{}"),
        (FORM, PART % (b"a", b"x")),
        (FORM, b"--b\r\n\r\nx\r\n--b--"),
        (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"),
        (FORM, (PART % (b"a", b"")) * 2 + b"--b--"),
        (FORM, (PART % (b"archive", b"")) * 2 + b"--b--"),
        (FORM, b"".join(PART % (b"%d" % n, b"") for n in range(30)) + b"--b--"),
        (FORM, PART % (b"a", bytes(70_000)) + b"--b--"),
        (FORM, PART % (b"a", b"\xff") + b"--b--"),
        (FORM, PART % (b"promote", b"yes") + b"--b--"),
        (FORM, b"--b\r\nX: " + b"x" * 5000 + b"\r\n\r\n\r\n--b--"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_form(kind: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_form(kind, body, ("promote",))
