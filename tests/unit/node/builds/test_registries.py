"""Where images are read from."""

import tomllib

import pytest

from cakework.node.builds.registries import Registries, qualified

MIRRORS = ["docker.io=mirror.example:5000/hub", "quay.io/team=other.example"]
REGISTRIES = Registries.parse(MIRRORS, ["mirror.example:5000", "plain.example"])


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("python:3", "docker.io/library/python:3"),
        ("team/app", "docker.io/team/app"),
        ("host.example/app", "host.example/app"),
        ("host:5000/app:1", "host:5000/app:1"),
        ("localhost/app", "localhost/app"),
    ],
)
def test_short_names_are_of_the_default_registry(reference: str, name: str) -> None:
    """A first part with a dot or a port, or localhost, is a registry; else it is docker.io."""
    assert qualified(reference) == name


def test_what_the_operator_named_is_listed() -> None:
    """Mirrors and insecure registries, each with its port, without prefixes."""
    assert set(REGISTRIES.addresses()) == {
        "mirror.example:5000",
        "other.example",
        "plain.example",
    }


def test_the_configuration_is_what_was_set() -> None:
    """Mirrors come with their prefix, and speak plain HTTP where that was allowed."""
    written = tomllib.loads(REGISTRIES.configuration())
    by_prefix = {entry["prefix"]: entry for entry in written["registry"]}
    assert by_prefix["docker.io"]["mirror"] == [
        {"location": "mirror.example:5000/hub", "insecure": True}
    ]
    assert by_prefix["quay.io/team"]["mirror"] == [{"location": "other.example"}]
    assert by_prefix["plain.example"]["insecure"] is True
    assert "insecure" not in by_prefix["docker.io"]


def test_a_mirror_of_another_form_is_refused() -> None:
    """The sentence has the words that are wrong."""
    with pytest.raises(ValueError, match=r"mirror\.example"):
        Registries.parse(["mirror.example"], [])
