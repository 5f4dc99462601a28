"""Imports: images fetched from registries."""

from cakework.node.imports.imports import Imports

__all__ = ["Imports"]
