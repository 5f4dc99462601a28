"""Images: what microVMs start from."""

from cakework.node.images.store import Image, ImageStore, RunConfig

__all__ = ["Image", "ImageStore", "RunConfig"]
