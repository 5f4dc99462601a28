"""Why a build failed, from what buildah said."""

import pytest

from cakework.node.builds.failure import explain_build, explain_pull


@pytest.mark.parametrize(
    ("output", "oom", "sentence"),
    [
        (
            'Error: building at STEP "RUN false": while running runtime: exit status 1\n',
            False,
            "step “RUN false” failed with exit status 1",
        ),
        (
            'x\nError: building at STEP "RUN a": while running runtime: exit status 137',
            True,
            "step “RUN a” ran out of memory (builds have 99 MB)",
        ),
        (
            "cp: no space left on device\n"
            'Error: building at STEP "RUN cp": while running runtime: exit status 1',
            False,
            "step “RUN cp” failed with exit status 1 (the disk for builds is full)",
        ),
        (
            'Error: building at STEP "COPY a /a": reading "a": error during bulk transfer for '
            'copier.request{Request:"GET", PutOptions:x{IDs:(*idtools.IDPair)(nil)}}: '
            'copier: get: lstat "/a"("/etc/passwd"): no such file or directory',
            False,
            'step “COPY a /a” failed: reading "a": lstat "/a"("/etc/passwd"): '
            "no such file or directory",
        ),
        (
            "Error: creating build container: a/b: image not known",
            False,
            "base image a/b was not found",
        ),
        ("Error: something else\nmore", False, "something else"),
        ("", True, "the build ran out of memory (builds have 99 MB)"),
        ("killed", False, "the build ended with exit status 125"),
    ],
)
def test_the_sentence_names_step_and_cause(output: str, oom: bool, sentence: str) -> None:
    """Memory comes first, then the step's exit status, then buildah's own words."""
    assert explain_build(output, 125, oom=oom, memory_mb=99) == sentence


def test_our_own_paths_are_left_out() -> None:
    """The sandbox's folders mean nothing to whoever builds."""
    output = (
        'Error: building at STEP "COPY x /": checking on sources under '
        '"/b/68edd68c-c6d6-46b3-9ce2-adf2a26967c5/context": copier: stat: "/x": no such file'
    )
    sentence = explain_build(output, 125, oom=False, memory_mb=1)
    assert sentence.startswith("step “COPY x /” failed: ")
    assert "68edd68c" not in sentence


def test_a_long_step_is_cut() -> None:
    """A step of many lines does not make an error of many lines."""
    output = f'Error: building at STEP "RUN {"x" * 500}": while running runtime: exit status 2'
    assert len(explain_build(output, 1, oom=False, memory_mb=1)) < 200


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Error: dial tcp: lookup a: no such host", "its registry's name does not resolve"),
        (
            "dial tcp 10.0.0.5:443: no route to host",
            "its registry is at no address that may be reached",
        ),
        ("Error: reading manifest: manifest unknown", "there is no such image in its registry"),
        ("Error: pinging: connection refused", "its registry does not answer"),
    ],
)
def test_a_missing_base_image_has_its_reason(output: str, reason: str) -> None:
    """The image is named as the Dockerfile names it."""
    assert explain_pull("a/b:1", output) == f"base image a/b:1 was not found: {reason}"
