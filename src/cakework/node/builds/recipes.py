"""How the base images are made: from Debian's packages, without a registry.

A recipe's ``version`` is a digest of it and of the scripts in rootfs/, so that a changed
recipe makes a new image.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

PREFIX = "cakework/"
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCRIPTS = Path(__file__).with_name("rootfs")

EXCLUDED = (
    "/usr/share/bug/*",
    "/usr/share/doc-base/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One base image.

    With ``packages`` it is installed from them, then finished by ``rootfs/<name>.sh``; without,
    the script fills it alone.
    """

    name: str
    packages: tuple[str, ...]
    cmd: tuple[str, ...]
    env: tuple[str, ...] = (PATH_ENV,)

    @property
    def reference(self) -> str:
        """Return what FROM names: ``cakework/<name>``."""
        return f"{PREFIX}{self.name}"

    @property
    def version(self) -> str:
        """Return what tells this recipe from a later one of the same name."""
        digest = hashlib.sha256(repr((self, EXCLUDED)).encode())
        for script in sorted(SCRIPTS.glob("*.*")):
            digest.update(script.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def tag(self) -> str:
        """Return the name of this version's image in the builds' storage."""
        return f"localhost/{self.reference}:{self.version}"


# usr-is-merged: else usrmerge is taken, and Perl with it.
_BASIS = ("ca-certificates", "usr-is-merged")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("busybox", (), ("sh",)),
        Recipe(
            "python",
            (*_BASIS, "python3", "python3-pip", "python3-venv", "python-is-python3"),
            ("python3",),
            (PATH_ENV, "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "PIP_ROOT_USER_ACTION=ignore"),
        ),
        Recipe("node", (*_BASIS, "nodejs"), ("node",), (PATH_ENV, "LANG=C.UTF-8")),
    )
}
BUILDER = Recipe(
    "builder",
    (*_BASIS, "buildah", "busybox-static", "erofs-utils", "mount", "runc", "skopeo", "util-linux"),
    ("sh",),
)
"""What machines run in which images are built; no Dockerfile can name it."""
BASE_TAGS = frozenset(recipe.tag for recipe in (*RECIPES.values(), BUILDER))
"""Base images that are still used; of an earlier recipe's no build is made any more."""


def recipe_of(reference: str) -> Recipe | None:
    """Return the recipe of a base image, or None when ``reference`` is not one."""
    name = reference.removeprefix("localhost/")
    if not name.startswith(PREFIX):
        return None
    return RECIPES.get(name.removeprefix(PREFIX).removesuffix(":latest"))
