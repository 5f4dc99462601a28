"""``cakework completion``: what a shell needs to complete commands and options."""

from typing import Literal

from cakework.cli.exits import ExitCode


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a script that has a shell complete commands and options.

    Args:
        shell: bash: source <(cakework completion bash) in ~/.bashrc; zsh: write it to _cakework
            in a folder of $fpath; fish: write it to ~/.config/fish/completions/cakework.fish.
    """
    from cakework.cli.main import app

    print(app.generate_completion(prog_name="cakework", shell=shell))
    return ExitCode.OK
