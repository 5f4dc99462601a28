"""Which mounts a container of a build may have."""

import pytest

from cakework.node.builds.runtime import is_own, parse_mounts

WORK = "/b/0a1b2c3d-0000-4000-8000-000000000000"
TABLE = f"""\
1 0 0:40 / / rw,nosuid - tmpfs sandbox rw
2 1 254:0 /data/builds/storage /b/storage rw - ext4 /dev/disk rw
3 1 254:0 /data/builds/w/{WORK[3:]} {WORK} rw shared:4 - ext4 /dev/disk rw
4 1 0:50 / /b/storage/overlay/aa/merged rw - overlay overlay rw,upperdir=/b/storage/o/diff
5 1 254:0 /data/builds/w/{WORK[3:]}/tmp/cache {WORK}/tmp/bundle/mnt/own rw - ext4 /dev/disk rw
6 1 0:50 /src {WORK}/tmp/bundle/mnt/stage rw - overlay overlay rw,upperdir=/b/storage/o/diff
7 1 254:0 /data/builds/storage {WORK}/tmp/bundle/mnt/storage rw - ext4 /dev/disk rw
8 1 254:0 /data/builds/w/{WORK[3:]}-other {WORK}/tmp/bundle/mnt/beside rw - ext4 /dev/disk rw
9 1 0:40 / {WORK}/tmp/bundle/mnt/sandbox rw - tmpfs sandbox rw
10 1 254:0 /data/builds/w/{WORK[3:]}/tmp {WORK}/tmp/bundle/mnt/covered rw - ext4 /dev/disk rw
11 1 254:0 /usr {WORK}/tmp/bundle/mnt/covered rw - ext4 /dev/disk rw
"""


@pytest.mark.parametrize(
    ("source", "own"),
    [
        (f"{WORK}/context", True),
        (f"{WORK}/tmp/bundle/hosts", True),
        (f"{WORK}/tmp/bundle/mnt/own", True),
        (f"{WORK}/tmp/bundle/mnt/stage", True),
        ("/b/storage/overlay/aa/merged/src", True),
        (f"{WORK}/tmp/bundle/mnt/storage", False),
        (f"{WORK}/tmp/bundle/mnt/storage/overlay", False),
        (f"{WORK}/tmp/bundle/mnt/beside", False),
        (f"{WORK}/tmp/bundle/mnt/sandbox", False),
        (f"{WORK}/tmp/bundle/mnt/covered", False),
        ("/b/storage/overlay/aa/diff", False),
        (f"/b/storage/overlay-containers/{'a' * 64}/userdata/volume", False),
        (f"{WORK}x/context", False),
        ("/sys", False),
        ("/", False),
    ],
)
def test_what_is_mounted_has_to_be_the_builds(source: str, own: bool) -> None:
    """Its work folder, and the root of a stage; whatever lies below or over that in the table."""
    assert is_own(source, parse_mounts(TABLE)) is own
