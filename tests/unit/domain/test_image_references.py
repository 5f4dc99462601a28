"""Names of images in registries."""

import pytest

from cakework.domain.image_references import ImageReferenceError, registry_of, whole_reference

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("python", "docker.io/library/python:latest"),
        ("team/app:1", "docker.io/team/app:1"),
        ("docker://ghcr.io/team/app", "ghcr.io/team/app:latest"),
        ("localhost:5000/app:x", "localhost:5000/app:x"),
        ("1.dkr.ecr.us-west-2.amazonaws.com/a/b:1", "1.dkr.ecr.us-west-2.amazonaws.com/a/b:1"),
        (f"r.example/app:1@{DIGEST}", f"r.example/app@{DIGEST}"),
    ],
)
def test_names_are_made_whole(text: str, whole: str) -> None:
    """Registry, tag and namespace are filled in as everywhere; a digest counts before a tag."""
    assert whole_reference(text) == whole
    assert registry_of(whole) == whole.split("/")[0]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "a b",
            "-o",
            "UPPER/case",
            "r.example/",
            "r.example:x/app",
            "https://r.example/a",
        ),
        *(
            "r.example/a:",
            "r.example/a@",
            "r.example/a@md5:1",
            "r.example/a\n",
            "me:pw@r.example/a",
        ),
        *("r.example/" + "a" * 800, "r.example/../a", "r.example/a:\u0661"),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    """Nothing that a program could take for an option, an address with a password, or a path."""
    with pytest.raises(ImageReferenceError):
        whole_reference(text)
