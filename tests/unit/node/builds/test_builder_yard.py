"""Where builds run, as setting and host have it."""

import pytest

from cakework.node.builds.builder.yard import SYSTEM_MB, builder_shape, choose_isolation
from cakework.settings import Isolation


@pytest.mark.parametrize(
    ("wanted", "accelerator", "fits", "chosen"),
    [
        ("auto", "kvm", True, "vm"),
        ("auto", "kvm", False, "container"),
        ("auto", "tcg", True, "container"),
        ("vm", "tcg", False, "vm"),
        ("container", "kvm", True, "container"),
    ],
)
def test_what_is_not_said_depends_on_the_host(
    wanted: Isolation, accelerator: str, fits: bool, chosen: Isolation
) -> None:
    """Machines where they are quick and there is memory; what is said holds anyway."""
    assert choose_isolation(wanted, accelerator, fits=fits) == chosen


def test_a_build_has_all_the_memory_it_may_use() -> None:
    """What the machine takes for itself comes on top."""
    assert builder_shape(2048).memory_mb == 2048 + SYSTEM_MB
