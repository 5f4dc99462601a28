"""What a build made is read, and nothing that it only points to or that it is not."""

import os
from pathlib import Path

import pytest

from cakework.node.builds.failure import BuildError
from cakework.node.builds.made import BYTES_MAX, read_config, read_made
from cakework.node.images import RunConfig


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "work" / "out").mkdir(parents=True)
    return tmp_path / "work"


def test_a_file_is_read_up_to_a_bound(work: Path) -> None:
    """One that is larger is refused, and not cut."""
    file = work / "out" / "iid"
    file.write_bytes(b"x")
    assert read_made(work, "iid") == b"x"
    os.truncate(file, BYTES_MAX + 1)
    with pytest.raises(BuildError):
        read_made(work, "iid")


def test_links_pipes_and_folders_are_not(work: Path) -> None:
    """Neither in the file's place nor in its folder's; and a pipe is not waited for."""
    (work / "out" / "link").symlink_to(work.parent / "secret")
    os.mkfifo(work / "out" / "pipe")
    (work / "out" / "folder").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        with pytest.raises(BuildError):
            read_made(work, name)
    (work / "out").rename(work / "real")
    (work / "real" / "iid").write_text("x")
    (work / "out").symlink_to(work / "real")
    with pytest.raises(BuildError):
        read_made(work, "iid")


IMAGE_ID = f"sha256:{'0' * 64}"


def test_how_an_image_is_run_is_read() -> None:
    """What is not said has OCI's meaning."""
    said = b'{"OCIv1": {"config": {"Cmd": ["sh"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}}}}'
    config = read_config(said, IMAGE_ID)
    assert config == RunConfig(argv=("sh",), env=("A=b",), ports=("80/tcp",), digest=IMAGE_ID)
    assert read_config(b'{"OCIv1": {}}', IMAGE_ID) == RunConfig(digest=IMAGE_ID)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b'{"OCIv1": 1}',
        b'{"OCIv1": {"config": [1]}}',
        b'{"OCIv1": {"config": {"Cmd": [1]}}}',
        b'{"OCIv1": {"config": {"Env": 1}}}',
        b'{"OCIv1": {"config": {"WorkingDir": [1]}}}',
        b'{"OCIv1": {"config": {"ExposedPorts": [1, "a"]}}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_configuration_fails_the_build(said: bytes) -> None:
    """A stranger may have written it."""
    with pytest.raises(BuildError, match="no configuration"):
        read_config(said, IMAGE_ID)


@pytest.mark.parametrize("image_id", ["", "latest", IMAGE_ID + "\n", IMAGE_ID[:-1], "x" * 71])
def test_what_is_no_digest_fails_the_build(image_id: str) -> None:
    """It is what the image is known by."""
    with pytest.raises(BuildError):
        read_config(b'{"OCIv1": {}}', image_id)
