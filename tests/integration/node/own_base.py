"""A base image of a test's own, which lies on busybox.

As a program it carries out builds until it is killed, as build_node does, with that base image:
SCRIPTS DATA_DIR NETNS ORDERS FACTS.
"""

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from cakework.node.builds import bases, recipes
from cakework.node.builds.builder import roots
from cakework.node.builds.recipes import LATEST, RECIPES, SCRIPTS, Recipe
from tests.integration.node import build_node

NAME = "cakework/own:1"
LOCK = "own.txt"


def write_scripts(folder: Path, script: str, *, lock: str = "") -> Path:
    """Make the folder of scripts: ``script`` finishes the image, ``lock`` names its wheels."""
    shutil.copytree(SCRIPTS, folder)
    (folder / "own.sh").write_text(script)
    if lock:
        (folder / LOCK).write_text(lock)
    return folder


def use(scripts: Path, patch: Callable[[object, str, object], None] = setattr) -> None:
    """Have the image among those there are."""
    busybox = RECIPES[0]
    wheels = LOCK if (scripts / LOCK).exists() else ""
    own = Recipe("own", ("1", LATEST), "own.sh", ("sh",), basis=busybox, wheels=wheels)
    patch(recipes, "SCRIPTS", scripts)
    patch(bases, "SCRIPTS", scripts)
    for module in (recipes, roots):
        patch(module, "RECIPES", (busybox, own))


if __name__ == "__main__":
    given, data_dir, netns, orders, facts = sys.argv[1:]
    use(Path(given))
    asyncio.run(build_node.main(data_dir, netns, Path(orders).read_text().splitlines(), facts))
