"""Which images a Dockerfile names."""

import pytest

from cakework.domain.dockerfiles import DockerfileError
from cakework.node.builds.references import CHARS_MAX, base_images, mounts_files


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
        ("FROM a\nARG V=late\nFROM b:$V", ["a", "b:$V"]),
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


@pytest.mark.parametrize(
    ("step", "mounts"),
    [
        ("RUN ls", False),
        ("RUN --mount=type=cache,target=/c ls", False),
        ("RUN --mount=type=secret,id=s ls", False),
        ("RUN --mount=type=bind,source=a,target=/a ls", True),
        ("RUN --mount=target=/a ls", True),
        ("RUN --network=none --mount='type=bind,target=/a' ls", True),
        ("RUN --mount=type=cache,target=/c --mount=target=/a ls", True),
        ("RUN --mount=type=cache,from=a,target=/c ls", True),
        ("RUN echo --mount=target=/a", False),
    ],
)
def test_steps_that_have_files_mounted_are_known(step: str, mounts: bool) -> None:
    """Files of the context, a stage or an image; not caches of the build's own, or secrets."""
    assert mounts_files(f"FROM a\n{step}") is mounts


@pytest.mark.parametrize(
    "step",
    ['COPY --from="b" x y', "COPY --fr\\om=b x y", "RUN --mount='type=bind,fr\\om=b' ls"],
)
def test_quotes_and_escapes_hide_no_image(step: str) -> None:
    """A flag is read as the builder reads it."""
    assert base_images(f"FROM a\n{step}") == ["a", "b"]


def test_variables_do_not_grow_without_end() -> None:
    """Each ARG twice the one before: what is filled in is no longer than a name may be, and is none
    any more."""
    doubled = "ARG x=aa\n" + "ARG x=$x$x\n" * 20
    (image,) = base_images(f"{doubled}FROM $x$x$x")
    assert len(image) == CHARS_MAX + 1
