"""The ``nff`` group: commands load when called, errors become one line and an exit code."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from pathlib import Path

import click

from .. import __version__
from ..errors import StoppedError, did_you_mean
from ..workflows import workflow_names
from .failure import explain, fail
from .interrupts import heeded_sigterm

ROOT = Path(__file__).parent
WORKFLOWS = ROOT.parent / "workflows"
COMMANDS = {
    "init": "init",
    "train": "train",
    "lr": "lr",
    "evaluate": "evaluate",
    "validate": "validate",
    "check": "check",
    "compile": "compile",
    "bench": "bench",
    "info": "info",
    "models": "catalogue",
    "report": "report",
    "distill": "distill",
    "lammps": "lammps",
    "serve": "serve",
}  # command → file beside this
ENGINES = ("lammps", "serve")  # of these, what other programs run


class LazyGroup(click.Group):
    """Finds commands by file name, so that ``nff --help`` imports neither torch nor ASE.

    Every file in ``nfflr/workflows`` is a command; its help is the first line of the file's docstring.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*workflow_names(), *COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in workflow_names():
            from .workflow import workflow_command

            return workflow_command(name)
        if name in COMMANDS:
            return importlib.import_module(f".{COMMANDS[name]}", __package__).command
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]):
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            hint = did_you_mean(name, self.list_commands(ctx))
            raise click.UsageError(f"{name}: no such command{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = {
            "Simulate": {name: WORKFLOWS / f"{name}.py" for name in workflow_names()},
            "Simulate with other programs": {name: ROOT / f"{name}.py" for name in ENGINES},
            "Train and judge": {
                name: ROOT / f"{COMMANDS[name]}.py" for name in COMMANDS if name not in ENGINES
            },
        }
        for title, commands in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, _first_line(path)) for name, path in commands.items()])


def _first_line(path: Path) -> str:
    """First line of a file's docstring, read without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


@click.command(cls=LazyGroup, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(__version__, prog_name="nff")
def nff(debug: bool) -> None:
    """Neural force fields: train them, judge them, simulate with them."""


def main() -> None:
    """Entry point: run a command and exit with the code of ``nfflr.errors``."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run ``nff`` with arguments and return its exit code."""
    debug = "--debug" in arguments
    # Accepted anywhere on the line: one adds it after the fact, at the end.
    arguments = (["--debug"] if debug else []) + [a for a in arguments if a != "--debug"]
    try:
        with heeded_sigterm():
            return nff.main(list(arguments), prog_name="nff", standalone_mode=False, obj=arguments) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return 0
    except click.Abort as error:  # click's word for an interrupt
        if isinstance(error.__cause__, StoppedError):
            return fail(*explain(error.__cause__), debug)
        return fail("interrupted", 130, debug)
    except click.ClickException as error:
        return fail(_usage(error), 2, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; be quiet
        return 141
    except Exception as error:
        return fail(*explain(error), debug)


def _usage(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        message = f"{error.option_name}: no such option"
        if error.possibilities:
            message += f"; did you mean {error.possibilities[0]!r}?"
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "nff"
    return f"{message.rstrip('.')}; see {command} --help"
