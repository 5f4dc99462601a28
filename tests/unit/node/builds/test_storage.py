"""What buildah's storage holds, read from its own records."""

import json
from pathlib import Path

from cakework.node.builds.recipes import BASE_TAGS, RECIPES
from cakework.node.builds.storage import BuildStorage


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
