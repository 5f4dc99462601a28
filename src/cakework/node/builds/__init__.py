"""Builds: from a Dockerfile and files to an image."""

from cakework.node.builds.log import Facts
from cakework.node.builds.queue import Builds
from cakework.node.builds.shop import BuildNetwork

__all__ = ["BuildNetwork", "Builds", "Facts"]
