"""What an order gives: an image, its log, or a reason."""

import asyncio
import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cakework.domain.facts import BuildFailed, BuildSucceeded
from cakework.node.builds.layers import LayerStore
from cakework.node.builds.storage import BuildStorage
from cakework.node.cgroups import Cgroup, NotEnded
from tests.integration.node import own_base
from tests.integration.node.build_bench import NOTHING, Bench, mounted, order
from tests.integration.node.gates import Gate, gate

SERVICE = """\
FROM cakework/busybox
WORKDIR /srv
ENV GREETING=hello
COPY . .
RUN echo app:x:1234:1234::/srv:/bin/sh >>/etc/passwd && chown app run.sh && echo built on stderr >&2
USER app
EXPOSE 8080
ENTRYPOINT ["./run.sh"]
CMD ["world"]
"""


def test_an_image_is_built_from_files(bench: Bench, tmp_path: Path) -> None:
    """The image has the files with their owners and modes, and runs as the Dockerfile says."""
    files = {"run.sh": "#!/bin/sh\necho $GREETING $1\n", "lib/data.bin": bytes(range(256))}
    image = bench.image(order(SERVICE, files))

    assert image.config.argv == ("./run.sh", "world")
    assert "GREETING=hello" in image.config.env
    assert (image.config.cwd, image.config.user) == ("/srv", "app")
    assert image.config.ports == ("8080/tcp",)
    assert image.config.size_bytes == image.rootfs.stat().st_size
    assert image.config.digest.startswith("sha256:")
    with mounted(image, tmp_path / "rootfs") as rootfs:
        script = (rootfs / "srv" / "run.sh").stat()
        assert (script.st_uid, stat.S_IMODE(script.st_mode)) == (1234, 0o755)
        assert (rootfs / "srv/lib/data.bin").read_bytes() == bytes(range(256))
        assert (rootfs / "srv/lib/data.bin").stat().st_uid == 0
        assert (rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_the_log_has_every_line_in_order(bench: Bench) -> None:
    """Lines are numbered from 1 without gaps, each says its stream, and come before the end."""
    command = 'i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo "line $i"; done; echo oops >&2'
    wanted = order(f"FROM cakework/busybox\nRUN {command}")
    bench.image(wanted)

    lines = bench.ledger.lines(wanted.build_id)
    texts = [line.text for line in lines]
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    printed = [line.text for line in lines if line.stream == "stdout"]
    start = printed.index("line 1")
    assert printed[start : start + 50] == [f"line {n}" for n in range(1, 51)]
    assert [line.stream for line in lines if line.text == "oops"] == ["stderr"]
    assert f"STEP 2/2: RUN {command}" in texts
    assert isinstance(bench.ledger.facts[-1], BuildSucceeded)
    assert not [text for text in texts if text.startswith("time=")]


def test_images_are_roots_alone(bench: Bench) -> None:
    """Nobody but root gets at an image; nobody may write to one."""
    image = bench.image(order("FROM cakework/busybox"))
    folder = image.rootfs.parent
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert path.stat().st_uid == os.geteuid()
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


def test_a_second_build_takes_finished_layers(bench: Bench) -> None:
    """The same Dockerfile and files do not run their commands again."""
    dockerfile = "FROM cakework/busybox\nCOPY a a\nRUN cat /proc/sys/kernel/random/uuid"
    bench.image(order(dockerfile, {"a": "same"}))
    second = order(dockerfile, {"a": "same"})
    bench.image(second)
    texts = bench.ledger.texts(second.build_id)
    assert len([text for text in texts if text.startswith("--> Using cache")]) == 2


def test_stages_arguments_and_ignored_files(bench: Bench, tmp_path: Path) -> None:
    """Several stages, ARG in FROM, COPY --from and an ignore file do what they do elsewhere."""
    dockerfile = """\
ARG BASE=busybox
FROM cakework/${BASE} AS made
ARG WORD=default
COPY . /in
RUN ls -A /in > /listing && echo $WORD > /word
FROM cakework/busybox:latest
COPY --from=made /listing /word /
COPY --from=0 /in/kept /kept
"""
    files = {"kept": "yes", "secret.txt": "no", ".dockerignore": "kept\n"}
    image = bench.image(order(dockerfile, files, dockerignore="*.txt\n"))
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "listing").read_text().split() == [".dockerignore", "kept"]
        assert (rootfs / "word").read_text() == "default\n"


