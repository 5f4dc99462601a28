"""Has layers go that belong to no image and no container. Runs in a sandbox, as a program by
itself, while nothing else is at the storage.

    unused.py <storage>

Of an image that was not pulled to its end, the layers stay that had come; nothing of buildah's
removes them. One that is marked as not complete, as after a crash, the storage library removes
when it next opens the storage.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(storage: Path) -> None:
    """Mark them, and remove what was on its way into the folder of layers."""
    for left in (storage / "overlay-layers").glob(".tmp-*"):
        left.unlink()
    layers = _records(storage, "layers")
    unused = {layer["id"] for layer in layers}
    below = {layer["id"]: layer.get("parent") for layer in layers}
    for user in (*_records(storage, "images"), *_records(storage, "containers")):
        for layer in (user.get("layer"), *(user.get("mapped-layers") or ())):
            while layer in unused:
                unused.remove(layer)
                layer = below[layer]
    if unused:
        for layer in layers:
            if layer["id"] in unused:
                layer.setdefault("flags", {})["incomplete"] = True
        _write(_file(storage, "layers"), layers)


def _file(storage: Path, kind: str) -> Path:
    return storage / f"overlay-{kind}" / f"{kind}.json"


def _records(storage: Path, kind: str) -> list[dict[str, Any]]:
    file = _file(storage, kind)
    return json.loads(file.read_bytes()) if file.exists() else []


def _write(file: Path, records: list[dict[str, Any]]) -> None:
    making = file.with_name(".tmp-layers.json")
    with making.open("w") as stream:
        os.fchmod(stream.fileno(), 0o600)
        json.dump(records, stream)
        stream.flush()
        os.fsync(stream.fileno())
    making.rename(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
