"""Which images a Dockerfile names."""

import pytest

from cakework.domain.dockerfiles import DockerfileError
from cakework.node.builds.references import base_images


@pytest.mark.parametrize(
    ("dockerfile", "images"),
    [
        ("FROM a", ["a"]),
        ("from --platform=$BUILDPLATFORM a AS x\nFROM x", ["a"]),
        ("FROM scratch\nCOPY a b", []),
        ("FROM a\nFROM a\nFROM b", ["a", "b"]),
        ('ARG V=1\nARG W="2"\nFROM a:${V}-$W', ["a:1-2"]),
        ("ARG V\nFROM a:${V:-3}${V:+x}", ["a:3"]),
        ("FROM a AS One\nFROM b\nCOPY --from=one /x /\nCOPY --from=0 /x /", ["a", "b"]),
        ("FROM a\nCOPY --chown=1 --from=b:2 /x /", ["a", "b:2"]),
        ("FROM a\nRUN --mount=type=bind,from=b,target=/b ls", ["a", "b"]),
        ("FROM a\nRUN echo --from=b --mount=from=c", ["a"]),
        ("FROM a\nARG V=late\nFROM b:$V", ["a", "b:"]),
        ("FROM a \\\n  AS x\nFROM x", ["a"]),
    ],
)
def test_each_image_from_outside_is_named_once(dockerfile: str, images: list[str]) -> None:
    """Stages are not images, variables are filled in from what is declared before FROM."""
    assert base_images(dockerfile) == images


def test_what_does_not_parse_is_refused() -> None:
    """The parser's error goes through."""
    with pytest.raises(DockerfileError):
        base_images("FROM a\nFROB")