def test_the_contexts_own_ignore_file_counts_when_the_order_has_none(
    bench: Bench, tmp_path: Path
) -> None:
    """A .dockerignore among the files is heeded."""
    files = {"kept": "yes", "secret.txt": "no", ".dockerignore": "*.txt\n"}
    image = bench.image(order("FROM cakework/busybox\nCOPY . /in", files))
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert not (rootfs / "in/secret.txt").exists()


def test_the_orders_dockerfile_wins(bench: Bench, tmp_path: Path) -> None:
    """A file named Dockerfile in the context is a file like any other."""
    files = {"Dockerfile": "FROM nowhere/nothing"}
    image = bench.image(order("FROM cakework/busybox\nCOPY Dockerfile /theirs", files))
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "theirs").read_text() == "FROM nowhere/nothing"


def test_times_of_files_are_kept(bench: Bench, tmp_path: Path) -> None:
    """Programs that trust compiled files by the source's time find it unchanged."""
    image = bench.image(order("FROM cakework/busybox\nRUN touch -d '2001-02-03 04:05:06' /old"))
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "old").stat().st_mtime == 981173106


@pytest.mark.parametrize(
    ("dockerfile", "error"),
    [
        ("FROM cakework/busybox\nRUN exit 7", "step “RUN exit 7” failed with exit status 7"),
        ("FROM cakework/busybox\nCOPY nope /", "step “COPY nope /” failed: "),
        ("FROM cakework/busybox\nFROB x", "the Dockerfile does not parse: line 2"),
        ("FROM nowhere.invalid/x", "base image nowhere.invalid/x was not found"),
        ("FROM cakework/nothing", "base image cakework/nothing was not found"),
        (
            "FROM cakework/python:3",
            "base image cakework/python:3 was not found: we make cakework/p",
        ),
        ("FROM cakework/busybox\nCOPY --from=absent /a /b", "base image absent was not found"),
    ],
)
def test_a_failure_says_why(bench: Bench, dockerfile: str, error: str) -> None:
    """The error is one sentence about what is wrong with the build, without our own paths."""
    sentence = bench.error(order(dockerfile))
    assert sentence.startswith(error)
    assert "\n" not in sentence
    assert "/b/" not in sentence
    assert bench.leftovers() == NOTHING


def test_an_order_given_again_does_its_work_once(bench: Bench) -> None:
    """The same build id, while it runs and after it ended, gives one image and one end."""
    wanted = order("FROM cakework/busybox\nRUN echo once")

    async def run() -> int:
        async with bench.open() as builds:
            await builds.submit(wanted)
            await builds.submit(wanted)
            await bench.ledger.ended(wanted.build_id)
            await builds.submit(wanted)
            assert builds.known() in ([], [wanted.build_id])
        async with bench.open() as builds:
            await builds.submit(wanted)
            return len(builds.known())

    assert asyncio.run(run()) == 0
    assert bench.ledger.facts == []


def test_as_many_at_once_as_the_setting_says(bench: Bench) -> None:
    """A second build waits while build_concurrency is one; cancelled, it fails at once."""
    first = order("FROM cakework/busybox\nRUN echo first runs; sleep 1000")
    second = order("FROM cakework/busybox\nRUN echo second runs")

    async def run() -> None:
        async with bench.open(build_concurrency=1) as builds:
            await builds.submit(first)
            await builds.submit(second)
            await bench.ledger.printed(first.build_id, "first runs")
            assert builds.known() == [first.build_id, second.build_id]
            assert bench.ledger.lines(second.build_id) == []
            await builds.cancel(first.build_id)
            assert isinstance(await bench.ledger.ended(second.build_id), BuildSucceeded)

    asyncio.run(run())
    end = bench.ledger.end(first.build_id)
    assert isinstance(end, BuildFailed)
    assert end.error == "the build was cancelled"
    assert bench.leftovers() == NOTHING


