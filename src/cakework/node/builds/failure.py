"""Why a build failed, in one sentence for the person whose build it is."""

import re

_STEP = re.compile(
    r"^Error: building at STEP \"(?P<step>.*?)\": (?P<why>.*)$", re.MULTILINE | re.DOTALL
)
_STATUS = re.compile(r"while running runtime: exit status (\d+)")
_UNKNOWN = ": image not known"
_ERROR = re.compile(r"^Error: (.*)$", re.MULTILINE)
_INNER_PATH = re.compile(r"/b/[0-9a-f-]{36}/(?:context/?|tmp/(?:(?!/b/)\S)*?rootfs)?")
_FATAL = 'level=fatal msg="'
_BASE_REASONS = (
    ("no such host", "its registry's name does not resolve"),
    ("connection refused", "its registry does not answer"),
    ("network is unreachable", "its registry cannot be reached from builds"),
    ("no route to host", "its registry is at no address that may be reached"),
    ("i/o timeout", "its registry does not answer in time"),
    ("manifest unknown", "there is no such image in its registry"),
    ("name unknown", "there is no such image in its registry"),
    ("not found", "there is no such image in its registry"),
    ("unauthorized", "its registry wants credentials, or has no such image"),
    ("requested access to the resource is denied", "its registry does not give it to us"),
    ("server gave HTTP response to HTTPS client", "its registry speaks no TLS"),
    ("no space left on device", "the disk for builds is full"),
)
_COPIER = re.compile(r"error during bulk transfer for copier\.request\{.*\}: copier: get: ")
STEP_SHOWN = 120
NO_SPACE = "no space left on device"
TOO_LARGE = "file too large"
"""What is said of a file beyond the largest that may be written."""


class BuildError(Exception):
    """A build that cannot succeed; ``str()`` of it is the sentence."""


def explain_build(output: str, status: int, *, oom: bool, memory_mb: int) -> str:
    """Say why ``buildah build`` failed, from the end of its stderr and its exit status."""
    if step := _STEP.search(output):
        shown = _shown(step["step"])
        if oom:
            return f"step {shown} ran out of memory (builds have {memory_mb} MB)"
        if code := _STATUS.search(step["why"]):
            return f"step {shown} failed with exit status {code[1]}{_hint(output)}"
        return f"step {shown} failed: {_plain(step['why'])}"
    if oom:
        return f"the build ran out of memory (builds have {memory_mb} MB)"
    if NO_SPACE in output:
        return "the disk for builds is full"
    if _UNKNOWN in output and (before := output.partition(_UNKNOWN)[0].rsplit(maxsplit=1)):
        return f"base image {before[-1]} was not found"
    if error := _last_error(output):
        return _plain(error)
    return f"the build ended with exit status {status}"


def explain_pull(reference: str, output: str) -> str:
    """Say why the base image ``reference`` could not be fetched."""
    for sign, reason in _BASE_REASONS:
        if sign in output:
            return f"base image {reference} was not found: {reason}"
    return f"base image {reference} could not be fetched: {_plain(_last_error(output) or output)}"


def last_fatal(output: str) -> str:
    """Return the last message with which skopeo gave up; empty when it told none."""
    for line in reversed(output.splitlines()):
        _, sign, message = line.partition(_FATAL)
        if sign and message.endswith('"'):
            return message[:-1].replace('\\"', '"')
    return ""


def _hint(output: str) -> str:
    return " (the disk for builds is full)" if NO_SPACE in output.lower() else ""


def _shown(step: str) -> str:
    line = " ".join(step.split())
    return f"“{line if len(line) <= STEP_SHOWN else line[:STEP_SHOWN] + '…'}”"


def _last_error(output: str) -> str:
    found = _ERROR.findall(output)
    return found[-1] if found else ""


def _plain(text: str) -> str:
    """Return the first line of ``text`` with the sandbox's paths taken out."""
    line = (text.strip().splitlines() or ["no reason was given"])[0]
    return _COPIER.sub("", _INNER_PATH.sub("", line))
