"""Cakework: serverless inside your own product, on microVMs."""

__version__ = "0.1.0"
