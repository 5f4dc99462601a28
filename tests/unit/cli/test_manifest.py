"""What `cakework.toml` may say, and how it is told what is wrong with it."""

from pathlib import Path

import pytest

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.manifest import Manifest, read_manifest

HEAD = 'name = "orders"\nruntime = "python"\n'


def read(folder: Path, text: str) -> Manifest:
    (folder / "cakework.toml").write_text(text)
    return read_manifest(folder)


def test_settings_are_told_as_the_api_has_them(tmp_path: Path) -> None:
    """Those that the file names, and no others: what it does not name stays as it is."""
    more = 'entry = "a.py"\ntimeout = 60\nsecrets = ["KEY"]\n[retry]\nmaxAttempts = 5\n'
    assert read(tmp_path, HEAD + more) == Manifest(
        name="orders",
        runtime="python",
        entry="a.py",
        settings={"timeout": 60, "secrets": ["KEY"], "retry": {"maxAttempts": 5}},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "# memori\nmemori = 1\n", "line 4: memori is unknown; did you mean memory?"),
        (
            HEAD + "max_instances = 2",
            "line 3: max_instances is unknown; did you mean maxInstances?",
        ),
        (HEAD + "[retry]\n\nmaxAtempts = 1", "line 5: retry.maxAtempts is unknown; did you mean"),
        (HEAD + "retry.factr = 1", "line 3: retry.factr is unknown; did you mean factor?"),
        (HEAD + 'x = """\ny = 1\n"""\ny = 2\n', "line 3: x is unknown."),
        (HEAD + 'entry = """a\nxyz = 1"""\nxyz = 2', "line 5: xyz is unknown."),
        (HEAD + "timeout = 6000", "line 3: timeout should be less than or equal to 900."),
        (HEAD + "[retry]\nmaxAttempts = 30", "line 4: retry.maxAttempts should be less than"),
        (HEAD + 'secrets = [\n"A",\n"b",\n]', "line 3: secrets"),
        (HEAD + "minInstances = 9\nmaxInstances = 1", "minInstances is above maxInstances"),
        ('name = "Orders"\nruntime = "python"', "line 1: name should be of lower-case letters"),
        ('name = "a"\n\nruntime = "ruby"', "line 3: runtime should be python, node, python3.13"),
        ('name = "a"', "runtime is missing."),
        (HEAD + "timeout = = 1", "line 3"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """And the name that was meant. Comments and texts of several lines do not confuse it."""
    with pytest.raises(CommandFailed) as failure:
        read(tmp_path, text)
    assert said in failure.value.detail
    assert failure.value.exit_code == ExitCode.USAGE