def test_a_base_image_is_made_once_for_two_builds(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds that want the same base image at once wait for one making, and both are told."""
    orders = [order(f"FROM {own_base.NAME}\nRUN cat /made; echo {n}") for n in (1, 2)]
    making = f"making base image {own_base.NAME}: "

    async def run(shut: Gate) -> None:
        async with bench.open() as builds:
            for each in orders:
                await builds.submit(each)
            while not all(  # noqa: ASYNC110 - the ledger wakes for one build, not for two
                any(text.startswith(making) for text in bench.ledger.texts(each.build_id))
                for each in orders
            ):
                await asyncio.sleep(0.02)
            shut.open()
            ends = [await bench.ledger.ended(each.build_id) for each in orders]
            assert all(isinstance(end, BuildSucceeded) for end in ends), ends

    with gate("/proc/self/ns/net") as shut, capture_logs() as logs:
        script = f'busybox {shut.step}; echo made >"$1/made"'
        own_base.use(own_base.write_scripts(tmp_path / "scripts", script), monkeypatch.setattr)
        asyncio.run(run(shut))
    assert [each["name"] for each in logs if each["event"] == "base_image_made"][-1:] == ["own-1"]
    assert len([each for each in logs if each.get("name") == "own-1"]) == 1
    assert all("made" in bench.ledger.texts(each.build_id) for each in orders)


def test_an_image_stays_made_when_cleaning_up_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build has succeeded, each clean-up that fails is told, and the next start does it."""

    async def not_ended(cgroup: Cgroup, timeout_s: float = 0) -> None:
        raise NotEnded(cgroup)

    def not_removed(_: object, work_id: str) -> None:
        raise OSError(f"{work_id} stays")

    wanted = order("FROM cakework/busybox\nRUN echo made")

    async def run() -> BuildSucceeded | BuildFailed:
        async with bench.open() as builds:
            with monkeypatch.context() as broken, capture_logs() as logs:
                broken.setattr(Cgroup, "end", not_ended)
                broken.setattr(BuildStorage, "remove_work", not_removed)
                broken.setattr(LayerStore, "containers_of", not_removed)
                await builds.submit(wanted)
                end = await bench.ledger.ended(wanted.build_id)
        told = [each["what"] for each in logs if each["event"] == "cleanup.failed"]
        assert {"cgroup", "containers", "work folder"} <= {*told}
        return end

    assert isinstance(asyncio.run(run()), BuildSucceeded)
    assert bench.images().get(wanted.image_id) is not None
    assert bench.leftovers() != NOTHING
    bench.image(order("FROM cakework/busybox\nRUN echo again"))
    assert bench.leftovers() == NOTHING


def test_layers_are_removed_again_after_it_failed_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps the layers within their bound goes on when it cannot be done once."""
    looks = asyncio.Semaphore(0)
    first = True

    def size_mb(_: LayerStore) -> int:
        nonlocal first
        looks.release()
        if first:
            first = False
            raise OSError("not now")
        return 0

    monkeypatch.setattr(LayerStore, "size_mb", size_mb)

    async def run() -> None:
        async with bench.open() as builds:
            for number in range(2):
                wanted = order(f"FROM cakework/busybox\nRUN echo layer {number}")
                await builds.submit(wanted)
                assert isinstance(await bench.ledger.ended(wanted.build_id), BuildSucceeded)
                await asyncio.wait_for(looks.acquire(), 20)

    asyncio.run(run())
