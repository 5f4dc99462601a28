"""How the base images are made: from Debian's packages, without a registry.

A recipe's ``version`` is a digest of all that is written here for it, so that a changed
recipe makes a new image.
"""

import hashlib
from dataclasses import dataclass

PREFIX = "cakework/"
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/doc-base/*",
    "/usr/share/info/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
)

_BUSYBOX = """\
set -eu
mkdir -p "$1/bin" "$1/etc" "$1/root" "$1/tmp" "$1/var" "$1/usr" "$1/sbin" "$1/home"
ln -s ../bin "$1/usr/bin"
ln -s ../sbin "$1/usr/sbin"
cp /usr/bin/busybox "$1/bin/busybox"
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
done
chmod 1777 "$1/tmp"
chmod 700 "$1/root"
printf '%s\\n' 'root:x:0:0:root:/root:/bin/sh' \
    'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >"$1/etc/passwd"
printf '%s\\n' 'root:x:0:' 'nogroup:x:65534:' >"$1/etc/group"
"""

_CLEAN = """\
set -eu
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/* "$1"/var/log/* "$1"/tmp/* "$1"/run/*
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1"/etc/resolv.conf "$1"/etc/hostname
mkdir -p "$1/var/cache/apt/archives/partial" "$1/var/lib/apt/lists/partial"
"""

_PYTHON = """\
rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One base image. Without ``packages`` the script alone fills the root file system."""

    name: str
    packages: tuple[str, ...]
    script: str
    cmd: tuple[str, ...]
    env: tuple[str, ...] = (PATH_ENV,)

    @property
    def reference(self) -> str:
        """Return what FROM names: ``cakework/<name>``."""
        return f"{PREFIX}{self.name}"

    @property
    def version(self) -> str:
        """Return what tells this recipe from a later one of the same name."""
        return hashlib.sha256(repr((self, EXCLUDED)).encode()).hexdigest()[:16]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("busybox", (), _BUSYBOX, ("sh",)),
        Recipe(
            "python",
            ("ca-certificates", "python3", "python3-pip", "python3-venv", "python-is-python3"),
            _CLEAN + _PYTHON,
            ("python3",),
            (PATH_ENV, "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", "PIP_ROOT_USER_ACTION=ignore"),
        ),
        Recipe(
            "node",
            ("ca-certificates", "nodejs", "npm"),
            _CLEAN,
            ("node",),
            (PATH_ENV, "LANG=C.UTF-8", "NODE_ENV=production"),
        ),
    )
}


def recipe_of(reference: str) -> Recipe | None:
    """Return the recipe of a base image, or None when ``reference`` is not one."""
    name = reference.removeprefix("localhost/")
    if not name.startswith(PREFIX):
        return None
    return RECIPES.get(name.removeprefix(PREFIX).removesuffix(":latest"))
