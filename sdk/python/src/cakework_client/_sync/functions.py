"""Made of _async/functions.py by generate_sync.py; edit that.

Calls about functions, their versions and drafts."""

from collections.abc import Generator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from cakework_client._sync.transport import Transport
from cakework_client._sync.waiting import aside, sleep
from cakework_client.calls import Deadline, Form, Options, PostOptions, segment
from cakework_client.errors import DeployFailed
from cakework_client.folders import File, Files, Folder, Source, as_files, as_source
from cakework_client.models import (
    Deleted,
    DeployedArchive,
    DraftAnswer,
    Function,
    FunctionKind,
    FunctionPage,
    Invocation,
    SavedDraft,
    Settings,
    SourceFiles,
    Version,
    VersionPage,
)
from cakework_client.reaching import pauses_s
from cakework_client.wire import UNSET, changed, given


class Functions(Transport):
    """Calls about functions: code that runs when it is called, and its versions."""

    def create_function(
        self,
        name: str,
        runtime: str,
        *,
        user_id: str | None = None,
        kind: FunctionKind | None = None,
        settings: Settings | None = None,
        source: Source | None = None,
        entry: str | None = None,
        **options: Unpack[PostOptions],
    ) -> Function:
        """Make a function; with a source, deploy it as version 1.

        Args:
            name: Its name, one among its owner's: lower-case letters, digits and dashes.
            runtime: ``python3.13``, ``python3.11`` or ``node24``; ``python`` and ``node`` mean
                the newest.
            user_id: The end user whose it is; the account's own if absent.
            kind: ``function``, if absent, or ``transform``.
            settings: Its settings, by the API's names; what is absent is a default.
            source: Code to deploy at once, such as ``{"files": {"main.py": "…"}}``.
            entry: The file that is imported; with ``:name``, the handler.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            name=name,
            runtime=runtime,
            user_id=user_id,
            kind=kind,
            settings=settings,
            source=None if source is None else as_source(source),
            entry=entry,
        )
        return self._call(Function, "POST", "/v1/functions", options, body=body)

    def list_functions(
        self,
        *,
        user_id: str | None = None,
        name: str | None = None,
        kind: FunctionKind | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> FunctionPage:
        """Return a page of functions, newest first; see :meth:`iter_functions` for all of them."""
        params = given(user_id=user_id, name=name, kind=kind, pagination=pagination)
        return self._call(FunctionPage, "GET", "/v1/functions", options, params=params)

    def iter_functions(
        self,
        *,
        user_id: str | None = None,
        name: str | None = None,
        kind: FunctionKind | None = None,
        **options: Unpack[Options],
    ) -> Generator[Function]:
        """Yield all functions, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_functions(
                user_id=user_id, name=name, kind=kind, pagination=pagination, **options
            )
            yield from page.functions
            pagination = page.pagination
            if pagination is None:
                return

    def get_function(self, function_id: str, **options: Unpack[Options]) -> Function:
        """Return a function."""
        return self._call(Function, "GET", _path(function_id), options)

    def update_function(
        self, function_id: str, settings: Settings, **options: Unpack[Options]
    ) -> Function:
        """Change those settings of a function that are given; the next attempt sees them."""
        body = {"settings": settings}
        return self._call(Function, "PATCH", _path(function_id), options, body=body)

    def delete_function(self, function_id: str, **options: Unpack[Options]) -> Deleted:
        """Delete a function with its versions; what waits for it is canceled."""
        return self._call(Deleted, "DELETE", _path(function_id), options)

    def deploy_function(
        self,
        function_id: str,
        source: Source | None = None,
        *,
        archive: bytes | None = None,
        entry: str | None = None,
        signature: str | None = None,
        message: str | None = None,
        promote: bool | None = None,
        lock: str | None = None,
        **options: Unpack[PostOptions],
    ) -> Version:
        """Send code; returns its version at once, which :meth:`wait_for_version` waits for.

        Args:
            function_id: Id of the function.
            source: The code, such as ``{"files": {"main.py": "…"}}``.
            archive: The code as a tar.gz, in the place of ``source``.
            entry: The file that is imported; with ``:name``, the handler.
            signature: ``rest`` for handlers that take and answer as deployed ones once did.
            message: What it is, for people.
            promote: Whether it is live as soon as it is ready; it is if absent.
            lock: A lock file, as text, in the place of the code's own.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            source=None if source is None else as_source(source),
            entry=entry,
            signature=signature,
            message=message,
            promote=promote,
            lock=lock,
        )
        path = f"{_path(function_id)}/versions"
        if archive is None:
            return self._call(Version, "POST", path, options, body=body)
        form = Form.of(archive, body)
        return self._call(Version, "POST", path, options, form=form)

    def deploy_folder(
        self,
        function_id: str,
        folder: "str | PathLike[str]",
        *,
        entry: str | None = None,
        signature: str | None = None,
        message: str | None = None,
        promote: bool | None = None,
        **options: Unpack[PostOptions],
    ) -> Version:
        """Send a folder of code; returns its version at once.

        What the folder's .dockerignore names is not sent, nor are installed dependencies.

        Args:
            function_id: Id of the function.
            folder: The folder.
            entry: As of :meth:`deploy_function`, like the next three.
            signature: See there.
            message: See there.
            promote: See there.
            options: ``timeout``, ``idempotency_key``.

        Raises:
            FolderError: It is no folder, or cannot be read.
        """
        found = aside(lambda: Folder.of_code(Path(folder)))
        return self.deploy_function(
            function_id,
            Source(files=found.files),
            entry=entry,
            signature=signature,
            message=message,
            promote=promote,
            **options,
        )

    def wait_for_version(
        self, function_id: str, version: int, *, timeout: float | None = None
    ) -> Version:
        """Return a version as soon as it is ready.

        Args:
            function_id: Id of the function.
            version: Its number.
            timeout: Seconds within which it must be; None waits as long as it takes.

        Raises:
            DeployFailed: It has failed.
        """
        deadline = Deadline(1e9 if timeout is None else timeout)
        for pause_s in pauses_s():
            each_s = min(deadline.left_s, self._configuration.timeout_s)
            found = self.get_version(function_id, version, timeout=each_s)
            if found.state == "failed":
                raise DeployFailed(found)
            if found.state != "building":
                return found
            deadline.check()
            sleep(min(pause_s, max(deadline.left_s, 0.0)))
        raise AssertionError("there is always a next pause")

    def list_versions(
        self, function_id: str, *, pagination: str | None = None, **options: Unpack[Options]
    ) -> VersionPage:
        """Return a page of a function's versions, newest first."""
        path = f"{_path(function_id)}/versions"
        params = given(pagination=pagination)
        return self._call(VersionPage, "GET", path, options, params=params)

    def iter_versions(self, function_id: str, **options: Unpack[Options]) -> Generator[Version]:
        """Yield all versions of a function, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_versions(function_id, pagination=pagination, **options)
            yield from page.versions
            pagination = page.pagination
            if pagination is None:
                return

    def get_version(self, function_id: str, version: int, **options: Unpack[Options]) -> Version:
        """Return a version."""
        return self._call(Version, "GET", f"{_path(function_id)}/versions/{version}", options)

    def get_version_source(
        self, function_id: str, version: int, **options: Unpack[Options]
    ) -> SourceFiles:
        """Return the code of a version, as it was sent."""
        path = f"{_path(function_id)}/versions/{version}/source"
        return self._call(SourceFiles, "GET", path, options)

    def promote_version(
        self, function_id: str, version: int, **options: Unpack[PostOptions]
    ) -> Function:
        """Make a version live, a newer or an older one."""
        path = f"{_path(function_id)}/promote"
        return self._call(Function, "POST", path, options, body={"version": version})

    def get_draft(self, function_id: str, **options: Unpack[Options]) -> DraftAnswer:
        """Return what an editor saved of a function."""
        return self._call(DraftAnswer, "GET", f"{_path(function_id)}/draft", options)

    def put_draft(
        self, function_id: str, files: Files, *, if_match: str, **options: Unpack[Options]
    ) -> SavedDraft:
        """Save the draft of a function.

        Args:
            function_id: Id of the function.
            files: Its files: paths with contents, or as the API has them.
            if_match: The ``etag`` of the draft that was changed; ``"0"``, with its quotes, if there
                is none yet; ``*`` saves over whatever is there.
            options: ``timeout``.

        Raises:
            PreconditionFailed: It was changed since.
        """
        sent: Sequence[File] = as_files(files)
        path, more = f"{_path(function_id)}/draft", {"If-Match": if_match}
        return self._call(SavedDraft, "PUT", path, options, body={"files": sent}, more=more)

    def delete_draft(
        self, function_id: str, *, if_match: str, **options: Unpack[Options]
    ) -> Deleted:
        """Remove the draft of a function; ``if_match`` as of :meth:`put_draft`."""
        path, more = f"{_path(function_id)}/draft", {"If-Match": if_match}
        return self._call(Deleted, "DELETE", path, options, more=more)

    def test_function(
        self,
        function_id: str,
        *,
        source: Source | None = None,
        entry: str | None = None,
        signature: str | None = None,
        lock: str | None = None,
        event: dict[str, Any] | None = None,
        data: Any = UNSET,
        user_id: str | None = None,
        wait: float | None = None,
        **options: Unpack[PostOptions],
    ) -> Invocation:
        """Run the draft of a function, or other code, once; no version is made.

        Args:
            function_id: Id of the function.
            source: The code; its draft if absent.
            entry: As of :meth:`deploy_function`, like the next two.
            signature: See there.
            lock: See there.
            event: A CloudEvent; what it lacks is filled in.
            data: The data of an event that is made around it, in the place of ``event``.
            user_id: The end user for whom it is.
            wait: Seconds that the server waits for its end, up to 50; it does if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(
            source=None if source is None else as_source(source),
            entry=entry,
            signature=signature,
            lock=lock,
            event=event,
            user_id=user_id,
            wait=wait,
        )
        path = f"{_path(function_id)}/test"
        return self._call(Invocation, "POST", path, options, body={**body, **changed(data=data)})

    def deploy_function_from_archive(
        self,
        archive: bytes,
        *,
        runtime: str,
        handler_file: str,
        handler_function: str,
        platform: str | None = None,
        **options: Unpack[PostOptions],
    ) -> DeployedArchive:
        """Deploy a tar.gz as a function of its own, as Cakework did in 2023.

        Args:
            archive: The code: a tar.gz.
            runtime: As of :meth:`create_function`.
            handler_file: The file that is imported.
            handler_function: The handler in it: it takes a request and answers as ``rest`` ones do.
            platform: ``linux/amd64`` if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        fields = given(
            runtime=runtime,
            platform=platform,
            handler_file=handler_file,
            handler_function=handler_function,
        )
        path, form = "/v1/function/deploy/archive", Form.of(archive, fields)
        return self._call(DeployedArchive, "POST", path, options, form=form)


def _path(function_id: str) -> str:
    return f"/v1/functions/{segment(function_id)}"
