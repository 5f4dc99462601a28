"""Dockerfiles that nobody would write: none makes our reading of them fail in another way than it
says, or take more than its share of work, and none leads a builder to anything but an image that
was fetched from a registry by its whole name.

What a builder makes of them is read by another reader (:mod:`.a_builder`), which errs where the
builder does.
"""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cakework.domain.dockerfiles import CHARS_MAX, DockerfileError, parse_dockerfile
from cakework.domain.orders import BuildOrder, FilesSource
from cakework.node.builds import container
from cakework.node.builds.builder import input as builder_input
from cakework.node.builds.builder.input import BuilderInput
from cakework.node.builds.container import ContainerBuild
from cakework.node.builds.failure import BuildError
from cakework.node.builds.recipes import recipe_of
from cakework.node.builds.references import mounts_files
from cakework.node.builds.run import bases_of
from cakework.node.builds.sandbox import Confinement
from tests.properties import examples

from .a_builder import NAMES, Broken, images_of

WHOLE = re.compile(
    r"[a-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9._-]+)+(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})"
)
TRANSPORTS = (
    *("docker-archive:x.tar", "oci:/b/storage", "oci-archive:x", "dir:/b", "dir:a,b", "sif:x"),
    *("containers-storage:9", "containers-storage:[overlay@/b/storage+/b/run]9", "tarball:x"),
    *("docker-daemon:app:latest", "ostree:app@/b", "docker:app", "atomic:x"),
)
NOT_WHOLE = ("@sha256:" + "0" * 64, "-v", "APP", "../x", "/b", "a//b", "$x", "https://r.example/a")
HARMLESS = (
    *("scratch", "busybox", "cakework/busybox", "r.example:5000/team/app:1", "one", "0", "9f"),
    *("docker://r.example/a", "r.example/a@sha256:" + "1" * 64),
)
ODD = st.sampled_from(
    [
        "",
        " ",
        "\t",
        "\x1c",
        "\v",
        "\xa0",
        "à",
        "\u2005",
        '"',
        "'",
        "\\",
        "`",
        "#",
        "<<CMD",
        "$",
        "é",
    ]
)
IMAGE = st.sampled_from(TRANSPORTS + NOT_WHOLE + HARMLESS * 3)
VARIABLE = st.sampled_from(["x", "y", "TARGETOS", "1", "xé"])


@st.composite
def references(draw: st.DrawFn) -> str:
    """An image, as it is or in parts, quoted, escaped, by way of variables."""
    image, name = draw(IMAGE), draw(VARIABLE)
    at = draw(st.integers(0, len(image)))
    return draw(
        st.sampled_from(
            [
                *(image, image, image, f'"{image}"', f"'{image}'", f"{image[:at]}\\{image[at:]}"),
                *(f'"{image[:at]}"{image[at:]}', image[:at] + draw(ODD) + image[at:]),
                *(f"${name}", f"${{{name}}}", f"${{{name}:-{image}}}", f"${{{name}:+{image}}}"),
                *(f"${{{name}:+{image}}}${{{name}:-busybox}}", f"busybox${name}"),
            ]
        )
    )


