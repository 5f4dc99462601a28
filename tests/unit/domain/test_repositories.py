"""Names of repositories and branches: what git takes, and nothing that is more than a name."""

import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cakework.domain.repositories import (
    BRANCH_BYTES_MAX,
    RepositoryError,
    checked_address,
    checked_branch,
    checked_repository,
    checked_token,
)
from tests.properties import examples

PIECES = st.sampled_from((*"aé/.@{~^:?*[\\ -\x7f\t\n", "b-1", "..", "@{", ".lock", "HEAD"))


@given(st.lists(PIECES, max_size=6).map("".join))
@example("a.lock/b")
@example("a/.b")
@example("@")
@settings(max_examples=examples(150))
def test_branches_are_those_that_git_takes(name: str) -> None:
    """But for HEAD and @, which mean something else to git, and what looks like an option."""
    ours = True
    try:
        assert checked_branch(name) == name
    except RepositoryError:
        ours = False
    command = ["git", "check-ref-format", f"refs/heads/{name}"]
    theirs = subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert ours == (theirs and name not in ("HEAD", "@") and not name.startswith("-"))


def test_a_branch_is_no_longer_than_a_file_name() -> None:
    """Counted in bytes."""
    checked_branch("é" * (BRANCH_BYTES_MAX // 2))
    with pytest.raises(RepositoryError):
        checked_branch("é" * (BRANCH_BYTES_MAX // 2 + 1))


@pytest.mark.parametrize("name", ["team/app", "a/b", "octo_acme/.github", "A-1/a.b_c-d", "a/-x"])
def test_repositories_have_an_owner_and_a_name(name: str) -> None:
    """Of the letters that GitHub takes."""
    assert checked_repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "a", "/a", "a/", "a/b/c", "a/..", "a/.", "-a/b", "a/b.git", "a b/c", "a/b\n", "é/a"),
        *("https://github.com/a/b", "a:b/c", "a/b?c", "a/b#c", "a/%2e%2e", "a@b/c", "../../etc"),
    ],
)
def test_what_is_no_repository(name: str) -> None:
    """Nothing that a URL would read as more than two names."""
    with pytest.raises(RepositoryError):
        checked_repository(name)


@pytest.mark.parametrize("token", ["a b", "a\nb", "a\r", "\0", "é", "x" * 5000])
def test_what_is_no_token(token: str) -> None:
    """Whatever would be more than one line, or more than it, on git's way to it."""
    with pytest.raises(RepositoryError) as refused:
        checked_token(token)
    assert token not in str(refused.value)


def test_where_repositories_are() -> None:
    """An address with TLS, without anything that a token could be sent along to by mistake."""
    assert checked_address("https://github.com/") == "https://github.com"
    assert checked_address("https://ghe.example:8443/git") == "https://ghe.example:8443/git"
    for wrong in ("http://a", "https://", "https://a@b", "https://a?b", "a", "https://a b", "-a"):
        with pytest.raises(RepositoryError):
            checked_address(wrong)
