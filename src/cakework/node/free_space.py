"""How much of the disk is left free, and who gives way when it gets less.

No VM starts with less than ``min_free_disk_mb``. Builds and imports are ended well before a VM
is: they can be asked for again, and a VM may be somebody's who has nothing to do with them.
"""


def least_for_builds_mb(min_free_disk_mb: int) -> int:
    """Return the free space below which builds and imports are ended."""
    return min_free_disk_mb * 3 // 4


def least_for_vms_mb(min_free_disk_mb: int) -> int:
    """Return the free space below which the VM that has taken most is ended."""
    return min_free_disk_mb // 2
