"""Check a force field against physics; no reference needed."""

from __future__ import annotations

import shutil
import sys
import textwrap
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..jobs.opening import set_threads, source_name
from ..jobs.plan import find_structures
from .options import FILE, Choice, Number, shared
from .output import Judgement, describe, finite

TOPIC = "Judge a potential"
PLACE = 5
EXAMPLES = (
    "nff check --model mlearn-si",
    "nff check cu.cif --model ase:ase.calculators.emt:EMT",
)

FAILED = 5
STYLES: dict[str, dict[str, Any]] = {
    "pass": {"fg": "green"},
    "fail": {"fg": "red", "bold": True},
    "warn": {"fg": "yellow"},
    "info": {"dim": True},
    "skip": {"dim": True},
}
DTYPES = ("float64", "float32")
STRUCTURES = {".xyz", ".xz", ".extxyz", ".cif"}  # of a suite


@click.command("check")
@click.argument("structures", type=FILE, nargs=-1, metavar="[STRUCTURE]...")
@shared("model")
@click.option(
    "--elements",
    multiple=True,
    metavar="SYMBOL",
    help="Element to check, one of those covered; may be repeated.",
)
@click.option(
    "--cutoff",
    type=Number(0.5),
    help="Range (Å), where a calculator does not say it.  [default: 8]",
)
@click.option(
    "--dtype",
    type=Choice(DTYPES),
    help="Precision; default: both, if the model can be had in both. Of ase:… it says what it has.",
)
@shared("trust", "device", "out", "overwrite", "threads")
def command(structures, model, elements, cutoff, dtype, trust, device, out, overwrite, threads) -> int:
    """Check a force field against physics; no reference needed.

    Forces and stress against differences of the energy, work along closed loops, invariances, supercells and
    small cells, continuity, curves of every pair of elements, free atoms, NVE drift, rounding, batches and
    speed. STRUCTURE are files, folders or patterns to check on, for the potential's molecule or crystals.
    Prints a table and writes <name>-check.json and <name>-check.png. The exit code is 5 if a check fails;
    a warning is not a failure.
    """
    from ..reports.run_record import CheckRecord
    from ..structures.readers import read_structure
    from ..validation.check_suite import check, plot
    from ..validation.samples import make_samples
    from ..workflows.framework.progress_bar import training_bar

    name = source_name(model)
    files = Judgement(out, f"{name}-check", overwrite)
    atoms = [read_structure(path) for path in find_structures(structures)]
    calculators = _load(model, device, dtype, trust)
    first = next(iter(calculators.values()))
    if cutoff is not None and first.cutoff is not None:
        raise ConfigError(f"--cutoff: {model} has its own, {first.cutoff:g} Å; leave --cutoff out")
    if not atoms and not elements:
        atoms = _molecules(model, first)
    samples = make_samples(_elements(elements, first.elements, atoms), atoms, first.cutoff or cutoff)
    click.echo(set_threads(threads))
    files.begin()
    with training_bar(f"check {name}") as update:
        done = iter(range(1000))
        report = check(calculators, samples, lambda step: update(next(done), None, step))
    _print(report.results, f"{model} on {', '.join(samples.elements)}")
    record = {
        "version": CheckRecord.model_fields["version"].default,
        "calculator": {
            "source": model,
            **describe(first, "package", "version", "digest"),
            "dtypes": list(calculators),
        },
        "passed": report.passed,
        "checks": [asdict(r) | {"status": r.status} | finite({"value": r.value}) for r in report.results],
        "elements": list(samples.elements),
        "structures": list(map(str, structures)),
    }
    files.write(record, plot(report, model))
    failed = [result.name for result in report.results if result.status == "fail"]
    if failed:
        click.echo(f"error: {model}: failed {'; '.join(failed)}", err=True)
    return FAILED if failed else 0


def _load(source: str, device: str, dtype: str | None, trust: bool) -> dict:
    """Calculators by precision, the finest first; all precisions of the model unless one is given."""
    from ..adapters import is_foreign, precisions
    from ..potentials import open_calculator

    load = partial(open_calculator, source, device=device, trust=trust)
    if dtype is not None or not is_foreign(source):
        return {name: load(dtype=name) for name in ((dtype,) if dtype else DTYPES)}
    default = load()
    calculators = {default.dtype: default}
    for name in set(precisions(source)) - {default.dtype}:
        with suppress(ConfigError):  # of some packages every model has one precision
            calculators[name] = load(dtype=name)
    return dict(sorted(calculators.items(), reverse=True))


def _elements(symbols, covered, atoms) -> list[str]:
    """The elements of the command line, else those of the structures, else all that are covered."""
    from ase.data import chemical_symbols

    present = sorted({symbol for structure in atoms for symbol in structure.symbols})
    elements = list(dict.fromkeys(symbols)) or present or list(covered)
    for symbol in elements:
        if symbol not in chemical_symbols[1:]:
            raise ConfigError(f"--elements: {symbol!r} is no element; expected a symbol such as Si")
        if covered and symbol not in covered:
            raise ConfigError(f"--elements: {symbol} is not covered; the model has {', '.join(covered)}")
    return elements


def _molecules(source: str, calculator) -> list:
    """The molecule of a potential that is for one molecule, from the files of its suite; else nothing."""
    from ..cards import bundled_calculators, domains_in
    from ..structures.readers import read_structures

    domains = domains_in(getattr(calculator, "metadata", {}))
    formulas = {domain.compositions[0] for domain in domains if domain.molecule}
    if not formulas:
        return []
    folder = Path(bundled_calculators().get(source, Path(source)), "suite")
    for path in sorted(p for p in folder.glob("*") if p.suffix in STRUCTURES):
        atoms = read_structures(path)[0]
        if atoms.symbols.formula.format("hill") in formulas:
            return [atoms]
    raise ConfigError(f"{source}: is a potential of {', '.join(formulas)} alone; give one as STRUCTURE")


def _print(results, title: str) -> None:
    """A row for each check, and its message below, in the width of the terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    click.echo(title)
    longest = max(len(result.name) for result in results)
    for result in results:
        value = "–" if result.value is None else f"{result.value:.2g}"
        bound = "≥" if result.at_least else "≤"
        limit = "" if result.limit is None else f"{bound} {result.limit:.2g}"
        status = click.style(f"{result.status:4}", **STYLES[result.status])
        click.echo(f"{result.name:{longest}}  {status} {value:>8} {limit:>9} {result.unit}".rstrip())
        for line in textwrap.wrap(result.message, max(40, width) - 4):
            click.echo("    " + click.style(line, dim=True))
