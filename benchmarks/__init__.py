"""Measurements of Cakework, against other programs on the same machine."""
