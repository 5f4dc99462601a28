"""What images of registries are called in a builder machine."""

from pathlib import Path

from cakework.node.builds.builder.input import write_names


def test_names_are_those_that_the_dockerfile_means(tmp_path: Path) -> None:
    """Short ones are docker.io's; one that a digest names gets another, and both are said."""
    digest = f"@sha256:{'1' * 64}"
    write_names(tmp_path, ["python:3", f"python{digest}", "one.example/a/b"])
    names = [(tmp_path / "bases" / f"{number}.name").read_text() for number in range(3)]
    assert names == [
        "docker.io/library/python:3",
        "localhost/cakework-pinned:1",
        "one.example/a/b",
    ]
    assert (tmp_path / "pinned").read_text() == (
        f"python{digest}=container-image://localhost/cakework-pinned:1\n"
    )


def test_without_images_there_are_no_names(tmp_path: Path) -> None:
    """The files are there all the same."""
    write_names(tmp_path, [])
    assert list((tmp_path / "bases").iterdir()) == []
    assert (tmp_path / "pinned").read_text() == ""
