"""What buildah's storage holds, read from its own records."""

import json
from pathlib import Path

import pytest

from cakework.node.builds.recipes import BASE_TAGS, RECIPES
from cakework.node.builds.storage import BuildStorage
from tests.unit.node.vanishing import vanish_once_listed


def test_only_base_images_of_now_are_kept(tmp_path: Path) -> None:
    """Steps, images from registries and base images of earlier recipes may go."""
    python = RECIPES["python"]
    images = [
        {"id": "step"},
        {"id": "none", "names": None},
        {"id": "foreign", "names": ["registry.example/app:1"]},
        {"id": "former", "names": [f"localhost/{python.reference}:0123456789abcdef"]},
        {"id": "python", "names": [f"localhost/{python.reference}:latest", python.tag]},
    ]
    storage = BuildStorage(tmp_path)
    assert storage.images_besides(BASE_TAGS) == []
    folder = tmp_path / "storage" / "overlay-images"
    folder.mkdir(parents=True)
    (folder / "images.json").write_text(json.dumps(images))
    assert storage.images_besides(BASE_TAGS) == ["step", "none", "foreign", "former"]


def test_containers_are_found_while_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another build that ends at once removes its own meanwhile: a build's are all found still."""
    storage = BuildStorage(tmp_path)
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
