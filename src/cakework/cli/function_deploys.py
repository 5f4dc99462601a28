"""A folder's function: made if it is not there, its settings, and a version of its code.

settings of cakework.toml ──▶ code sent ──▶ dependencies built ──▶ imported ──▶ live ──▶ triggers
                                                  └──────────────────┴─ fails: what was live stays
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_folders import read_code
from cakework.cli.manifest import FILE, Manifest, read_manifest
from cakework.cli.output import Output, files, shown_on_stderr
from cakework.cli.trigger_deploys import Settled, TriggerDeploy
from cakework.domain.functions import NEWEST, FunctionSettings
from cakework_client import CakeworkClient, Function, NotFound, Secret, Version
from cakework_client.folders import File, Source
from cakework_client.models import FunctionKind, Settings

LOOK_S = (0.05, 0.5)
"""How long to wait between two looks at a version, at first and at most."""


@dataclass(frozen=True)
class Asked:
    """What a command says of a deploy beside the folder."""

    name: str | None = None
    user: str | None = None
    message: str | None = None
    promote: bool = True


@dataclass(frozen=True)
class Project:
    """What is to be deployed."""

    manifest: Manifest
    files: Sequence[File]

    @classmethod
    def read(cls, folder: Path, asked: Asked) -> "Project":
        """Return what a folder has. Raises CommandFailed."""
        return cls(named(read_manifest(folder), asked), read_code(folder))

    @property
    def size_bytes(self) -> int:
        """What its files take in a request, about."""
        return sum(len(file["content"]) for file in self.files)


def named(manifest: Manifest, asked: Asked) -> Manifest:
    """Return what a file says, with the name and the owner that the command says."""
    name, user = asked.name or manifest.name, asked.user or manifest.user_id
    return replace(manifest, name=name, user_id=user)


def deploy_function(client: CakeworkClient, folder: Path, asked: Asked, output: Output) -> int:
    """Deploy a folder; print the URL of its function."""
    project = Project.read(folder, asked)
    began = time.monotonic()
    function = with_settings(client, project.manifest, output)
    output.progress(f"sending {files(len(project.files))}, {-(-project.size_bytes // 1024)} KiB")
    version = sent(client, function, project, asked)
    took = "as it was: no code has changed"
    if version.state != "ready":
        version = made(client, function, version, output)
        took = f"after {time.monotonic() - began:.1f} s"
    function = client.get_function(function.id)
    output.progress(_end(function, version, took))
    settled = _triggers(TriggerDeploy(client, function, output), project.manifest, asked)
    answer = {
        "function": function.to_dict(),
        "version": version.to_dict(),
        "triggers": settled.to_dict(),
    }
    output.result(answer, function.url)
    for name in _missing_secrets(client, function):
        output.progress(
            f"warning: there is no secret {name}, which the settings name; work fails until "
            f"`cakework secrets set {name}{_of_user(function)}`"
        )
    if following := _next(function, version):
        output.progress(f"now: {following}")
    return ExitCode.OK


def _triggers(deploy: TriggerDeploy, manifest: Manifest, asked: Asked) -> Settled:
    """Have the triggers be as the file says, unless what is live is to stay as it is."""
    if asked.promote:
        return deploy.settle(manifest.triggers)
    if manifest.triggers:
        deploy.output.progress("its triggers are left as they are, as what is live is")
    return Settled()


def with_settings(client: CakeworkClient, manifest: Manifest, output: Output) -> Function:
    """Return the function, made if there is none, with the settings that the file names."""
    named = client.iter_functions(name=manifest.name, user_id=manifest.user_id)
    function = next((each for each in named if each.user_id == manifest.user_id), None)
    if function is None:
        made = client.create_function(
            manifest.name,
            manifest.runtime,
            user_id=manifest.user_id,
            kind=cast("FunctionKind | None", manifest.kind),
            settings=cast("Settings", manifest.settings),
        )
        output.progress(f"made function {made.name} ({made.runtime})")
        return made
    _check_same(function, manifest)
    differing = _differing(function, manifest)
    if differing:
        function = client.update_function(function.id, cast("Settings", manifest.settings))
        output.progress(f"changed {', '.join(differing)} of {function.name}")
    return function


def sent(client: CakeworkClient, function: Function, project: Project, asked: Asked) -> Version:
    """Send the code; return the version that is made of it, or that has it already."""
    return client.deploy_function(
        function.id,
        Source(files=project.files),
        entry=project.manifest.entry,
        signature=project.manifest.signature,
        message=asked.message,
        promote=asked.promote,
    )


def made(
    client: CakeworkClient,
    function: Function,
    version: Version,
    output: Output,
    is_shown: Callable[[str], bool] = lambda _: False,
) -> Version:
    """Return a version once it is ready, having shown how its dependencies are installed.

    ``function`` is as it was before the deploy. A traceback that ``is_shown`` anyway is not shown.

    Raises:
        CommandFailed: It cannot be made; with the traceback.
    """
    number, pause_s = version.version, LOOK_S[0]
    build = BuildLog(client, version.build_id, output)
    try:
        while version.state == "building":
            build.show()
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.3, LOOK_S[1])
            version = client.get_version(version.function_id, number)
    except KeyboardInterrupt:
        shown = f"cakework versions {function.name}{_of_user(function)}"
        output.progress(f"version {number} is still being made; `{shown}` shows it")
        raise
    if version.state != "ready":
        live = function.live_version
        stays = f"Version {live} is live as before." if live else "Nothing is live."
        told = f"Version {number} could not be made. {stays}"
        if not version.error or not is_shown(version.error.strip()):
            told = f"{told}\n{told_lines(version.error)}"
        raise CommandFailed(told, code="deploy_failed")
    return version


@dataclass
class BuildLog:
    """The log of a build that is made for a version, or was for an older one and is not shown."""

    client: CakeworkClient
    build_id: str
    output: Output
    awaited: bool = False
    done: bool = False

    def show(self) -> None:
        """Show it to its end, once there is one."""
        if self.done:
            return
        try:
            build = self.client.get_build(self.build_id)
        except NotFound:
            self.awaited = True
            return
        self.done = True
        if build.status == "created" or self.awaited:
            self.output.progress("building its runtime and dependencies")
            for line in self.client.follow_logs(self.build_id):
                self.output.progress(f"  {shown_on_stderr(line.message)}")


def told_lines(text: str | None) -> str:
    """Return what a stranger's program said as lines that may be shown among the progress."""
    lines = (text or "It says no more.").splitlines()
    return "\n".join(f"  {shown_on_stderr(line)}" for line in lines)


