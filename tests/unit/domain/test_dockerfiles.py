import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.dockerfiles import DockerfileError, parse_dockerfile

WHOLE = """\
# syntax=docker/dockerfile:1

ARG VERSION=3
FROM --platform=linux/amd64 python:${VERSION} AS build
run apt-get update && \\
    # a comment in between

    apt-get install -y curl
COPY --chown=1:1 ["a", "b"]
COPY <<one <<-"two" /data/
FROM not an instruction
one
\t\tBROKEN
\ttwo
ONBUILD RUN echo
FROM scratch
COPY --from=build / /
SHELL ["/bin/sh", "-c"]
HEALTHCHECK NONE
CMD echo \\
"""


def test_a_whole_dockerfile_is_read() -> None:
    """Directives, comments, continued lines and here-documents are understood."""
    names = [(each.line, each.name) for each in parse_dockerfile(WHOLE)]
    assert names == [
        *((3, "ARG"), (4, "FROM"), (5, "RUN"), (9, "COPY"), (10, "COPY"), (15, "ONBUILD")),
        *((16, "FROM"), (17, "COPY"), (18, "SHELL"), (19, "HEALTHCHECK"), (20, "CMD")),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch",
        "\ufefffrom scratch\r\nCMD x\r\n",
        "# escape=`\nFROM scratch\nRUN a `\n  b\n",
        "FROM\tscratch",
        "FROM scratch as one\n",
    ],
)
def test_other_spellings_are_taken(text: str) -> None:
    """Byte order mark, CRLF, tabs, lower case and another escape character are all right."""
    assert parse_dockerfile(text)[0].name == "FROM"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "no instruction"),
        ("\n# nothing\n", 1, "no instruction"),
        ("ARG A=1\n", 1, "no FROM"),
        ("\nRUN x\nFROM y\n", 2, "RUN comes before the first FROM"),
        ("FROM x\n\nFORM y\n", 3, "FORM is not an instruction"),
        ("FROM x\nRUN\n", 2, "RUN needs an argument"),
        ("FROM\n", 1, "FROM needs an argument"),
        ("FROM a b c\n", 1, "FROM takes one image"),
        ("FROM x AS 1bad\n", 1, "FROM takes one image"),
        ("FROM x\nSHELL /bin/sh\n", 2, "SHELL takes a JSON array"),
        ("FROM x\nCOPY a\n", 2, "COPY needs a source and a destination"),
        ("FROM x\nONBUILD FROM y\n", 2, "FROM is not allowed after ONBUILD"),
        ("FROM x\nONBUILD nope\n", 2, "nope is not an instruction"),
        ("FROM x\nRUN <<end\nnever\n", 2, "the here-document end does not end"),
        ("FROM x\nRUN a\0b\n", 2, "NUL"),
        ("FROM x\n\\\n", 2, "nothing on this line"),
        ("just some text\n", 1, "just is not an instruction"),
    ],
)
def test_what_does_not_parse_names_line_and_reason(text: str, line: int, message: str) -> None:
    """Each fault is told with the line where it is."""
    with pytest.raises(DockerfileError, match=message) as caught:
        parse_dockerfile(text)
    assert caught.value.line == line


@given(st.text(alphabet=st.sampled_from("FROMRUN x\n\\#<E'\"`=\t\r\0[]"), max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the parser fail in another way than it says, or point beyond the text."""
    try:
        instructions = parse_dockerfile(text)
    except DockerfileError as error:
        assert 1 <= error.line <= text.count("\n") + 1
    else:
        assert instructions


@pytest.mark.parametrize("instruction", ["SHELL", "COPY", "ADD"])
def test_arrays_in_one_another_without_end_are_no_words(instruction: str) -> None:
    """However deep: that is a fault of the text, and not of ours."""
    with pytest.raises(DockerfileError):
        parse_dockerfile(f"FROM a\n{instruction} {'[' * 100_000}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\n" + "RUN a\n" * 90_000, "line 1: there are over"),
        ("FROM a\nRUN " + "a \\\n" * 70_000 + "a", "line 2: it has over"),
    ],
)
def test_what_nobody_would_build_is_refused(text: str, message: str) -> None:
    """A Dockerfile and its lines have a bound, told with the place."""
    with pytest.raises(DockerfileError, match=message):
        parse_dockerfile(text)


@pytest.mark.parametrize(
    "first",
    ["#" + "\t" * 100_000, "# a =" + " " * 100_000 + "\v", "# a" + " = " * 50_000, "#" * 100_000],
)
def test_a_first_line_is_read_in_no_time(first: str) -> None:
    """What looks like a directive, and goes on without end, is a comment."""
    assert [each.name for each in parse_dockerfile(f"{first}\nFROM a")] == ["FROM"]
