"""How the base images are made: from Debian's packages and locked wheels, without a registry of
images.

    Debian 12 ─┬─▶ cakework/python:3.11      Debian 13 ─┬─▶ cakework/python:3.13
               └─▶ cakework/node:18                     └─▶ cakework/node:24

A recipe's ``version`` is a digest of it and of what is in rootfs/, so that a changed recipe makes
a new image. docs/base-images.md says for users what is in each.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

PREFIX = "cakework/"
LATEST = "latest"
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
    """One base image, which ``rootfs/<script>`` finishes.

    With a ``basis`` it lies on that image, and ``packages`` are added to it. Without, it is
    installed from ``packages`` of Debian ``release``, a codename, "" for the host's; without
    those, the script fills it alone. ``wheels`` names a file of rootfs/ with locked ones.
    """

    name: str
    tags: tuple[str, ...]
    """What FROM may name it by; the first tells it from others of its name."""
    script: str
    cmd: tuple[str, ...]
    packages: tuple[str, ...] = ()
    release: str = ""
    basis: "Recipe | None" = None
    wheels: str = ""
    env: tuple[str, ...] = (PATH_ENV,)

    @property
    def key(self) -> str:
        """Return what no other recipe is called: ``python-3.13``."""
        return f"{self.name}-{self.tags[0]}"

    @property
    def references(self) -> tuple[str, ...]:
        """Return what FROM names: ``cakework/<name>:<tag>``."""
        return tuple(f"{PREFIX}{self.name}:{tag}" for tag in self.tags)

    @property
    def reference(self) -> str:
        """Return its name for people, without a tag where that says nothing."""
        return self.references[0].removesuffix(f":{LATEST}")

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
        return f"localhost/{PREFIX}{self.name}:{self.tags[0]}-{self.version}"


# usr-is-merged: else usrmerge is taken, and Perl with it.
_FEWEST = ("ca-certificates", "usr-is-merged")
_BASIS = (*_FEWEST, "adduser", "netbase", "passwd", "tzdata")
_PYTHON = ("python3", "python3-venv", "python-is-python3")
_LANG = "LANG=C.UTF-8"
_PYTHON_ENV = (PATH_ENV, _LANG, "PYTHONUNBUFFERED=1", "PIP_ROOT_USER_ACTION=ignore")

DEBIAN_12 = Recipe("debian", ("12",), "debian.sh", ("bash",), _BASIS, "bookworm")
DEBIAN_13 = Recipe("debian", ("13",), "debian.sh", ("bash",), _BASIS, "trixie")
"""What the others lie on; no Dockerfile can name them."""
RECIPES = (
    Recipe("busybox", (LATEST,), "busybox.sh", ("sh",)),
    Recipe(
        "python",
        ("3.11", LATEST),
        "python.sh",
        ("python3",),
        (*_PYTHON, "python3-pip"),
        basis=DEBIAN_12,
        wheels="python-3.11.txt",
        env=_PYTHON_ENV,
    ),
    Recipe(
        "python",
        ("3.13",),
        "python.sh",
        ("python3",),
        _PYTHON,
        basis=DEBIAN_13,
        wheels="python-3.13.txt",
        env=_PYTHON_ENV,
    ),
    Recipe(
        "node",
        ("18", LATEST),
        "node-18.sh",
        ("node",),
        ("nodejs",),
        basis=DEBIAN_12,
        env=(PATH_ENV, _LANG),
    ),
    Recipe(
        "node",
        ("24",),
        "node-24.sh",
        ("node",),
        basis=DEBIAN_13,
        wheels="node-24.txt",
        # yarn is then the version that corepack knows by its digest.
        env=(PATH_ENV, _LANG, "COREPACK_DEFAULT_TO_LATEST=0"),
    ),
)
"""What is without a tag, or ``latest``, stays what it is: what is built on it would change."""
BUILDER = Recipe(
    "builder",
    (LATEST,),
    "builder.sh",
    ("sh",),
    (
        *_FEWEST,
        *("buildah", "busybox-static", "erofs-utils", "mount", "runc", "skopeo", "util-linux"),
    ),
)
"""What machines run in which images are built; no Dockerfile can name it."""
BASE_TAGS = frozenset(recipe.tag for recipe in (*RECIPES, DEBIAN_12, DEBIAN_13, BUILDER))
"""Base images that are still used; of an earlier recipe's no build is made any more."""


class UnknownBase(ValueError):
    """A name like that of a base image, but there is none; ``str()`` of it is a sentence."""


def recipe_of(reference: str) -> Recipe | None:
    """Return the recipe of a base image, or None when ``reference`` is not named like one.

    Raises:
        UnknownBase: it is named like one.
    """
    whole = reference.removeprefix("localhost/")
    if not whole.startswith(PREFIX):
        return None
    name, _, tag = whole.removeprefix(PREFIX).partition(":")
    for recipe in RECIPES:
        if recipe.name == name and (tag or LATEST) in recipe.tags:
            return recipe
    there_are = [each for each in RECIPES if each.name == name] or RECIPES
    *most, last = (each.reference for each in there_are)
    names = f"{', '.join(most)} and {last}" if most else last
    raise UnknownBase(f"base image {reference[:200]} was not found: we make {names}")
