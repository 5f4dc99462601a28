"""Images: there whole, or not there."""

import asyncio
import shutil
from pathlib import Path

import pytest

from cakework.domain.ids import new_image_id
from cakework.node.images import ImageStore, RunConfig

CONFIG = RunConfig(argv=("a", "b"), env=("A=1",), cwd="/w", user="u:g", ports=("80/tcp",))


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "made"
    path.write_bytes(content)
    return path


def test_an_image_comes_back_as_it_was_put(tmp_path: Path) -> None:
    """Files, size and configuration are there, also for a store opened later."""
    store, image_id = ImageStore(tmp_path / "images"), new_image_id()
    put = asyncio.run(store.put(image_id, _file(tmp_path, b"12345"), CONFIG))
    got = ImageStore(tmp_path / "images").get(image_id)
    assert got is not None
    assert got == put
    assert got.rootfs.read_bytes() == b"12345"
    assert got.config == CONFIG.model_copy(update={"size_bytes": 5})
    assert store.ids() == [image_id]


def test_an_image_that_is_there_stays(tmp_path: Path) -> None:
    """A second one of its id does not replace it, and leaves nothing."""
    store, image_id = ImageStore(tmp_path / "images"), new_image_id()
    asyncio.run(store.put(image_id, _file(tmp_path, b"first"), CONFIG))
    image = asyncio.run(store.put(image_id, _file(tmp_path, b"second"), RunConfig()))
    assert image.rootfs.read_bytes() == b"first"
    assert [entry.name for entry in store.folder.iterdir()] == [image_id]


def test_removing(tmp_path: Path) -> None:
    """A removed image is gone whole; removing it again is no error."""
    store, image_id = ImageStore(tmp_path / "images"), new_image_id()
    asyncio.run(store.put(image_id, _file(tmp_path, b"x"), CONFIG))
    asyncio.run(store.remove(image_id))
    asyncio.run(store.remove(image_id))
    assert store.get(image_id) is None
    assert list(store.folder.iterdir()) == []


def test_half_made_images_go_at_start(tmp_path: Path) -> None:
    """What a killed node was making is no image, and is removed."""
    (tmp_path / "images" / ".making-x").mkdir(parents=True)
    store = ImageStore(tmp_path / "images")
    assert store.ids() == []
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("image_id", ["..", "a/b", "", "a\0"])
def test_only_ids_name_images(tmp_path: Path, image_id: str) -> None:
    """Nothing that could lead out of the folder is looked up."""
    with pytest.raises(ValueError, match="not the id"):
        ImageStore(tmp_path / "images").get(image_id)


def test_only_plain_files_become_images(tmp_path: Path) -> None:
    """A link in the file's place is refused: it was made where strangers' code ran."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    store = ImageStore(tmp_path / "images")
    with pytest.raises(ValueError, match="file of its own"):
        asyncio.run(store.put(new_image_id(), tmp_path / "link", CONFIG))
    assert store.ids() == []


def test_an_image_is_removed_though_its_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be removed from the disk is no image any more, and goes at the next start."""

    def fails(_: Path) -> None:
        raise OSError("not now")

    store, image_id = ImageStore(tmp_path / "images"), new_image_id()
    asyncio.run(store.put(image_id, _file(tmp_path, b"12345"), CONFIG))
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", fails)
        asyncio.run(store.remove(image_id))
    assert store.get(image_id) is None
    assert list(store.folder.iterdir())
    assert not list(ImageStore(tmp_path / "images").folder.iterdir())