@st.composite
def instructions(draw: st.DrawFn) -> str:
    """One of every kind, with any flags, by any spelling, and perhaps something odd in it."""
    image, name, odd = draw(references()), draw(VARIABLE), draw(ODD)
    name_of = draw(st.sampled_from(sorted(NAMES)))
    words = draw(st.sampled_from(["x", "x y", "[]", '["a", "b"]', "--a=b c d"]))
    flag = draw(st.sampled_from(["--chown=1", '--chown="a b"', "--x", "--", f"--chown={odd}"]))
    gap = draw(st.sampled_from([" ", " ", "\t", " \\\n", " `\n", " \\\n# c\n", odd]))
    mount = draw(st.sampled_from(["type=bind,", '"source=a b",', "source=a\\ b,", ""]))
    text = draw(
        st.sampled_from(
            [
                f"FROM {image}",
                f"FROM {image}",
                f"FROM{gap}--platform={odd}{gap}{image} AS one",
                f"ARG {name}={image}",
                f"ARG {name}",
                f"COPY {flag}{gap}--from={image}{gap}/ /",
                f"ADD --from={image} {flag} / /",
                f"RUN {flag}{gap}--mount={mount}from={image},target=/m true",
                f'RUN --mount="{mount}from={image},target=/m" true',
                f"ONBUILD COPY --from={image} / /",
                f"RUN <<CMD\nFROM {image}\nCMD",
                f"RUN <<-'CMD' cat\nCOPY --from={image} / /\n\tCMD",
                f"{name_of} {words}",
            ]
        )
    )
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(ODD) + text[at:] if draw(st.booleans()) else text


@st.composite
def dockerfiles(draw: st.DrawFn) -> str:
    """Directives, ARGs, stages and the rest, in any order, mostly one that parses."""
    heads = ["", "", "# escape=`\n", "# syntax=x\n# escape=`\n", "# escape=`x\n", "\ufeff"]
    head = draw(st.sampled_from(heads))
    arguments = draw(st.lists(references().map(lambda image: f"ARG x={image}\n"), max_size=2))
    first = draw(
        st.sampled_from(["FROM busybox AS one\n", "FROM $x\n", "FROM ${x}${TARGETOS}\n", ""])
    )
    body = draw(st.lists(instructions(), max_size=5))
    return head + "".join(arguments) + first + draw(st.sampled_from(["\n", "\r\n"])).join(body)


class Shop:
    """What builds share, of which there is nothing but what remembers the commands."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.sandbox = self.network = self.bases = self.limits = self
        self.storage = SimpleNamespace(home=Path("/"), bases=None, policy="/b/etc/policy.json")
        self.image_mb = self.beside_mb = self.spare_mb = 1
        self.wrote_too_much = self.wrote_too_much_beside = ""

    def base_too_large(self, reference: str) -> str:
        return reference

    @contextlib.asynccontextmanager
    async def lease_fetching(self, owner: str) -> AsyncGenerator[str]:
        yield f"network of {owner}"

    async def ensure(self, recipe: object, say: object) -> None:
        pass

    async def run(self, argv: tuple[str, ...], *_: object) -> int:
        self.commands.append(argv)
        return 0

    async def read(self, argv: tuple[str, ...], *_: object) -> tuple[int, str, str]:
        self.commands.append(argv)
        return 0, "", ""


def _no_guard(*_: object) -> contextlib.AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


def _counts_nothing(*_: object) -> SimpleNamespace:
    return SimpleNamespace(begin_another=dict)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A work folder; nothing on a disk is looked at."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (container, builder_input):
            patch.setattr(module, "DiskGuard", _no_guard)
        for name in ("WrittenLayers", "WrittenBeside", "WrittenByCommands"):
            patch.setattr(container, name, _counts_nothing)
        yield tmp_path_factory.mktemp("work")


def commands(dockerfile: str, folder: Path) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return what would be run for a Dockerfile, in containers and for a machine.

    Raises:
        BuildError: it is refused.
    """
    ours, foreign = bases_of(dockerfile)
    order = BuildOrder(
        build_id="b", image_id="i", dockerfile=dockerfile, source=FilesSource(files=[])
    )
    shops = Shop(), Shop()
    confinement = Confinement(folder, folder, cast("Any", SimpleNamespace(oom_kills=int)), 1)

    async def run() -> None:
        build_log = cast("Any", SimpleNamespace(say=print))
        build = ContainerBuild(cast("Any", shops[0]), order, build_log, confinement, cast("Any", 0))
        await build.fetch(ours, foreign)
        await build.build()
        await BuilderInput(cast("Any", shops[1]), order, build_log, confinement).fetch(foreign)

    asyncio.run(run())
    return shops[0].commands, shops[1].commands


