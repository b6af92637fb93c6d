"""Shell completion: the scripts that click writes, printed or put where bash, zsh and fish look for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from clipper.cli.problems import CommandFailed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["COMPLETE_VARIABLE", "answer", "current_shell", "install", "install_option", "script", "show_option"]

# The shell's script sets it: "bash_source" asks for the script itself, "bash_complete" for the words that fit.
COMPLETE_VARIABLE: Final = "_CLIP_COMPLETE"

# Shell → its script below the home directory, its start-up file, and the line there that loads the script. fish loads
# all scripts of its directory by itself.
_PLACES: Final = {
    "bash": (".bash_completions/clip.sh", ".bashrc", "source ~/.bash_completions/clip.sh"),
    "zsh": (".zfunc/_clip", ".zshrc", "fpath+=~/.zfunc; autoload -Uz compinit; compinit"),
    "fish": (".config/fish/completions/clip.fish", "", ""),
}


def answer(command: click.Command, instruction: str) -> int:
    """Answer what a shell's script asks; the exit code."""
    from click.shell_completion import shell_complete

    return shell_complete(command, {}, "clip", COMPLETE_VARIABLE, instruction)


def script(command: click.Command, shell: str) -> str:
    """The script that makes `shell` ask for completions."""
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None  # click knows all of them
    return completion(command, {}, "clip", COMPLETE_VARIABLE).source()


def current_shell() -> str:
    """The nearest shell among the parents of this process, else the login shell. Raises CommandFailed."""
    pid = os.getppid()
    try:
        while pid > 1:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                # pid (name) state parent …: the name may hold blanks and parentheses.
                before, _, after = file.read().rpartition(")")
            name = before.partition("(")[2].removeprefix("-")
            if name in _PLACES:
                return name
            pid = int(after.split()[1])
    except OSError:
        pass  # no /proc here: the login shell decides
    name = os.path.basename(os.environ.get("SHELL", ""))
    if name in _PLACES:
        return name
    raise CommandFailed(
        f"There is completion for {', '.join(_PLACES)}, and this shell is none of them",
        hint="Name one of them in SHELL, as in SHELL=bash clip --install-completion",
        code="unknown_shell",
    )


def install(command: click.Command, shell: str, home: Path) -> Path:
    """Write the script of `shell` below `home` and let the shell's start-up file load it; the script's path."""
    place, start_up, line = _PLACES[shell]
    path = home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script(command, shell), encoding="utf-8")
    if start_up:
        with (home / start_up).open("a+", encoding="utf-8") as file:
            file.seek(0)
            if line not in file.read().splitlines():
                file.write(f"\n{line}\n")
    return path


def _show(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(script(ctx.command, current_shell()))
        ctx.exit()


def _install(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from pathlib import Path

    shell = current_shell()
    try:
        path = install(ctx.command, shell, Path.home())
    except OSError as error:
        raise CommandFailed(f"Cannot write {error.filename}: {error.strerror}", code="not_writable") from error
    click.echo(f"{shell} completion installed in {path}\nCompletion will take effect once you restart the terminal")
    ctx.exit()


install_option = click.option(
    "--install-completion",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_install,
    help="Install completion for the current shell.",
)
show_option = click.option(
    "--show-completion",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show,
    help="Show completion for the current shell, to copy it or customize the installation.",
)
