"""The ``nff`` group: commands load when called, errors become one line and an exit code."""

from __future__ import annotations

import ast
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from .. import __version__, workflows
from ..errors import StoppedError
from .grammar import as_click_takes, command_meant, usage_message
from .output import fail, fail_by, printed_notes

ROOT = Path(__file__).parent
TOPICS = (  # in the order of the map; a file may name a new one
    "Relax and move",
    "Vibrations and heat",
    "Stiffness",
    "Defects, surfaces, paths",
    "Make a potential",
    "Judge a potential",
    "Faster, and in other programs",
)
FIRST_STEPS = """\b
First steps:
  nff relax tutorials/structures/si-interstitial.cif
  nff COMMAND --help          options with units and defaults, and an example
  nff models                  potentials that can be used by name

\b
Exit codes: 2 usage or config, 3 structure or data, 4 checkpoint,
5 not converged or not finite, 6 input/output.
Completion in bash: eval "$(_NFF_COMPLETE=bash_source nff)"; also zsh, fish.
"""
# Stand for a space and a hyphen at which no line may end, since click breaks lines at both.
UNBROKEN = {" ": "\N{NO-BREAK SPACE}", "-": "\N{NON-BREAKING HYPHEN}"}


def command_files() -> dict[str, Path | None]:
    """Command → file: each file here that has a ``TOPIC``, and each workflow, other packages' included."""
    files = {name: workflows.workflow_file(name) for name in workflows.workflow_names()}
    paths = sorted(ROOT.glob("*.py"))
    return files | {p.stem: p for p in paths if "\nTOPIC = " in p.read_text(encoding="utf-8")}


class Description(NamedTuple):
    """Constants and summary of a command's file, read without importing it."""

    summary: str
    topic: str = "More"
    place: int = 0  # in the section of its topic
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path | None) -> Description:
        """The description in a file; None stands for a broken workflow of another package."""
        try:
            tree = ast.parse(path.read_text(encoding="utf-8") if path else "")
        except (SyntaxError, ValueError, OSError):
            path = None
        if path is None:
            return cls("Belongs to another package, whose file cannot be read")
        constants = {
            target.id.lower(): ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id in ("TOPIC", "PLACE", "EXAMPLES")
        }
        return cls((ast.get_docstring(tree) or "").split("\n")[0], **constants)


class Formatter(click.HelpFormatter):
    """Breaks lines neither at a hyphen, which is part of a name here, nor within a short default."""

    def write_text(self, text: str) -> None:
        super().write_text(_unbroken(text))

    def write_dl(self, rows, *args, **options) -> None:
        super().write_dl([(first, _unbroken(second)) for first, second in rows], *args, **options)

    def getvalue(self) -> str:
        return super().getvalue().translate({ord(held): plain for plain, held in UNBROKEN.items()})


def _unbroken(text: str) -> str:
    text = re.sub(r"\[default: [^\]]{,30}\]", lambda match: match[0].replace(" ", UNBROKEN[" "]), text)
    return text.replace("-", UNBROKEN["-"])


class Context(click.Context):
    """A context whose help ``Formatter`` writes."""

    formatter_class = Formatter


class LazyGroup(click.Group):
    """Finds commands by file name, so that ``nff --help`` imports neither torch nor ASE.

    Every workflow is a command, and so is every file beside this one with a ``TOPIC``. The map shows the
    first line of its docstring, and its help ends with its ``EXAMPLES``.
    """

    context_class = Context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(command_files())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        files = command_files()
        if name not in files:
            return None
        path = files[name]
        if name in workflows.workflow_names():
            from .workflow import workflow_command

            command = workflow_command(name)
        else:
            command = importlib.import_module(f".{name}", __package__).command
        examples = Description.of(path).examples
        title = "Example" if len(examples) == 1 else "Examples"
        command.context_class = Context
        if examples:
            command.epilog = "\n".join(["\b", f"{title}:", *(f"  {line}" for line in examples)])
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            raise click.UsageError(
                f"{name}: no such command{command_meant(args, self.list_commands(ctx))}", ctx
            )
        _, command, args = super().resolve_command(ctx, args)
        if command is not None:
            context = click.Context(command, info_name=name, parent=ctx)
            try:
                args = as_click_takes(command.get_params(context), args)
            except click.UsageError as error:
                raise click.UsageError(error.message, context) from error
        return name, command, args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names with their summaries; click's own imports every command."""
        commands = [
            CompletionItem(name, help=Description.of(path).summary)
            for name, path in command_files().items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {topic: [] for topic in TOPICS}
        commands = {name: Description.of(path) for name, path in command_files().items()}
        width = max(map(len, commands))
        for name, about in sorted(commands.items(), key=lambda item: item[1].place):
            sections.setdefault(about.topic, []).append((f"{name:{width}}", about.summary.removesuffix(".")))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@click.command(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=FIRST_STEPS,
)
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(__version__, prog_name="nff")
def nff(debug: bool) -> None:
    """Neural force fields: train them, judge them, simulate with them."""


def main() -> None:
    """Entry point: run a command and exit with the code of ``nfflr.errors``."""
    # Figures go to files. The backend of a notebook, which this process may inherit, need not exist here, and
    # matplotlib would then refuse to be imported.
    os.environ["MPLBACKEND"] = "agg"
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run ``nff`` with arguments and return its exit code."""
    debug = "--debug" in arguments
    # Accepted anywhere on the line: people add it afterwards, at the end.
    arguments = (["--debug"] if debug else []) + [word for word in arguments if word != "--debug"]
    try:
        with sigterm_as_interrupt(), printed_notes():
            return nff.main(list(arguments), prog_name="nff", standalone_mode=False, obj=arguments) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return 0
    except click.Abort as error:  # click's word for an interrupt
        if isinstance(error.__cause__, StoppedError):
            return fail_by(error.__cause__, debug)
        return fail("interrupted", 130)
    except click.ClickException as error:
        return fail(usage_message(error, arguments, command_files()), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return 141
    except Exception as error:
        return fail_by(error, debug)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise ``StoppedError`` on SIGTERM, as Ctrl-C raises ``KeyboardInterrupt``.

    Only the main thread gets signals, and a program that calls this may have a handler of its own.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise StoppedError("terminated", signum)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