def _check_same(function: Function, manifest: Manifest) -> None:
    runtime = NEWEST.get(manifest.runtime, manifest.runtime)
    for what, is_, wanted in (
        ("runtime", function.runtime, runtime),
        ("kind", function.kind, manifest.kind or function.kind),
    ):
        if is_ != wanted:
            raise CommandFailed(
                f"The function {function.name} has {what} {is_}, and {FILE} says {wanted}. That "
                "cannot be changed: give it another name, or delete the function first.",
                ExitCode.USAGE,
            )


def _differing(function: Function, manifest: Manifest) -> list[str]:
    shown, wanted = function.settings.to_dict(), _whole(manifest.settings)
    is_ = _whole({name: shown[name] for name in manifest.settings if name in shown})
    return [name for name in manifest.settings if is_[name] != wanted[name]]


def _whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with all defaults, in a form that can be compared."""
    return FunctionSettings.model_validate(settings).model_dump(by_alias=True)


def _end(function: Function, version: Version, took: str) -> str:
    is_live = function.live_version == version.version
    handlers = ", ".join(version.handlers or ())
    state = "live" if is_live else "ready, not live,"
    return f"version {version.version} is {state} {took}; it handles {handlers}"


def _missing_secrets(client: CakeworkClient, function: Function) -> list[str]:
    """Return the secrets that settings name and that nothing the function may see has.

    Secrets are listed until all are found; the account's own come first.
    """
    missing = set(function.settings.secrets or ())
    if missing:
        for secret in client.iter_secrets():
            if _may_see(function, secret):
                missing.discard(secret.name)
            if not missing:
                break
    return sorted(missing)


def _may_see(function: Function, secret: Secret) -> bool:
    """Say whether a function sees a secret; one of the account's own may see end users', for whom
    it is invoked."""
    if secret.function_id is not None:
        return secret.function_id == function.id
    if secret.user_id is not None:
        return function.user_id in (None, secret.user_id)
    return function.user_id is None or bool(secret.shared)


def _next(function: Function, version: Version) -> str | None:
    """Return the command that tries the version; None if it handles nothing that a person sends."""
    user, handlers = _of_user(function), version.handlers or ()
    if function.live_version != version.version:
        return f"cakework promote {function.name} {version.version}{user}"
    if "event" in handlers:
        return f"cakework invoke {function.name} --data '{{}}'{user}"
    return f"curl {function.url}" if "http" in handlers else None


def _of_user(function: Function) -> str:
    return f" --user {function.user_id}" if function.user_id else ""
