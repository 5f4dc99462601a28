"""Builds from a real git server over HTTPS, with a token."""

import asyncio
import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.errors import InvalidRequest
from cakework.domain.facts import BuildFailed, BuildSucceeded
from cakework.domain.ids import new_build_id, new_image_id
from cakework.domain.orders import BuildOrder, CodeOrder, GithubSource
from cakework.node.builds.context import MTIME_S
from cakework.node.images import Image
from cakework.server.functions.archives import files_of
from tests.integration.node.build_bench import ACCOUNT, NOTHING, Bench, mounted
from tests.integration.node.repositories import (
    NO_RIGHT,
    PUBLIC,
    TOKEN,
    GitServer,
    Link,
    Submodule,
    git,
    serving,
)
from tests.integration.ports import reserved_port

APP = "FROM cakework/busybox\nCOPY . /app\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with serving(tmp_path_factory.mktemp("git")) as server:
        server.make("team/app", {"run.sh": "#!/bin/sh\n", "lib/a": "1"})
        yield server


def order(repository: str, *, token: str = TOKEN, **fields: Any) -> BuildOrder:
    """Return an order for ``repository``, with new ids."""
    branch = fields.pop("branch", "main")
    return BuildOrder(
        account_id=ACCOUNT,
        build_id=new_build_id(),
        image_id=new_image_id(),
        dockerfile=fields.pop("dockerfile", APP),
        source=GithubSource(repository=repository, branch=branch, token=token),
        **fields,
    )


def settings(host: GitServer, **changes: Any) -> dict[str, Any]:
    """Return the settings of a node that builds from ``host``."""
    return {
        "github_url": host.url,
        "fetch_allow": [host.address],
        "extra_ca": host.ca,
        **changes,
    }


@contextlib.contextmanager
def app_of(image: Image, tmp_path: Path) -> Generator[Path]:
    """Give the folder /app of an image."""
    with mounted(image, tmp_path / image.image_id) as root:
        yield root / "app"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def built(bench: Bench, host: GitServer, wanted: BuildOrder, tmp_path: Path) -> set[str]:
    """Build, and return the names of what is in /app then."""
    with app_of(bench.image(wanted, **settings(host)), tmp_path) as app:
        return names(app)


def test_a_branch_is_built_as_it_is(bench: Bench, host: GitServer, tmp_path: Path) -> None:
    """Files, modes and links of the branch, without .git; the order's Dockerfile counts. The log
    says what was cloned, and equal commits hit the layer cache."""
    files = {
        "Dockerfile": "FROM nowhere\n",
        "run.sh": "#!/bin/sh\n",
        "lib/ä b": b"\0\xff",
        "inside": Link("lib/ä b"),
        "outside": Link("/etc/passwd"),
    }
    host.make("team/whole", {"old": ""}, "main")
    commit = host.make("team/whole", files, "feature/one")
    git("-C", str(host.folder / "team/whole.git"), "tag", "feature/one", "main")
    wanted = order("team/whole", branch="feature/one")
    with app_of(bench.image(wanted, **settings(host)), tmp_path) as app:
        assert names(app) == {*files, "lib"}
        assert (app / "lib/ä b").read_bytes() == b"\0\xff"
        assert stat.S_IMODE((app / "run.sh").stat().st_mode) == 0o755
        assert stat.S_IMODE((app / "Dockerfile").stat().st_mode) == 0o644
        assert (app / "inside").readlink() == Path("lib/ä b")
        assert (app / "outside").readlink() == Path("/etc/passwd")
        assert {path.lstat().st_mtime for path in app.rglob("*")} == {MTIME_S}
    texts = bench.ledger.texts(wanted.build_id)
    assert texts[:2] == [
        f"cloning team/whole, branch feature/one, of {host.url}",
        f"commit {commit[:12]}, 5 files",
    ]
    again = order("team/whole", branch="feature/one")
    bench.image(again, **settings(host))
    assert any("Using cache" in text for text in bench.ledger.texts(again.build_id))
    assert bench.leftovers() == NOTHING


