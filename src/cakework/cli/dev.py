"""``cakework dev``: the function of a folder in a VM, made anew at each save.

A function of its own, `NAME-dev`, is made and deployed to, and deleted at the end: nothing of the
real one changes, no version of it is used up, and its URL can be called while the log is followed.
"""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cakework.cli.client import failure_of, open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_deploys import Asked, Project, made, named, sent, with_settings
from cakework.cli.function_folders import seen
from cakework.cli.function_logs import FunctionLog
from cakework.cli.functions import User
from cakework.cli.interrupts import held_interrupt
from cakework.cli.invoke import FIRST_WAIT_S, given_event, print_result
from cakework.cli.invoke import failure_of as handlers_failure
from cakework.cli.manifest import Manifest, read_manifest
from cakework.cli.output import Json, Output
from cakework.cli.values import JsonText
from cakework_client import CakeworkClient, CakeworkError, Function, NotFound

LOOK_S = 0.2
"""How often the folder is looked at."""
END = "-dev"
LABEL = "cakework/dev"
"""Of the functions that are made here: no other one is taken up, and deleted in the end."""
NAME_CHARS_MAX = 63


def dev(
    folder: Path = Path(),
    /,
    *,
    data: Annotated[JsonText, Parameter(alias="-d")] = None,
    event: JsonText = None,
    name: str | None = None,
    user: User = None,
    as_json: Json = False,
) -> int:
    """Run a folder's function in a VM at each save, and show what it answers and logs.

    It runs as a function of its own, NAME-dev, at its own URL; Ctrl-C deletes that. Errors are
    shown, and the next save is waited for.

    Args:
        folder: Folder with a cakework.toml; the current one if absent.
        data: Data of the event that it is invoked with: JSON, @FILE, which is read each time.
        event: A whole event (CloudEvent), in the same ways.
        name: Name to run it as; NAME-dev if absent.
        user: End user whose it is, instead of the one in cakework.toml.
    """
    if data is not None and event is not None:
        raise CommandFailed("Give --data or --event, not both.", ExitCode.USAGE)
    output = Output(as_json=as_json)
    asked = Asked(name or _own_name(read_manifest(folder).name), user, "dev")
    with open_client() as client:
        dev = Dev(client, folder, asked, data, event, output)
        dev.check_name()
        with dev.cleaned_up():
            while True:
                before = seen(folder)
                dev.run()
                _wait_for_change(folder, before)
                output.progress(f"\nsaved at {time.strftime('%H:%M:%S')}")


def _own_name(name: str) -> str:
    return f"{name[: NAME_CHARS_MAX - len(END)]}{END}"


def _wait_for_change(folder: Path, before: dict[str, tuple[int, int]]) -> None:
    """Return when the folder is another than before, and has been so for two looks."""
    last = before
    while True:
        time.sleep(LOOK_S)
        with suppress(CommandFailed, OSError):
            now = seen(folder)
            if now == last != before:
                return
            last = now


@dataclass
class Dev:
    """One function while it is worked on."""

    client: CakeworkClient
    folder: Path
    asked: Asked
    data: str | None
    event: str | None
    output: Output
    function: Function | None = None
    announced: bool = False
    log: FunctionLog | None = None

    def check_name(self) -> None:
        """Raise CommandFailed when somebody else's function has the name."""
        for each in self.client.iter_functions(name=self.asked.name):
            is_ours = LABEL in (each.settings.labels or {})
            if each.user_id == self._manifest().user_id and not is_ours:
                raise CommandFailed(
                    f"There is a function {each.name} that no `cakework dev` has made. Give "
                    "another --name.",
                    ExitCode.USAGE,
                )

    def run(self) -> None:
        """Deploy what is there, invoke it, show the end; whatever goes wrong is shown."""
        try:
            self._run()
        except CommandFailed as failure:
            self.output.failure(failure)
        except CakeworkError as error:
            self.output.failure(failure_of(error))

    @contextmanager
    def cleaned_up(self) -> Generator[None]:
        """Delete the function at the end of the block, however that comes."""
        try:
            yield
        finally:
            with held_interrupt():
                function, self.function = self.function, None
                if function is not None:
                    self._delete(function)

    def _run(self) -> None:
        began = time.monotonic()
        project = Project.read(self.folder, self.asked)
        labels = {**project.manifest.settings.get("labels", {}), LABEL: "1"}
        settings = {**project.manifest.settings, "labels": labels}
        project = replace(project, manifest=replace(project.manifest, settings=settings))
        if self.log is not None:
            self.log.forget()
        with held_interrupt() as interrupted:
            self.function = function = with_settings(self.client, project.manifest, self.output)
        if interrupted:
            raise KeyboardInterrupt
        if not self.announced:
            self.announced = True
            self._follow(function)
            self.output.progress(f"{function.url} (Ctrl-C ends it and deletes {function.name})")
        version = sent(self.client, function, project, self.asked)
        if version.state != "ready":
            version = made(self.client, function, version, self.output, self._is_shown)
        elif function.live_version != version.version:
            self.client.promote_version(function.id, version.version)
        self.output.progress(f"version {version.version} after {time.monotonic() - began:.1f} s")
        if set(version.handlers or ()) & {"event", "http"}:
            self._invoke(function)

    def _invoke(self, function: Function) -> None:
        given = given_event(self.data, self.event)
        invocation = self.client.invoke_function(function.id, wait=FIRST_WAIT_S, **given)
        if not invocation.ended:
            invocation = self.client.wait_for_invocation(invocation.id)
        took = next((each.duration_ms for each in invocation.attempts), None)
        if invocation.state != "succeeded":
            stack = ((invocation.error and invocation.error.stack) or "").strip()
            raise handlers_failure(invocation, stack if self._is_shown(stack) else "")
        if self.output.as_json:
            self.output.result(invocation.to_dict(), "")
        else:
            print_result(self.client, invocation, self.output)
        self.output.progress(f"answered{'' if took is None else f' in {took} ms'}")

    def _is_shown(self, text: str) -> bool:
        return self.log is not None and self.log.has_shown(text)

    def _delete(self, function: Function) -> None:
        try:
            with suppress(NotFound):
                self.client.delete_function(function.id)
            # What it failed at is nobody's to replay.
            self.client.discard_dead_letters(filter={"functionId": function.id})
        except CakeworkError:
            told = f"{function.name} is left: cakework functions delete {function.id}"
            self.output.progress(f"\n{told}")
            raise
        self.output.progress(f"\ndeleted {function.name}")

    def _manifest(self) -> Manifest:
        return named(read_manifest(self.folder), self.asked)

    def _follow(self, function: Function) -> None:
        self.log = FunctionLog(self.client, function.id, self.output)
        threading.Thread(target=self.log.follow, daemon=True).start()