@settings(max_examples=examples(400))
@given(dockerfiles())
@example("FROM busybox\nRUN <<CMD\nFROM oci:/b/storage\nCMD\n")
@example('ARG x=busybox\nARG x="oci":/b/storage\nFROM $x\n')
@example("FROM ${TARGETOS:+oci:/b/}${TARGETOS:-busybox}\n")
@example("ARG TARGETOS\nFROM ${TARGETOS:+oci:/b/}${TARGETOS:-busybox}\n")
@example("ARG xé=oci:/b\nFROM $xé\n")
@example("ARG 1=oci:/b/\nARG 1x=busybox\nFROM $1x\n")
@example("FROM busybox\nCOPY --chown=à--from=oci:/b / /\n")
@example("FROM busybox\nCOPY --chown=a\x1cb --from=oci:/b / /\n")
@example("FROM busybox\nCOPY --chown=\\\n\x1c# --from=oci:/b / /\nRUN x y\n")
@example('FROM busybox\nCOPY --chown="a b" --from=oci:/b / /\n')
@example('FROM busybox\nRUN --mount="source=a b,from=oci:/b,target=/m" true\n')
@example('FROM busybox\nRUN --mount=\\"from=dir:a,b\\",target=/m true\n')
@example("FROM busybox AS one\nONBUILD COPY --from=oci:/b / /\nFROM one\n")
@example("# syntax=x\n# escape=`\nFROM busybox\nRUN echo `\nFROM oci:/b\n")
@example("# escape=`x\nFROM busybox\nRUN echo \\\nFROM oci:/b `\n")
@example("FROM dir:a\n")
@example("FROM docker://r.example/a\n")
def test_nothing_but_whole_names_of_registries_gets_through(folder: Path, dockerfile: str) -> None:
    """Each is refused with a reason, or: what is fetched, and all that a builder may then look for,
    are images of registries by their whole names; and of its text nothing is in a command."""
    try:
        ours, foreign = bases_of(dockerfile)
    except BuildError as error:
        assert str(error).startswith(("the Dockerfile does not parse: line ", "base image "))
        return
    in_containers, for_machines = commands(dockerfile, folder)
    *pulls, build = in_containers
    policy = ("--signature-policy", "/b/etc/policy.json")
    assert [pull[:-1] for pull in pulls] == [(*container.PULL, *policy, "--")] * len(foreign)
    fetches = ((command[2], command[3]) for command in for_machines)
    assert [pull[-1] for pull in pulls] == [
        f"docker://{reference}" for reference, _ in fetches if WHOLE.fullmatch(reference)
    ]
    assert len(for_machines) == len(foreign)
    work = f"/b/{folder.name}"
    anew = ("--no-cache",) if mounts_files(dockerfile) else ()
    assert build == (
        *("buildah", "build", "--layers", "--pull=never", "--isolation=rootless"),
        *("--runtime=/b/etc/runtime", "--network=host", f"--volume={work}/sys:/sys:ro"),
        *(f"--iidfile={work}/out/iid", *policy, *anew),
        *(f"--file={work}/Dockerfile", f"{work}/context"),
    )
    try:
        looked_for = list(images_of(dockerfile))
    except Broken:
        return
    for image in looked_for:
        assert is_of_a_registry(image), f"{image!r} of {dockerfile!r}; known: {ours}, {foreign}"


def is_of_a_registry(image: str) -> bool:
    """Say whether a builder takes ``image`` for that of a registry, or finds no sense in it."""
    if recipe_of(image):
        return True
    transport, colon, rest = image.removeprefix("docker://").partition(":")
    named = {each.partition(":")[0] for each in TRANSPORTS}
    return not (colon and rest and transport in named) and "/.." not in image and image != ""