def test_links_lead_nowhere_outside(bench: Bench, host: GitServer) -> None:
    """What a link outside the repository points to is not to be had by copying the link."""
    host.make("team/links", {"leak": Link("/etc/passwd"), "up": Link("../Dockerfile")})
    for name in ("leak", "up"):
        dockerfile = f"FROM cakework/busybox\nCOPY {name} /copied\n"
        error = bench.error(order("team/links", dockerfile=dockerfile), **settings(host))
        # Now and then buildah says of it only that a pipe of its own broke.
        assert error.startswith(f"step “COPY {name} /copied” failed: reading")


def test_whose_dockerignore_counts(bench: Bench, host: GitServer, tmp_path: Path) -> None:
    """The order's if it has one, an empty one too; else the repository's, unless it is a link."""
    host.make("team/ignores", {".dockerignore": "*.md\n", "a.md": "", "b.txt": ""})
    for dockerignore, left_out in ((None, "a.md"), ("*.txt\n", "b.txt"), ("", "")):
        wanted = order("team/ignores", dockerignore=dockerignore)
        found = built(bench, host, wanted, tmp_path)
        assert found == {".dockerignore", "a.md", "b.txt"} - {left_out}
    host.make("team/ignores", {".dockerignore": Link("/etc/passwd"), "a.md": ""})
    wanted = order("team/ignores")
    assert built(bench, host, wanted, tmp_path) == {".dockerignore", "a.md"}
    told = ".dockerignore is a link, which is not followed: nothing is ignored"
    assert told in bench.ledger.texts(wanted.build_id)


def test_submodules_and_large_files_are_named(
    bench: Bench, host: GitServer, tmp_path: Path
) -> None:
    """Neither is fetched, and the log says which; files that only look like it are not named."""
    files = {
        ".gitmodules": '[submodule "a"]\n\tpath = libs/a\n\turl = https://127.0.0.1:1/x\n',
        ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
        "libs/a": Submodule(),
        "plain.bin": "not a pointer",
        "pointer.txt": LFS,
        "endless.bin": Link("/dev/zero"),
        **{f"{number}.bin": LFS for number in range(7)},
    }
    host.make("team/modules", files)
    wanted = order("team/modules")
    assert "0.bin" in built(bench, host, wanted, tmp_path)
    texts = bench.ledger.texts(wanted.build_id)
    assert "submodules are not fetched, their folders are empty: libs/a" in texts
    large = "0.bin, 1.bin, 2.bin, 3.bin, 4.bin and 2 more"
    assert f"files in Git LFS are not fetched, only pointers: {large}" in texts


def test_a_public_repository_needs_no_token(bench: Bench, host: GitServer, tmp_path: Path) -> None:
    """An empty token is for what everybody may read."""
    host.make(PUBLIC, {"a": ""})
    assert built(bench, host, order(PUBLIC, token=""), tmp_path) == {"a"}


GONE = "it is not there, or the token has no right to see it"


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (order("team/app", token="ghp_wrong"), "cannot be cloned: {host} does not take the token"),
        (
            order("team/app", token=""),
            "cannot be cloned: it is not there, or it is private and needs a token",
        ),
        (
            order("team/app", token=NO_RIGHT),
            "cannot be cloned: the token has no right to read it",
        ),
        (order("team/none"), f"cannot be cloned: {GONE}"),
        (order("team/app", branch="gone"), "has no branch gone"),
        (order("team/empty"), "is empty: it has no branch"),
        (order("team/large"), "is larger than 1 MB"),
        (order("team/packed"), "is larger than 1 MB"),
    ],
    ids=["wrong", "none", "right", "repository", "branch", "empty", "large", "packed"],
)
def test_what_cannot_be_cloned(
    bench: Bench, host: GitServer, wanted: BuildOrder, error: str
) -> None:
    """The build fails, in words for people; nothing is left of it."""
    host.make("team/empty", None)
    host.make("team/large", {"noise": os.urandom(3 << 20)})
    host.make("team/packed", {f"many{number}": b"x" * (1 << 19) for number in range(8)})
    assert isinstance(wanted.source, GithubSource)
    told = f"{wanted.source.repository} {error.format(host=host.address)}"
    assert bench.error(wanted, **settings(host, repository_size_mb=1)) == told
    assert bench.leftovers() == NOTHING


