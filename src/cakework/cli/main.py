"""The commands, and how any of them ends.

Commands are named by import path and imported only when called: ``cakework --help`` is quick.
"""

import os
import signal
import sys

from cyclopts import App, Group

from cakework import __version__
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Output

SERVE = Group("On the server's machine", sort_key=1)
USE = Group("With a server (CAKEWORK_URL, CAKEWORK_API_KEY)", sort_key=2)
OTHER = Group("Other", sort_key=3)

COMMANDS: dict[str, tuple[str, Group, str]] = {
    "up": ("cakework.cli.up:up", SERVE, "Serve: run the API, the router and the node here."),
    "doctor": ("cakework.cli.doctor:doctor", SERVE, "Say what this machine has and lacks."),
    "keys": ("cakework.cli.keys:app", SERVE, "Create, list and revoke API keys."),
    "init": ("cakework.cli.init:init", USE, "Write a small project to begin with."),
    "deploy": ("cakework.cli.deploy:deploy", USE, "Deploy a folder: a function, or a VM."),
    "dev": ("cakework.cli.dev:dev", USE, "Run a folder's function at each save."),
    "functions": ("cakework.cli.functions:app", USE, "List functions, show or delete one."),
    "invoke": ("cakework.cli.invoke:invoke", USE, "Invoke a function, print its answer."),
    "invocations": ("cakework.cli.invocations:app", USE, "List, show, cancel, replay work."),
    "dead": ("cakework.cli.invocations:dead", USE, "Replay or discard what failed for good."),
    "triggers": ("cakework.cli.triggers:app", USE, "Have something invoke a function."),
    "events": ("cakework.cli.events:app", USE, "Emit events, see what they led to."),
    "versions": ("cakework.cli.functions:versions", USE, "List the versions of a function."),
    "promote": ("cakework.cli.functions:promote", USE, "Make a version live."),
    "rollback": ("cakework.cli.functions:rollback", USE, "Make an older version live again."),
    "secrets": ("cakework.cli.secrets:app", USE, "Set, list and delete secrets."),
    "build": ("cakework.cli.builds:build", USE, "Build an image from a folder or GitHub."),
    "import": ("cakework.cli.imports:import_image", USE, "Import an image from a registry."),
    "builds": ("cakework.cli.build_lists:app", USE, "List builds, or cancel one."),
    "images": ("cakework.cli.images:app", USE, "List images, or delete some."),
    "run": ("cakework.cli.run:run", USE, "Start a VM from an image and show its output."),
    "vms": ("cakework.cli.vms:vms", USE, "List VMs."),
    "logs": ("cakework.cli.logs:logs", USE, "Show the log of a function, VM or build."),
    "cache": ("cakework.cli.cached_vms:cache", USE, "Make a VM to start again and again."),
    "start": ("cakework.cli.cached_vms:start", USE, "Start cached VMs."),
    "fork": ("cakework.cli.cached_vms:fork", USE, "Start many VMs from a cached VM's snapshot."),
    "stop": ("cakework.cli.vms:stop", USE, "Stop VMs; those of `run` are destroyed."),
    "destroy": ("cakework.cli.vms:destroy", USE, "End VMs for good, their volumes too."),
    "webhooks": ("cakework.cli.webhooks:app", USE, "Have events sent to URLs of yours."),
    "completion": (
        "cakework.cli.completion:completion",
        OTHER,
        "Have your shell complete commands.",
    ),
    "version": ("cakework.cli.version:version", OTHER, "Show the version."),
}

app = App(
    name="cakework",
    help="Run your users' code in microVMs, from your own product.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app["--help"].group = OTHER
app["--version"].group = OTHER
for _name, (_path, _group, _help) in COMMANDS.items():
    app.command(_path, name=_name, group=_group, help=_help)


def main() -> None:
    """Run the command that ``sys.argv`` names and exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)
    arguments = sys.argv[1:]
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        SystemExit: With code 2, after an explanation, when the arguments are not understood.
    """
    try:
        result = app(arguments, result_action="return_value")
    except CommandFailed as failure:
        Output(as_json="--json" in arguments).failure(failure)
        return failure.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    return int(result or 0)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
