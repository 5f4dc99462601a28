"""Whether KVM works is found out by one boot, which is not waited for as long as others are."""

from pathlib import Path
from typing import cast

import pytest

from cakework.node.guest.protocol import GuestError
from cakework.node.listing import entries
from cakework.node.vms import accelerator, workshop
from cakework.node.vms.accelerator import TRIAL_S, choose_accelerator
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.template import Template

pytestmark = pytest.mark.anyio


class Artifacts:
    """Files of a node, as far as they have to be named."""

    digest = "0" * 64


class NoHost:
    """A host that nothing is asked of."""

    artifacts = Artifacts()


def no_files(*_: object) -> None:
    """Lay nothing out."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_device_with_which_nothing_boots_is_given_up_after_one_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is kept, so that the next start does not try again."""
    asked_s: list[float] = []

    async def silent(_host: Host, _making: Template, timeout_s: float) -> Machine:
        asked_s.append(timeout_s)
        raise GuestError("nothing was heard of the guest")

    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "KVM", device)
    monkeypatch.setattr(Machine, "boot", silent)
    monkeypatch.setattr(workshop, "_lay_out", no_files)
    for _ in range(2):
        assert await choose_accelerator("auto", tmp_path, cast("Host", NoHost())) == "tcg"
    assert asked_s == [TRIAL_S]
    assert {each.name for each in entries(tmp_path)} == {"kvm", "accelerator.json"}
