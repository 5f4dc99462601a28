"""Whether a bound on processors holds, without a clock: the kernel counts when it does."""

from cakework.node.cgroups import Cgroup


def throttled(cgroup: Cgroup) -> int:
    """Return in how many periods what is in the group wanted more than it may use."""
    for folder in cgroup.folders:
        if (file := folder / "cpu.stat").exists():
            fields = dict(line.split() for line in file.read_text().splitlines())
            if "nr_throttled" in fields:
                return int(fields["nr_throttled"])
    raise AssertionError(f"{cgroup.name} has no bound on processors")
