"""What a build made, read by the node: files of a sandbox's own, and none that it links to; how
an image is run."""

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import structlog

from cakework.node.builds.failure import BuildError
from cakework.node.images import RunConfig

BYTES_MAX = 64 * 2**20
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")

log = structlog.get_logger(__name__)


def read_made(work: Path, name: str) -> bytes:
    """Return what is in the file ``name`` of ``work/out``.

    Raises:
        BuildError: it is not there, is something else than a file, or is larger than 64 MiB.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(work / "out", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, folder)
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            stack.callback(os.close, file)
        except OSError as error:
            raise BuildError(f"the build left no file {name}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise BuildError(f"the build left no file {name}")
        content = os.read(file, BYTES_MAX + 1)
        if len(content) > BYTES_MAX:
            raise BuildError(f"the build's file {name} is too large")
        return content


def read_config(inspected: bytes, image_id: str) -> RunConfig:
    """Read what ``buildah inspect --type image`` printed, where strangers may have had a hand in.

    Raises:
        BuildError: it is no configuration, or ``image_id`` is no image's.
    """
    try:
        if not _IMAGE_ID.fullmatch(image_id):
            raise ValueError(f"{image_id[:80]!r} is no digest")
        return run_config(json.loads(inspected), image_id)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        log.info("build_config_unreadable", reason=str(error)[:500])
        raise BuildError("the build left no configuration of its image") from error


def explain_export(output: str, image_mb: int) -> str:
    """Say why export.sh failed, from its stderr."""
    if "File size limit" in output or "too large" in output.lower():
        return f"the image is larger than {image_mb} MB"
    if "no space left on device" in output.lower():
        return "the disk for builds is full"
    log.error("export_failed", output=output[-2000:])
    return "the image could not be turned into a disk for microVMs"


def run_config(inspected: dict[str, Any], image_id: str) -> RunConfig:
    """Read what ``buildah inspect --type image`` says of running the image."""
    config: dict[str, Any] = inspected["OCIv1"].get("config") or {}
    return RunConfig(
        argv=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        env=tuple(config.get("Env") or ()),
        cwd=config.get("WorkingDir") or "/",
        user=config.get("User") or "",
        ports=tuple(sorted(config.get("ExposedPorts") or ())),
        stop_signal=config.get("StopSignal"),
        digest=image_id,
    )
