"""Has working containers go, and layers that belong to no image. Runs in a sandbox, as a program by
itself, while nothing else is at the storage.

    unused.py <storage>

Of an image that was not pulled to its end, the layers stay that had come; nothing of buildah's
removes them. One that is marked as not complete, as after a crash, the storage library removes
when it next opens the storage. A container whose maker was killed between having it on record and
describing it, in its ``buildah.json``, is none to ``buildah rm``, and holds its layer: it is taken
off the record.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(storage: Path) -> None:
    """Mark them, forget containers, and remove what was on its way into their folders."""
    for kind in ("layers", "containers"):
        for left in (storage / f"overlay-{kind}").glob(".tmp-*"):
            left.unlink()
    if _records(storage, "containers"):
        _write(_file(storage, "containers"), [])
    layers = _records(storage, "layers")
    unused = {layer["id"] for layer in layers}
    below = {layer["id"]: layer.get("parent") for layer in layers}
    for user in _records(storage, "images"):
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
    making = file.with_name(f".tmp-{file.name}")
    with making.open("w") as stream:
        os.fchmod(stream.fileno(), 0o600)
        json.dump(records, stream)
        stream.flush()
        os.fsync(stream.fileno())
    making.rename(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
