"""The processors that all builds and imports of a node have together.

Each has a control group of its own, and so have the machines of builds; all of those are within one
group more. It is bounded, and weighs as much as one VM: where the host is busy, all builds together
get what one VM gets, and where it is idle they leave some to who comes next.
"""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cakework.node.cgroups import Cgroup, Limits
from cakework.settings import Settings

OF_THE_HOST = 0.75


def group_of_builds(node_dir: Path) -> str:
    """Return the name of the group of the node that keeps its things in ``node_dir``."""
    return f"builds-{hashlib.sha256(str(node_dir).encode()).hexdigest()[:8]}"


@contextmanager
def share_of_builds(settings: Settings) -> Generator[str]:
    """Have the group there, and give its name; it goes with the last who has it."""
    cpus = settings.build_cpus or OF_THE_HOST * (os.cpu_count() or 1)
    group = Cgroup.create(group_of_builds(settings.node_dir), Limits(cpus=cpus))
    try:
        yield group.name
    finally:
        group.leave()
