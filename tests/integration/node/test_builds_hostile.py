"""Dockerfiles that a builder reads otherwise than most, really built in containers: a few of those
that `test_hostile_dockerfiles.py` makes by the hundred."""

import pytest

from cakework.domain.facts import BuildFailed
from cakework.node.builds import run
from cakework.node.builds.recipes import Recipe, recipe_of
from tests.integration.node.build_bench import NOTHING, Bench, order

BASE = "FROM cakework/busybox AS one\n"
FILE = {"secret/f": "of a file of the build\n"}
HIDDEN = {
    "a here-document": BASE + "RUN true <<CMD\nFROM {0}\nCMD\n",
    "another escape": f"# syntax=x\n# escape=`\n{BASE}RUN echo `\nFROM {{0}}\n",
    "what ONBUILD does": BASE + "ONBUILD COPY --from={0} / /x\nFROM one\nRUN true\n",
    "half a letter": BASE + "COPY --chown=0:à--from={0} / /x\n",
    "quotes": BASE + 'COPY --chown="0" --chmod="7 7" --from={0} / /x\n',
    "a variable of the builder's": "ARG TARGETOS\nFROM ${{TARGETOS:+{0}}}${{TARGETOS:-busybox}}\n",
    "a value in two parts": 'ARG x=busybox\nARG x="oci"{1}\nFROM $x\n',
}
"""Ways in which the image ``{0}`` has been hidden; ``{1}`` is what follows its transport."""


@pytest.mark.parametrize("way", HIDDEN)
def test_no_image_is_hidden_from_the_check(bench: Bench, way: str) -> None:
    """It is refused before the builder sees it."""
    image = "oci:/b/storage"
    error = bench.error(order(HIDDEN[way].format(image, image.removeprefix("oci")), FILE))
    assert error.startswith("base image ")
    assert "must " in error
    assert bench.leftovers() == NOTHING


def test_the_builder_does_look_for_what_is_hidden(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it not refused: so the check is one that there has to be."""
    monkeypatch.setattr(run, "bases_of", _busybox)
    for way in ("a here-document", "half a letter"):
        wanted = order(HIDDEN[way].format("oci:/b/nothing", ""), FILE)
        assert isinstance(bench.build(wanted), BuildFailed)
        assert any("/b/nothing" in line for line in bench.ledger.texts(wanted.build_id)), way


@pytest.mark.parametrize(
    "dockerfile",
    [
        f"# escape=`\r\n{BASE}RUN echo we are `\r\n  here\r\n",
        f'{BASE}RUN --mount="type=bind,source=secret,target=/a b" cat "/a b/f"; echo we are here\n',
        "ARG x='busybox'\nARG y=\"cakework/$x\"\nFROM ${y:-no} AS two\nFROM two\n"
        "COPY --from=two --chown=0 /bin /x\n"
        "ONBUILD COPY --from=later /nothing /x\nRUN echo we are here\n",
    ],
)
def test_odd_ones_are_built(bench: Bench, dockerfile: str) -> None:
    """What is odd and no attack works as it does elsewhere."""
    wanted = order(dockerfile, FILE)
    bench.image(wanted)
    assert "we are here" in bench.ledger.texts(wanted.build_id)
    assert bench.leftovers() == NOTHING


def _busybox(_: str) -> tuple[list[Recipe], list[str]]:
    recipe = recipe_of("cakework/busybox")
    assert recipe is not None
    return [recipe], []
