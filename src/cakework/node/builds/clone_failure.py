"""Why a repository could not be cloned, from what git prints."""

import re
from urllib.parse import urlsplit

from cakework.domain.orders import GithubSource

_FATAL = re.compile(r"^(?:fatal|error): (.*)$", re.MULTILINE)
_STATUS = re.compile(r"The requested URL returned error: (\d{3})")
_SIGNS = (
    ("Authentication failed", "{host} does not take the token"),
    ("terminal prompts disabled", "it is not there, or it is private and needs a token"),
    ("URL returned error: 403", "the token has no right to read it"),
    ("' not found", "it is not there, or the token has no right to see it"),
    ("URL returned error: 404", "it is not there, or the token has no right to see it"),
    ("URL returned error: 429", "{host} answers no more for now; build again later"),
    ("Could not resolve host", "{host} has no address that may be reached"),
    ("ertificate", "{host} shows a certificate that is not trusted"),
    ("Failed to connect", "{host} does not answer, or is no address that may be reached"),
    ("Couldn't connect", "{host} does not answer, or is no address that may be reached"),
    ("Connection refused", "{host} does not answer"),
    ("too slow", "{host} does not answer in time"),
    ("timed out", "{host} does not answer in time"),
    ("non-properly terminated", "{host} does not answer, or speaks no TLS"),
    ("gnutls_handshake", "{host} speaks no TLS that is understood"),
    ("SSL", "{host} speaks no TLS that is understood"),
    ("TLS", "{host} speaks no TLS that is understood"),
    ("not supported or disabled", "{host} leads to where no TLS is spoken"),
    ("is this a git repository", "{host} does not answer as a git server does"),
    ("invalid server response", "{host} does not answer as a git server does"),
)
_TOO_LARGE = ("File too large", "file too large", "File size limit", "signal 25")


def explain_clone(
    source: GithubSource, address: str, output: str, is_empty: bool, size_mb: int
) -> str:
    """Say why ``source`` could not be fetched, from the end of git's stderr."""
    host, name = host_of(address), source.repository
    if is_empty:
        return f"{name} is empty: it has no branch"
    if "couldn't find remote ref" in output:
        return f"{name} has no branch {source.branch}"
    if any(sign in output for sign in _TOO_LARGE):
        return too_large(source, size_mb)
    if "No space left on device" in output:
        return "the disk for builds is full"
    for sign, reason in _SIGNS:
        if sign in output:
            return f"{name} cannot be cloned: {reason.format(host=host)}"
    if status := _STATUS.search(output):
        return f"{name} cannot be cloned: {host} answers with status {status[1]}"
    found = _FATAL.findall(output)
    return f"{name} cannot be cloned: {found[0] if found else 'git gave no reason'}"


def too_large(source: GithubSource, size_mb: int) -> str:
    """Say that a repository is beyond the bound."""
    return f"{source.repository} is larger than {size_mb} MB"


def host_of(address: str) -> str:
    """Return ``host[:port]`` of an address of repositories."""
    return urlsplit(address).netloc