def test_a_host_that_cannot_be_reached(bench: Bench, host: GitServer) -> None:
    """No listener, an address that no setting allows, a certificate that nobody vouches for."""
    with reserved_port() as port:
        closed = f"127.0.0.1:{port}"
        here = f"https://{closed}"
        away = "does not answer, or is no address that may be reached"
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            # What is allowed is relayed, so that somebody listens, and hangs up.
            (
                {"github_url": here, "fetch_allow": [closed]},
                f"{closed} does not answer, or speaks no TLS",
            ),
            ({"github_url": here, "fetch_allow": []}, f"{closed} {away}"),
            ({"fetch_allow": []}, f"{host.address} {away}"),
            ({"extra_ca": None}, f"{host.address} shows a certificate that is not trusted"),
            (
                {"github_url": "https://git.example.invalid"},
                "git.example.invalid has no address that may be reached",
            ),
        )
        for changes, why in cases:
            told = bench.error(order("team/app"), **settings(host, **changes))
            assert told == f"team/app cannot be cloned: {why}"


def test_redirects(
    bench: Bench, host: GitServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A repository that was renamed is found; to another host no token goes along."""
    host.redirects["team/renamed"] = "/team/app.git"
    assert "lib/a" in built(bench, host, order("team/renamed"), tmp_path)
    with serving(tmp_path_factory.mktemp("elsewhere")) as elsewhere:
        elsewhere.make("team/app", {"a": ""})
        host.redirects["team/elsewhere"] = f"{elsewhere.url}/team/app.git"
        both = tmp_path / "both.pem"
        both.write_bytes(host.ca.read_bytes() + elsewhere.ca.read_bytes())
        changes = {"extra_ca": both, "fetch_allow": [host.address, elsewhere.address]}
        error = bench.error(order("team/elsewhere"), **settings(host, **changes))
        assert "needs a token" in error
        assert elsewhere.requests
        assert not any(with_token for _, with_token in elsewhere.requests)


def test_a_clone_that_takes_too_long(bench: Bench, host: GitServer) -> None:
    """It is ended, and the build says so."""
    host.may_answer.clear()
    try:
        error = bench.error(order("team/app"), **settings(host, build_timeout_s=3))
    finally:
        host.may_answer.set()
    assert error == "team/app: cloning it took longer than 2 s"
    assert bench.leftovers() == NOTHING


def test_the_token_is_nowhere(
    bench: Bench, host: GitServer, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """While git has it and after: in no command line, environment, file, layer, image or fact."""
    wanted = order("team/app", dockerfile=APP + "RUN env; cat /proc/*/environ\n")
    host.may_answer.clear()
    host.asked_for_pack.clear()

    async def run() -> None:
        async with bench.open(**settings(host)) as builds:
            await builds.submit(wanted)
            asked = await asyncio.to_thread(host.asked_for_pack.wait, 60)
            assert asked
            assert any("remote-https" in command for command in commands())
            assert processes_with(TOKEN) == []
            assert files_with(bench.data_dir, TOKEN) == []
            host.may_answer.set()
            assert isinstance(await bench.ledger.ended(wanted.build_id), BuildSucceeded)

    try:
        asyncio.run(run())
    finally:
        host.may_answer.set()
    assert files_with(bench.data_dir, TOKEN) == []
    assert not any(TOKEN in fact.model_dump_json() for fact in bench.ledger.facts)
    image = bench.images().get(wanted.image_id)
    assert image is not None
    with mounted(image, tmp_path / "rootfs") as root:
        assert files_with(root, TOKEN) == []
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err + repr(wanted)
    assert "build_ended" in printed.out + printed.err


def test_a_build_whose_token_went_with_the_node_waits_for_its_order(
    bench: Bench, host: GitServer
) -> None:
    """It says so, begins nothing, and goes on when the order comes again; or it is cancelled."""
    host.may_answer.clear()
    first, second = order("team/app"), order("team/app")

    async def run() -> None:
        async with bench.open(**settings(host)) as builds:
            await builds.submit(first)
            await builds.submit(second)
            assert [report.wants_order for report in builds.reports()] == [False, False]
        host.may_answer.set()
        async with bench.open(**settings(host)) as builds:
            assert {report.build_id for report in builds.reports() if report.wants_order} == {
                first.build_id,
                second.build_id,
            }
            await builds.cancel(second.build_id)
            end = bench.ledger.end(second.build_id)
            assert isinstance(end, BuildFailed)
            assert end.error == "the build was cancelled"
            assert bench.ledger.lines(first.build_id) == []
            await builds.submit(first)
            assert [report.wants_order for report in builds.reports()] == [False]
            assert isinstance(await bench.ledger.ended(first.build_id), BuildSucceeded)
            await builds.submit(first)
            await builds.submit(second)
            assert second.build_id not in builds.known()
            assert (
                len([fact for fact in bench.ledger.facts if isinstance(fact, BuildSucceeded)]) == 1
            )

    try:
        asyncio.run(run())
    finally:
        host.may_answer.set()
    assert bench.leftovers() == NOTHING


def commands() -> list[str]:
    """Return the command lines of all processes."""
    return [part for part in _of_processes("cmdline") if part]


def processes_with(mark: str) -> list[str]:
    """Return what of all processes, those in sandboxes too, shows ``mark`` to others."""
    parts = [*_of_processes("cmdline"), *_of_processes("environ")]
    return [part for part in parts if mark in part]


def _of_processes(name: str) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (process / name).read_bytes().decode(errors="replace")


def files_with(folder: Path, mark: str) -> list[str]:
    """Return the files below ``folder`` that have ``mark`` in them."""
    found = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "-e", mark, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.splitlines()


def test_no_credential_leaves_the_order_on_disk(bench: Bench, host: GitServer) -> None:
    """What a node remembers of an order says that there is a token, and not which."""
    wanted = order("team/app")
    host.may_answer.clear()

    async def run() -> dict[str, Any]:
        async with bench.open(**settings(host)) as builds:
            await builds.submit(wanted)
            record = bench.settings().node_dir / "builds/records" / wanted.build_id
            kept = json.loads((record / "order.json").read_text())
            await builds.cancel(wanted.build_id)
            return kept

    try:
        kept = asyncio.run(run())
    finally:
        host.may_answer.set()
    assert kept["source"]["token"] == ""
    assert BuildOrder.model_validate(kept) == wanted.with_token("")


def code_of(
    bench: Bench, host: GitServer, repository: str, *, token: str = TOKEN, branch: str = "main"
) -> bytes:
    """Fetch code, of which no image is made."""
    source = GithubSource(repository=repository, branch=branch, token=token)

    async def run() -> bytes:
        async with bench.open(**settings(host)) as builds:
            return await builds.code(CodeOrder(account_id=ACCOUNT, source=source))

    return asyncio.run(run())


def test_code_of_a_branch_is_handed_over(bench: Bench, host: GitServer) -> None:
    """With what is in a folder of it alone, if so asked; links are passed over, wherever they
    lead, and nothing stays on the node."""
    files = {"main.py": "1", "lib/a.py": "2", "up": Link("/etc/passwd"), "etc": Link("/etc")}
    host.make("team/code", files)
    archive = code_of(bench, host, "team/code")
    assert sorted(files_of(archive, links=True)) == [("lib/a.py", b"2"), ("main.py", b"1")]
    assert files_of(archive, "lib", links=True) == [("a.py", b"2")]
    assert files_of(archive, "etc", links=True) == []
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize(
    ("repository", "token", "branch", "why"),
    [
        ("team/app", NO_RIGHT, "main", "the token has no right"),
        ("team/app", TOKEN, "other", "has no branch other"),
        ("team/nothing", TOKEN, "main", "it is not there"),
    ],
    ids=("no right", "no branch", "no repository"),
)
def test_code_that_is_not_to_be_had_is_refused_with_the_reason(
    bench: Bench, host: GitServer, repository: str, token: str, branch: str, why: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        code_of(bench, host, repository, token=token, branch=branch)
    assert why in refused.value.detail
    assert TOKEN not in refused.value.detail
    assert bench.leftovers() == NOTHING