@given(st.text(max_size=200), st.lists(instructions(), max_size=6))
def test_any_text_is_read_or_refused(noise: str, lines: list[str]) -> None:
    """With whatever in it: there are a line and a reason, or instructions."""
    for text in (noise, "\n".join(lines), noise.join(lines)):
        try:
            assert parse_dockerfile(text)
        except DockerfileError as error:
            assert 1 <= error.line <= text.count("\n") + 1
        with contextlib.suppress(BuildError):
            bases_of(text)


REPEATED = (
    *("ARG x=$x$x\n", "ARG x=${x:-a}${x:+$x}\n", "ARG x=$x", " x=$x$x", "FROM $x$x$x$x\n"),
    *(
        "FROM a AS b\n",
        "COPY --from=a / /\n",
        "COPY --a ",
        "RUN --mount=from=a,",
        'RUN --a="',
        "\\\n",
    ),
    *("# escape=`\n", "RUN <<A <<B\nA\nB\n", "RUN <<A", "ONBUILD RUN a\n", "SHELL [", "à--"),
)


@pytest.mark.parametrize("repeated", REPEATED)
@pytest.mark.parametrize("before", ["FROM a\n", "ARG x=a\n", "RUN "])
def test_the_work_grows_with_the_text(before: str, repeated: str) -> None:
    """Twice as long is twice the work, counted in lines of Python: no value becomes the double of
    the one before, and nothing is gone through again for each thing that is found."""
    count = 400
    some = work(before + repeated * count)
    assert work(before + repeated * 2 * count) < 2.5 * some + 1000


def work(dockerfile: str) -> int:
    """Return how many lines of ours were run to read a Dockerfile."""
    assert len(dockerfile) < CHARS_MAX
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if "/cakework/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with contextlib.suppress(BuildError):
            bases_of(dockerfile)
    finally:
        sys.settrace(before)
    return lines


COPY = "COPY --from=oci:/b / /\n"
LABEL = "LABEL a=b \\"
"""What the lines after it would be part of, where it is taken to go on."""


@pytest.mark.parametrize(
    "steps",
    [
        *(f"{LABEL}{space}\n{COPY}" for space in ("\u00a0", "\u2003", "\x85", "\v", "\f", "\r\r")),
        f"{LABEL}\\\n{COPY}",
        f"RUN <<'{LABEL}'\n{LABEL}\n{COPY}",
        f"RUN <\\\n<'{LABEL}'\n{LABEL}\n{COPY}",
        f"ONBUILD RUN <<-'{LABEL}'\n{LABEL}\n{COPY}",
        f"RUN <<'#'\n{LABEL}\n#\n{COPY}",
        f"RUN <<''\n{LABEL}\n\n{COPY}",
        f"ONBUILD COPY\t{COPY.removeprefix('COPY ')}FROM one\n",
        f"RUN <<END\nONBU\u0130LD {COPY}RUN true \\\nEND\nFROM one\n",
        f"RUN <<END\nRUN true \\\nFROM busybox AS oci:/b\n{COPY}RUN true \\\nEND\n",
    ],
)
@pytest.mark.parametrize("head", ["", "# no escape\n"])
def test_no_image_is_in_a_reading_of_a_builders_alone(head: str, steps: str) -> None:
    """Where lines go on and here-documents end is read in the ways in which builders read it."""
    with pytest.raises(BuildError):
        bases_of(f"{head}FROM busybox AS one\n{steps}")


@pytest.mark.parametrize(
    "step",
    [
        "RUN a && \\ \t\n  b",
        "COPY <<-'EOF' /x\n\tRUN a \\\\\n\tEOF",
        "RUN echo $((1 << 2)) <<< '\\'",
        'RUN cat << EOF; grep "<<" x\nEOF',
    ],
)
def test_what_is_often_written_is_no_attack(step: str) -> None:
    """It names no other image."""
    assert bases_of(f"FROM busybox\n{step}\n") == ([], ["busybox"])
