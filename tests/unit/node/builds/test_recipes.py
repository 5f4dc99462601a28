"""Which base images there are, and what they are called."""

import pytest

from cakework.node.builds.recipes import RECIPES, SCRIPTS, UnknownBase, recipe_of


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("cakework/python", "python-3.11"),
        ("cakework/python:latest", "python-3.11"),
        ("cakework/python:3.11", "python-3.11"),
        ("localhost/cakework/python:3.13", "python-3.13"),
        ("cakework/node", "node-18"),
        ("cakework/node:24", "node-24"),
        ("cakework/busybox:latest", "busybox-latest"),
    ],
)
def test_a_name_is_that_of_one_image(reference: str, key: str) -> None:
    """With a version it is that one's; without, it stays what it has been."""
    recipe = recipe_of(reference)
    assert recipe is not None
    assert recipe.key == key


@pytest.mark.parametrize("reference", ["python:3.13", "docker.io/cakework/python", "x/cakework/y"])
def test_other_images_are_those_of_registries(reference: str) -> None:
    """Only names that begin as ours do are ours."""
    assert recipe_of(reference) is None


@pytest.mark.parametrize(
    ("reference", "there_are"),
    [
        ("cakework/python:3", "cakework/python:3.11 and cakework/python:3.13"),
        ("localhost/cakework/node:20", "cakework/node:18 and cakework/node:24"),
        ("cakework/busybox:1", "cakework/busybox"),
        (
            "cakework/debian:13",
            "cakework/busybox, cakework/python:3.11, cakework/python:3.13, cakework/node:18 and "
            "cakework/node:24",
        ),
    ],
)
def test_a_refusal_names_those_there_are(reference: str, there_are: str) -> None:
    """Those of the same name, or else all; what others lie on is nobody's to name."""
    with pytest.raises(UnknownBase) as refused:
        recipe_of(reference)
    assert str(refused.value) == f"base image {reference} was not found: we make {there_are}"


def test_no_lock_says_where_from() -> None:
    """Wheels are those of a digest, from whichever index this host has."""
    locks = [SCRIPTS / recipe.wheels for recipe in RECIPES if recipe.wheels]
    assert len(locks) == 3
    for lock in locks:
        lines = lock.read_text().splitlines()
        assert all("==" in line or "--hash=sha256:" in line for line in lines)
        assert "://" not in lock.read_text()
