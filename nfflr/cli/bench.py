"""Time a force field at a ladder of sizes, beside others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from ..errors import ConfigError, StructureError
from ..jobs.opening import set_threads, source_name
from .options import FILE, POTENTIAL, Whole, shared
from .output import Judgement, describe

TOPIC = "Judge a potential"
PLACE = 6
EXAMPLES = (
    "nff bench --model mlearn-si --compile",
    "nff bench --model mlearn-si --against mlearn-si-alignn --sizes 64",
    "nff bench --model mlearn-si --config calculators/mlearn-si/config.py",
    "nff bench --model mlearn-cu --against ase:ase.calculators.emt:EMT",
)

SIZES = (8, 64, 216, 512, 1000)
DESCRIPTION = ("package", "version", "digest", "dtype", "device", "compiled")


@click.command("bench")
@click.argument("structure", required=False, type=FILE)
@shared("model")
@click.option(
    "--against",
    "others",
    type=POTENTIAL,
    multiple=True,
    help="Another checkpoint, or another package's: chgnet, mace:FILE, ase:MODULE:CLASS, …; may be repeated.",
)
@click.option(
    "--sizes",
    type=Whole(1),
    multiple=True,
    metavar="ATOMS",
    help="Numbers of atoms, as 64,1000; default: 8, 64, 216, 512, 1000.",
)
@click.option("--element", metavar="SYMBOL", help="Element of the crystal; default: the model's first.")
@click.option("--compile", "compiled", is_flag=True, help="Checkpoints also in compiled form.")
@shared("dtype", "device", "trust")
@click.option(
    "--config",
    type=FILE,
    help="Training config (default: none) whose steps are timed too, in atoms per second.",
)
@click.option("--rounds", type=Whole(1), default=7, show_default=True, help="Calls that the median is of.")
@shared("out", "overwrite", "threads")
def command(
    structure, model, others, sizes, element, config, rounds, out, overwrite, threads, **opening
) -> int:
    """Time a force field at a ladder of sizes, beside others in the same run.

    STRUCTURE is the file of a cell to repeat; without it the crystal of an element is. A call is energy,
    forces and stress through ASE after each atom has moved by some 0.002 Å, as in molecular dynamics.
    Processor time is that of all threads of a call; on a busy machine it is steadier than time by the clock.
    Calculators take turns, and ratios are of processor times (on a GPU by the clock). Memory is what a call
    takes at most beyond what was in use. There is one thread if --threads or OMP_NUM_THREADS do not say
    otherwise. Prints a table and writes <name>-bench.json and <name>-bench.png.
    """
    import torch

    from ..train.config import load_config
    from ..train.trainer import training_pace
    from ..validation.speed import measure_speed, plot_speed
    from ..workflows.framework.progress_bar import training_bar

    name, device = source_name(model), opening["device"]
    files = Judgement(out, f"{name}-bench", overwrite)
    contestants = _contestants([model, *others], **opening)
    structures = _structures(contestants[0].calculator, element, structure, sizes or SIZES)
    files.begin()
    click.echo(set_threads(threads))
    training = training_pace(load_config(config, {"device": device})) if config else None
    with training_bar(f"bench {name}") as update:
        timings = measure_speed(contestants, structures, rounds, update)
    rows = _rows(timings, device)
    if training:
        text = "{atoms_per_s:.4g} atoms/s, {step_ms:.3g} ms a step of {atoms_per_step:.4g} atoms"
        click.echo(f"training by {config}: {text.format(**training)}")
    _print(rows, f"{model}, {structures[0].get_chemical_formula(empirical=True)}, {device}")
    record = {
        "calculators": {c.name: describe(c.calculator, *DESCRIPTION) for c in contestants},
        "timings": rows,
        **({"training": {"config": str(config), **training}} if training else {}),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }
    files.write(record, plot_speed(timings, model))
    return 0


def _contestants(sources, compiled: bool, **opening) -> list:
    """The calculators under distinct names, each also compiled if that is possible."""
    from ..adapters import is_foreign
    from ..calculator import NFFLrCalculator
    from ..potentials import open_calculator
    from ..validation.speed import Contestant

    contestants: list[Contestant] = []
    for source in sources:
        for compile in (False, True) if compiled and not is_foreign(source) else (False,):
            calculator = open_calculator(source, compile=compile, **opening)
            if compile and calculator.compiled is None:
                continue  # the reason has been logged
            label = source_name(source) + " compiled" * compile
            repeats = sum(contestant.name.startswith(label) for contestant in contestants)
            if any(contestant.name == label for contestant in contestants):
                label += f" ({repeats + 1})"
            parts = Stopwatch(calculator) if isinstance(calculator, NFFLrCalculator) else dict
            contestants.append(Contestant(label, calculator, parts))
    return contestants


def _structures(calculator, element: str | None, structure: Path | None, sizes) -> list:
    """A supercell for each size, with the number of atoms that comes nearest to it."""
    from ..structures.readers import read_structure
    from ..validation.samples import make_samples

    covered = list(calculator.elements)
    if element is not None and covered and element not in covered:
        raise ConfigError(f"--element: {element} is not covered; the model has {', '.join(covered)}")
    atoms = [read_structure(structure)] if structure else []
    missing = sorted(set(atoms[0].symbols) - set(covered)) if atoms and covered else []
    if missing:
        raise StructureError(
            f"{structure}: element {', '.join(missing)} is not covered; the model has {', '.join(covered)}"
        )
    if not (atoms or element or covered):
        raise ConfigError("--element: the calculator does not say what it covers; give one, or a structure")
    samples = make_samples([element or (covered or atoms[0].get_chemical_symbols())[0]], atoms)
    structures = {len(atoms): atoms for atoms in map(samples.sized, sorted(set(sizes)))}
    return list(structures.values())


def _rows(timings, device: str) -> list[dict]:
    from ..validation.speed import ratios

    relative = ratios(timings, processor=device == "cpu")
    return [
        {
            "calculator": t.name,
            "atoms": t.atoms,
            "time_ms": t.milliseconds,
            "processor_ms": t.processor_milliseconds,
            "per_atom_us": t.per_atom,
            "processor_per_atom_us": t.processor_per_atom,
            "ratio": relative.get((t.name, t.atoms)),
            "split_ms": t.split(),
            "memory_MB": t.memory,
            "message": t.message,
        }
        for t in timings
    ]


def _print(rows: list[dict], title: str) -> None:
    """A table that fits into 80 columns."""
    from rich.box import SIMPLE_HEAD

    from .console import Console, Table

    headers = ("ms", "CPU ms", "CPU\nµs/atom", "ratio", "list", "model", "ASE", "MB")
    view = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    view.add_column("atoms", justify="right", no_wrap=True)
    view.add_column("calculator", min_width=10, overflow="fold")
    for header in headers:
        view.add_column(header, justify="right", no_wrap=True)
    failures = []
    for row in rows:
        split = row["split_ms"]
        values = [row[key] for key in ("time_ms", "processor_ms", "processor_per_atom_us", "ratio")]
        values += [split.get(part) for part in ("neighbours", "model", "ase")]
        cells = ["–" if value is None else f"{value:.3g}" for value in values]
        cells.append("–" if row["memory_MB"] is None else f"{row['memory_MB']:.1f}")
        view.add_row(str(row["atoms"]), row["calculator"], *cells)
        if row["message"]:
            failures.append(f"{row['calculator']}, {row['atoms']} atoms: {row['message']}")
    Console(width=None if Console().is_terminal else 100).print(view)
    click.echo("CPU: processor time; list, model, ASE: that of neighbours, model and the others")
    for failure in failures:
        click.echo(failure)


class Stopwatch:
    """Adds up the processor seconds that an ``NFFLrCalculator`` spends on neighbours and in the model.

    A call returns both. The results of the calculator stay the same.
    """

    def __init__(self, calculator):
        self.totals = {"neighbours": 0.0, "model": 0.0}
        calculator._graph = self._timed("neighbours", calculator._graph)
        compiled = calculator.compiled
        if compiled is not None:
            calculator._compiled = _Watched(compiled, self._timed("model", compiled))
        else:
            vars(calculator.model)["forward"] = self._timed("model", calculator.model.forward)

    def __call__(self) -> dict[str, float]:
        return dict(self.totals)

    def _timed(self, part: str, work: Callable) -> Callable:
        def timed(*args, **kwargs):
            start = time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                self.totals[part] += time.process_time() - start

        return timed


class _Watched:
    """A compiled potential with a timed call."""

    def __init__(self, compiled, call: Callable):
        self.compiled, self.call = compiled, call

    def __getattr__(self, name: str):
        return getattr(self.compiled, name)

    def __call__(self, *args, **kwargs):
        return self.call(*args, **kwargs)
