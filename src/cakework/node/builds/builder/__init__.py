"""Builds in microVMs of their own: where a stranger's commands run on no kernel of the host's."""
