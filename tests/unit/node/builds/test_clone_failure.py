"""Why a repository could not be cloned, from what Debian's git prints."""

import pytest

from cakework.domain.orders import GithubSource
from cakework.node.builds.clone_failure import explain_clone

SOURCE = GithubSource(repository="team/app", branch="main")
ADDRESS = "https://github.com"
URL = "'https://github.com/team/app.git/'"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (f"fatal: Authentication failed for {URL}", "github.com does not take the token"),
        (
            "remote: Repository not found.\n"
            "fatal: repository 'https://github.com/team/app.git/' not found",
            "it is not there, or the token has no right to see it",
        ),
        (
            f"fatal: unable to access {URL}: The requested URL returned error: 403",
            "the token has no right to read it",
        ),
        (
            f"fatal: unable to access {URL}: The requested URL returned error: 429",
            "github.com answers no more for now; build again later",
        ),
        (
            f"fatal: unable to access {URL}: The requested URL returned error: 502",
            "github.com answers with status 502",
        ),
        (
            f"fatal: unable to access {URL}: Could not resolve host: github.com",
            "github.com has no address that may be reached",
        ),
        (
            f"fatal: unable to access {URL}: server certificate verification failed. CAfile: none",
            "github.com shows a certificate that is not trusted",
        ),
        (
            f"fatal: unable to access {URL}: Operation too slow. Less than 1 bytes/sec "
            "transferred the last 60 seconds",
            "github.com does not answer in time",
        ),
        (
            f'fatal: unable to access {URL}: Protocol "http" not supported or disabled in libcurl',
            "github.com leads to where no TLS is spoken",
        ),
        (
            "fatal: https://github.com/team/app.git/info/refs not valid: is this a git repository?",
            "github.com does not answer as a git server does",
        ),
        ("remote: hello\nfatal: the remote end hung up", "the remote end hung up"),
        ("remote: hello", "git gave no reason"),
    ],
)
def test_reasons_are_for_people(output: str, why: str) -> None:
    """One sentence; what the other side has its users told is not repeated."""
    assert explain_clone(SOURCE, ADDRESS, output, False, 10) == f"team/app cannot be cloned: {why}"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("fatal: couldn't find remote ref refs/heads/main", "team/app has no branch main"),
        ("fatal: write error: File too large", "team/app is larger than 10 MB"),
        ("error: index-pack died of signal 25", "team/app is larger than 10 MB"),
        ("fatal: write error: No space left on device", "the disk for builds is full"),
    ],
)
def test_what_is_not_the_hosts_fault(output: str, told: str) -> None:
    """A branch that is not there, and bounds of ours, have sentences of their own."""
    assert explain_clone(SOURCE, ADDRESS, output, False, 10) == told


def test_a_repository_without_a_branch_is_empty() -> None:
    """That says more than that one branch is not there."""
    output = "fatal: couldn't find remote ref refs/heads/main"
    told = explain_clone(SOURCE, ADDRESS, output, True, 10)
    assert told == "team/app is empty: it has no branch"
