"""Commands made from workflows: options from the settings, output files from the result."""

from __future__ import annotations

import importlib
import inspect
import time
import typing
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import ase
import click
import yaml
from pydantic import BaseModel, ValidationError

from ..errors import ConfigError, NFFLrError, did_you_mean
from ..units import unit_of
from .output import Outputs, provenance
from .progress import step_bar
from .resume import OPTION as RESUME
from .resume import archive_folder

SHARED = ("structure", "model", "device", "dtype", "out", "config", "overwrite")


def workflow_command(name: str) -> click.Command:
    """The command of ``nfflr/workflows/<name>.py``."""
    module = importlib.import_module(f"nfflr.workflows.{name}")
    function, settings = getattr(module, name), getattr(module, f"{name.title()}Settings")
    summary = inspect.getdoc(module).splitlines()[0]

    def callback(**values):
        return run_workflow(module, function, settings, values)

    return click.Command(
        name,
        callback=callback,
        params=[*_shared_options(), *_resume_option(function), *_settings_options(settings)],
        help=f"{summary}\n\nExample: nff {name} structure.cif --model mlearn-si",
        short_help=summary,
    )


def _shared_options() -> list[click.Parameter]:
    return [
        click.Argument(["structure"], type=click.Path(path_type=Path)),
        click.Option(
            ["--model", "-m"],
            help="Bundled name, run folder or checkpoint; default: a bundled one that fits.",
        ),
        click.Option(["--device"], default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
        click.Option(
            ["--dtype"], type=click.Choice(["float32", "float64"]), help="Precision; default: the model's."
        ),
        click.Option(
            ["--out", "-o"],
            type=click.Path(path_type=Path),
            default=Path("."),
            show_default=True,
            help="Folder for the results.",
        ),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            help="YAML file of settings; options given here win.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace results that exist."),
    ]


def _resume_option(function: Callable) -> list[click.Option]:
    """Long workflows, those that take an archive, can be resumed."""
    return [RESUME] if "archive" in inspect.signature(function).parameters else []


def _settings_options(settings: type[BaseModel]) -> list[click.Option]:
    options = []
    for name, field in settings.model_fields.items():
        unit = unit_of(field)
        help_text = f"{(field.description or name)[:1].upper()}{(field.description or name)[1:]}"
        help_text += f" ({unit})." if unit else "."
        flag = name.replace("_", "-")
        kind = field.annotation
        if kind is bool:
            declaration, extra = f"--{flag}/--no-{flag}", {}
        elif typing.get_origin(kind) is typing.Literal:
            declaration, extra = f"--{flag}", {"type": click.Choice(typing.get_args(kind))}
        elif typing.get_origin(kind) is tuple:
            parts = typing.get_args(kind)
            declaration, extra = f"--{flag}", {"type": parts[0], "nargs": len(parts)}
        else:
            plain = [k for k in typing.get_args(kind) if k is not type(None)] or [kind]
            declaration, extra = f"--{flag}", {"type": plain[0]}
        shown = {True: flag, False: f"no-{flag}"}.get(field.default) if kind is bool else field.default
        # The default is shown but not set, so that a --config file stands where no option is given.
        help_text += f"  [default: {shown}]"
        options.append(click.Option([declaration, name], default=None, help=help_text, **extra))
    return options


def run_workflow(module: ModuleType, function: Callable, settings: type[BaseModel], values: dict) -> int:
    """Read, compute, write; returns the exit code (5 if the result did not converge)."""
    from ..data.readers import read_structure  # imports torch, which --help must not

    shared = {key: values.pop(key) for key in SHARED}
    resume = values.pop("resume", None)  # None: the workflow takes no archive
    chosen = _settings(settings, shared["config"], values)
    path: Path = shared["structure"]
    name = module.__name__.rpartition(".")[2]
    result_fields = inspect.signature(function, eval_str=True).return_annotation.model_fields
    atoms = read_structure(path)
    periodic = bool(atoms.pbc.all()) and atoms.cell.rank == 3
    outputs = Outputs(shared["out"], path.stem, name, result_fields, periodic, hasattr(module, "plot"))
    started = time.perf_counter()
    with ExitStack() as stack:  # an archive is removed when the results are written
        try:
            calculator = _calculator(atoms, shared)
            atoms.calc = calculator  # refuses unknown elements before the first step
            outputs.claim(shared["overwrite"])
            extra = {}
            if resume is not None:
                folder = shared["out"] / f"{path.stem}-{name}.state"
                extra["archive"] = stack.enter_context(archive_folder(folder, resume, shared["overwrite"]))
            with step_bar(name) as progress:
                result = function(atoms, calculator, chosen, progress, **extra)
        except NFFLrError as error:  # the file says more than "structure"
            raise type(error)(str(error).replace("structure:", f"{path}:", 1)) from error
        record = {
            "workflow": name,
            "structure": str(path),
            "settings": chosen.model_dump(mode="json"),
            "calculator": calculator.todict(),
            "wall_time_s": time.perf_counter() - started,
            **provenance(),
        }
        outputs.write(result, record, getattr(module, "plot", None))
    click.echo(_summary(result))
    for file in outputs.paths.values():
        click.echo(f"  wrote {file}")
    if not result.converged:
        click.echo(f"error: {path}: {result.message}", err=True)
        return 5
    return 0


def _settings(settings: type[BaseModel], config: Path | None, values: dict) -> BaseModel:
    """Defaults, then the YAML file, then the options that were given.

    Raises:
        ConfigError: missing file, unknown key (with the nearest match), or a wrong value.
    """
    merged: dict = {}
    if config is not None:
        if not config.is_file():
            raise ConfigError(f"{config}: no such file; give a YAML file of settings")
        try:
            merged = yaml.safe_load(config.read_text()) or {}
        except yaml.YAMLError as error:
            raise ConfigError(f"{config}: not valid YAML ({' '.join(str(error).split())})") from error
        if not isinstance(merged, dict):
            raise ConfigError(f"{config}: expected 'name: value' lines")
        for key in merged:
            if key not in settings.model_fields:
                hint = did_you_mean(str(key), settings.model_fields)
                raise ConfigError(f"{config}: unknown setting {key!r}{hint or '; see --help'}")
    merged |= {key: value for key, value in values.items() if value is not None}
    try:
        return settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        flag = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else "options"
        reason = first["msg"].replace("Input should be", "should be").removeprefix("Value error, ")
        got = f", got {first['input']!r}" if first["loc"] else ""
        raise ConfigError(f"{flag}: {reason}{got}; see --help") from error


def _calculator(atoms: ase.Atoms, shared: dict):
    from ..calculator import NFFLrCalculator
    from .select import choose_calculator

    source = shared["model"] or choose_calculator(atoms)
    calculator = NFFLrCalculator.load(source, device=shared["device"], dtype=shared["dtype"])
    click.echo(f"model {source} ({', '.join(calculator.model.elements)}; {calculator.todict()['dtype']})")
    return calculator


def _summary(result: BaseModel) -> str:
    """The scalar fields with their units, on lines of their own, under the result's message."""
    lines = [result.message] if result.message else []
    for name, field in type(result).model_fields.items():
        value = getattr(result, name)
        if isinstance(value, float):
            lines.append(f"  {name.replace('_', ' '):15s} {value:.6g} {unit_of(field) or ''}".rstrip())
    return "\n".join(lines)
