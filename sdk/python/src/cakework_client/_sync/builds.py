"""Made of _async/builds.py by generate_sync.py; edit that.

Calls about builds."""

from collections.abc import Callable, Generator
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Unpack

from cakework_client._sync.logs import Logs
from cakework_client._sync.waiting import aside, sleep
from cakework_client.calls import Deadline, Options, PostOptions, segment
from cakework_client.errors import BuildFailed
from cakework_client.folders import Files, Folder, as_files
from cakework_client.following import FOREVER_S
from cakework_client.models import Build, BuildPage, BuildStatus, LogLine, SucceededBuild
from cakework_client.wire import given

SETTLE_S = 0.05
"""Pause between looks at a build whose log has ended: its result comes with it or just after."""


class Builds(Logs):
    """Calls about builds."""

    def build_image_from_files(
        self, dockerfile: str, files: Files = (), **options: Unpack[PostOptions]
    ) -> Build:
        """Have an image built from a Dockerfile and files; returns at once.

        Args:
            dockerfile: The Dockerfile, as text.
            files: The files of the build context: paths with contents, or as the API has them.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(dockerfile=dockerfile, files=as_files(files))
        return self._call(Build, "POST", "/v1/image/build/files", options, body=body)

    def build_image_from_github(
        self,
        dockerfile: str,
        repository: str,
        branch: str,
        *,
        token: str = "",
        dockerignore: str | None = None,
        **options: Unpack[PostOptions],
    ) -> Build:
        """Have an image built from a Dockerfile and a branch on GitHub; returns at once.

        Args:
            dockerfile: The Dockerfile, as text. It counts, whatever the repository has.
            repository: The repository: ``org/repo``.
            branch: The branch; its newest commit is built.
            token: Token that may read the repository; empty for a public one.
            dockerignore: The .dockerignore, as text; the repository's own counts if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            dockerfile=dockerfile,
            repository=repository,
            branch=branch,
            token=token,
            dockerignore=dockerignore,
        )
        return self._call(Build, "POST", "/v1/image/build/github", options, body=body)

    def upload_directory(
        self,
        folder: "str | PathLike[str]",
        *,
        dockerfile: "str | PathLike[str] | None" = None,
        **options: Unpack[PostOptions],
    ) -> Build:
        """Have an image built from a folder; returns at once.

        Files that the folder's .dockerignore names are not sent.

        Args:
            folder: The folder.
            dockerfile: Dockerfile to use instead of the folder's own.
            options: ``timeout``, ``idempotency_key``.

        Raises:
            FolderError: Something is missing, or cannot be read.
        """
        other = None if dockerfile is None else Path(dockerfile)
        found = aside(lambda: Folder.read(Path(folder), other))
        return self.build_image_from_files(found.dockerfile, found.files, **options)

    def get_build(self, build_id: str, **options: Unpack[Options]) -> Build:
        """Return a build."""
        return self._call(Build, "GET", f"/v1/image/build/{segment(build_id)}", options)

    def list_builds(
        self,
        *,
        status: BuildStatus | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> BuildPage:
        """Return a page of builds, newest first; see :meth:`iter_builds` for all of them."""
        params = given(status=status, pagination=pagination)
        return self._call(BuildPage, "GET", "/v1/image/builds", options, params=params)

    def iter_builds(
        self, *, status: BuildStatus | None = None, **options: Unpack[Options]
    ) -> Generator[Build]:
        """Yield all builds, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_builds(status=status, pagination=pagination, **options)
            yield from page.builds
            pagination = page.pagination
            if pagination is None:
                return

    def cancel_build(self, build_id: str, **options: Unpack[PostOptions]) -> Build:
        """End a build that has not ended."""
        path = f"/v1/image/build/{segment(build_id)}/cancel"
        return self._call(Build, "POST", path, options)

    def wait_for_build(
        self,
        build_id: str,
        *,
        on_line: Callable[[LogLine], object] | None = None,
        timeout: float | None = None,
    ) -> SucceededBuild:
        """Return a build once it has succeeded.

        Args:
            build_id: Id of the build.
            on_line: Called with each line of the build's log as it comes.
            timeout: Seconds within which it must have ended; None waits as long as it takes.

        Raises:
            BuildFailed: It has failed.
        """
        deadline = Deadline(FOREVER_S if timeout is None else timeout)
        with closing(self.follow_logs(build_id, timeout=deadline.left_s)) as lines:
            for line in lines:
                if on_line is not None:
                    on_line(line)
        while (build := self.get_build(build_id)).status == "created":
            deadline.check()
            sleep(SETTLE_S)
        succeeded = SucceededBuild.of(build)
        if succeeded is None:
            raise BuildFailed(build)
        return succeeded
