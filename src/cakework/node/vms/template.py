"""A template: a machine booted once and saved while its guest waited for a program."""

from dataclasses import dataclass

from cakework.node.vms.saved import Saved


@dataclass(frozen=True, slots=True)
class Template(Saved):
    """A whole template: what is saved of the machine, and with it

    rehearsal.erofs   the image disk as it was then
    """
