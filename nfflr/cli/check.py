"""Check a force field against physics; no reference needed."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..storage.files import claim_folder, write_figure, write_json
from .options import DEVICE, OUT, THREADS, TRUST
from .output import provenance, refuse_existing
from .sources import source_name
from .threads import set_threads

TOPIC = "Judge a potential"
PLACE = 5
EXAMPLES = (
    "nff check mlearn-si",
    "nff check ase:ase.calculators.emt:EMT --structure cu.cif",
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
@click.argument("checkpoint")
@click.option(
    "--structure",
    "structures",
    multiple=True,
    help="File, folder or pattern to check on, for the potential's molecule or crystals; may be repeated.",
)
@click.option(
    "--elements",
    multiple=True,
    metavar="SYMBOL",
    help="Element to check, one of those covered; may be repeated.",
)
@click.option(
    "--cutoff",
    type=click.FloatRange(min=0.5),
    help="Range (Å), where a calculator does not say it.  [default: 8]",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Precision; default: both, if the model can be had in both. Of ase:… it says what it has.",
)
@click.option("--trust", **TRUST)
@click.option("--device", **DEVICE)
@click.option("--out", "-o", **OUT)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--threads", **THREADS)
def command(checkpoint, structures, elements, cutoff, dtype, trust, device, out, overwrite) -> int:
    """Check a force field against physics; no reference needed.

    Forces and stress against differences of the energy, work along closed loops, invariances, supercells and
    small cells, continuity, curves of every pair of elements, free atoms, NVE drift, rounding, batches and
    speed. Takes what --model takes: a checkpoint, chgnet, mace:FILE, ase:MODULE:CLASS, …
    Prints a table and writes <name>-check.json and <name>-check.png. The exit code is 5 if a check fails;
    a warning is not a failure.
    """
    from ..reports.verdicts import CheckRecord
    from ..validation.check import check, make_samples
    from ..validation.check.check_figure import plot
    from .progress import training_bar

    name = source_name(checkpoint)
    paths = {kind: out / f"{name}-check.{kind}" for kind in ("json", "png")}
    refuse_existing(paths.values(), overwrite)
    atoms = _read(structures)
    calculators, known, own = _load(checkpoint, device, dtype, trust)
    if cutoff is not None and own is not None:
        raise ConfigError(f"--cutoff: {checkpoint} has its own, {own:g} Å; leave --cutoff out")
    if not atoms and not elements:
        atoms = _molecules(checkpoint, calculators)
    samples = make_samples(_elements(elements, known, atoms), atoms, own or cutoff)
    click.echo(set_threads())
    claim_folder(out)
    started = time.perf_counter()
    with training_bar(f"check {name}") as update:
        done = iter(range(1000))
        report = check(calculators, samples, lambda step: update(next(done), None, step))
    _print(report.results, f"{checkpoint} on {', '.join(samples.elements)}")
    write_figure(paths["png"], plot(report, checkpoint))
    write_json(
        paths["json"],
        {
            "version": CheckRecord.model_fields["version"].default,
            "calculator": {"source": checkpoint, **_describe(calculators)},
            "passed": report.passed,
            "checks": [_plain(asdict(r) | {"status": r.status}) for r in report.results],
            "elements": list(samples.elements),
            "structures": list(structures),
            "wall_time_s": time.perf_counter() - started,
            **provenance(),
        },
    )
    for path in paths.values():
        click.echo(f"  wrote {path}")
    failed = [result.name for result in report.results if result.status == "fail"]
    if failed:
        click.echo(f"error: {checkpoint}: failed {'; '.join(failed)}", err=True)
    return FAILED if failed else 0


def _load(
    source: str, device: str, dtype: str | None, trust: bool
) -> tuple[dict, tuple[str, ...], float | None]:
    """Calculators by precision, the elements that are covered (none: not known) and the cutoff."""
    from ..adapters import is_foreign, precisions
    from ..potentials import open_calculator

    def load(d: str | None):
        return open_calculator(source, device=device, dtype=d, trust=trust)

    if dtype is None and is_foreign(source):
        first = load(None)
        loaded = {first.dtype: first}
        for other in set(precisions(source)) - {first.dtype}:
            with suppress(ConfigError):  # of some packages every model has one precision
                loaded[other] = load(other)
        loaded = dict(sorted(loaded.items(), reverse=True))
    else:
        loaded = {d: load(d) for d in ((dtype,) if dtype else DTYPES)}
    first = next(iter(loaded.values()))
    return loaded, first.elements, first.cutoff


def _elements(chosen, known, atoms) -> list[str]:
    """Those that were chosen, else those of the structures, else all that are covered."""
    present = sorted({symbol for one in atoms for symbol in one.symbols})
    elements = list(dict.fromkeys(chosen)) or present or list(known)
    from ase.data import chemical_symbols

    for symbol in elements:
        if symbol not in chemical_symbols[1:]:
            raise ConfigError(f"--elements: {symbol!r} is no element; expected a symbol such as Si")
        if known and symbol not in known:
            raise ConfigError(f"--elements: {symbol} is not covered; the model has {', '.join(known)}")
    return elements


def _read(arguments) -> list:
    from ..structures.readers import read_structure
    from .structure_files import find_structures

    return [read_structure(path) for path in find_structures(arguments)]


def _molecules(source: str, calculators: dict) -> list:
    """Of a potential of one molecule that molecule, from the files of its suite; else nothing.

    Raises:
        ConfigError: there is no such file.
    """
    from ..cards import bundled_calculators
    from ..structures.domain import domains_in
    from ..structures.readers import read_structures

    domains = domains_in(getattr(next(iter(calculators.values())), "metadata", {}))
    formulas = {domain.compositions[0] for domain in domains if domain.molecule}
    if not formulas:
        return []
    folder = Path(bundled_calculators().get(source, Path(source)), "suite")
    for path in sorted(p for p in folder.glob("*") if p.suffix in STRUCTURES):
        atoms = read_structures(path)[0]
        if atoms.symbols.formula.format("hill") in formulas:
            return [atoms]
    raise ConfigError(f"{source}: is a potential of {', '.join(formulas)} alone; give one with --structure")


def _describe(calculators: dict) -> dict:
    first = next(iter(calculators.values()))
    known = first.todict()
    kind = f"{type(first).__module__}.{type(first).__qualname__}"
    package = {key: known[key] for key in ("package", "version") if key in known}
    return {"class": kind, **package, "digest": known["digest"], "dtypes": list(calculators)}


def _plain(row: dict) -> dict:
    """JSON knows no NaN."""
    value = row["value"]
    return row | {"value": value if value is None or abs(value) < float("inf") else None}


def _print(results, title: str) -> None:
    """A row for each check, and below it what else to know, in the width of the terminal."""
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
