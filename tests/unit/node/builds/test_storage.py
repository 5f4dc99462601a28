"""What buildah's storage holds, read from its own records."""

from pathlib import Path

import pytest

from cakework.node.builds import layers
from cakework.node.builds.layers import LayerStore
from cakework.node.builds.storage import BuildStorage
from tests.unit.node.vanishing import vanish_once_listed


def test_layers_on_other_bases_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of all accounts stay from one start to the next, and go with the base images that
    they lie on, as do machines' roots; and so do those of a version that kept all in one place."""
    monkeypatch.setattr(layers, "give", Path.exists)
    storage = BuildStorage(tmp_path)
    for folder in ("storage", "run", "layers/old/storage"):
        (tmp_path / folder).mkdir(parents=True)
    storage.prepare_layers()
    assert {entry.name for entry in tmp_path.iterdir()} == {"bases", "layers"}
    kept = storage.layers / "new" / "storage"
    kept.mkdir(parents=True)
    root = tmp_path / "builders" / "root.erofs"
    root.parent.mkdir()
    root.touch()
    storage.prepare_layers()
    assert kept.exists()
    assert root.exists()
    (tmp_path / "bases" / "recipes").write_text("others")
    storage.prepare_layers()
    assert list(storage.layers.iterdir()) == []
    assert not root.exists()
    assert (tmp_path / "bases" / "storage").exists()


def test_containers_are_found_while_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another build that ends at once removes its own meanwhile: a build's are all found still."""
    storage = LayerStore(tmp_path)
    containers = tmp_path / "storage" / "overlay-containers"
    assert storage.containers_of("mine") == []
    for name, build in (("a", "mine"), ("b", "other"), ("c", "mine"), ("d", "other")):
        (containers / name / "userdata").mkdir(parents=True)
        (containers / name / "userdata" / "buildah.json").write_text(f'"/b/{build}/sys:/sys"')
    (containers / "containers.json").write_text("[]")
    gone = (containers / "b", containers / "d" / "userdata")
    vanish_once_listed(monkeypatch, *gone)
    assert sorted(storage.containers_of("mine")) == ["a", "c"]
    assert not any(each.exists() for each in gone)


def test_a_container_that_never_came_on_record_is_found_and_goes(tmp_path: Path) -> None:
    """Whoever makes one makes its folder first, and may be killed then."""
    store = LayerStore(tmp_path)
    containers = store.storage / "overlay-containers"
    (containers / "known" / "userdata").mkdir(parents=True)
    (containers / "containers.lock").touch()
    (containers / "containers.json").write_text('[{"id": "known"}]')
    store.remove_cut_off()
    assert (containers / "known").is_dir()
    (containers / "containers.json").write_text("[]")
    assert store.has_containers()
    store.remove_cut_off()
    assert not store.has_containers()
    assert [entry.name for entry in sorted(containers.iterdir())] == [
        "containers.json",
        "containers.lock",
    ]
