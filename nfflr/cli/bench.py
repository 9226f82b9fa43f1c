"""Time a force field at a ladder of sizes, beside others."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..errors import ConfigError
from ..storage.files import claim_folder, write_figure, write_json
from .options import DEVICE, OUT, THREADS, TRUST
from .output import provenance, refuse_existing
from .sources import source_name
from .threads import apply, demand

TOPIC = "Judge a potential"
PLACE = 6
EXAMPLES = (
    "nff bench mlearn-si --compile",
    "nff bench mlearn-si --against mlearn-si-alignn --sizes 64 --sizes 1000",
    "nff bench mlearn-si --config calculators/mlearn-si/config.py",
    "nff bench mlearn-cu --against ase:ase.calculators.emt:EMT",
)

SIZES = (8, 64, 216, 512, 1000)


@click.command("bench")
@click.argument("checkpoint")
@click.option(
    "--against",
    "others",
    multiple=True,
    help="Another checkpoint, or another package's: chgnet, mace:FILE, ase:MODULE:CLASS, …; may be repeated.",
)
@click.option(
    "--sizes",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="ATOMS",
    help="Numbers of atoms, as 64,1000; default: 8, 64, 216, 512, 1000.",
)
@click.option("--element", metavar="SYMBOL", help="Element of the crystal; default: the model's first.")
@click.option(
    "--structure", type=click.Path(path_type=Path), help="File of a cell to repeat; default: that crystal."
)
@click.option("--compile", "compiled", is_flag=True, help="Checkpoints also in compiled form.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision; default: the model's.")
@click.option("--device", **DEVICE)
@click.option("--trust", **TRUST)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Training config (default: none) whose steps are timed too, in atoms per second.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Calls that the median is of.",
)
@click.option("--out", "-o", **OUT)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--threads", **THREADS)
def command(
    checkpoint,
    others,
    sizes,
    element,
    structure,
    compiled,
    dtype,
    device,
    trust,
    config,
    rounds,
    out,
    overwrite,
) -> int:
    """Time a force field at a ladder of sizes, beside others in the same run.

    A call is energy, forces and stress through ASE after each atom has moved by some 0.002 Å, as in molecular
    dynamics. Processor time is that of all threads of a call; on a busy machine it is steadier than time by
    the clock. Calculators take turns, and ratios are of processor times (on a GPU by the clock). Memory is
    what a call takes at most beyond what was in use. There is one thread if --threads or OMP_NUM_THREADS do
    not say otherwise. Prints a table and writes <name>-bench.json and <name>-bench.png.
    """
    from ..validation.speed import measure_speed, plot_speed
    from .progress import training_bar

    name = source_name(checkpoint)
    paths = {kind: out / f"{name}-bench.{kind}" for kind in ("json", "png")}
    refuse_existing(paths.values(), overwrite)
    contestants = _contestants([checkpoint, *others], compiled, dtype, device, trust)
    structures = _structures(contestants[0].calculator, element, structure, sizes or SIZES)
    claim_folder(out)
    started = time.perf_counter()
    number, reason = demand() or (1, "--threads N for more")
    click.echo(apply(number, reason))
    training = _training(config, device) if config else None
    with training_bar(f"bench {name}") as update:
        timings = measure_speed(contestants, structures, rounds, update)
    rows = _rows(timings, device)
    if training:
        shown = "{atoms_per_s:.4g} atoms/s, {step_ms:.3g} ms a step of {atoms_per_step:.4g} atoms"
        click.echo(f"training by {config}: {shown.format(**training)}")
    _print(rows, f"{checkpoint}, {structures[0].get_chemical_formula(empirical=True)}, {device}")
    write_figure(paths["png"], plot_speed(timings, checkpoint))
    write_json(
        paths["json"],
        {
            "calculators": {c.name: _describe(c.calculator) for c in contestants},
            "timings": rows,
            **({"training": {"config": str(config), **training}} if training else {}),
            "rounds": rounds,
            "threads": _threads(),
            "wall_time_s": time.perf_counter() - started,
            **provenance(),
        },
    )
    for path in paths.values():
        click.echo(f"  wrote {path}")
    return 0


def _contestants(sources, compiled: bool, dtype: str | None, device: str, trust: bool) -> list:
    from ..adapters import is_foreign
    from ..calculator import NFFLrCalculator
    from ..potentials import open_calculator
    from ..validation.speed import Contestant
    from .stopwatch import Stopwatch

    found: list[Contestant] = []
    for source in sources:
        kinds = {"": False, " compiled": True} if compiled and not is_foreign(source) else {"": False}
        calculators = {
            kind: open_calculator(source, device=device, dtype=dtype, compile=wanted, trust=trust)
            for kind, wanted in kinds.items()
        }
        for kind, calculator in calculators.items():
            if kind and calculator.compiled is None:
                continue  # the reason has been logged
            label = source_name(source) + kind
            label += f" ({sum(c.name.startswith(label) for c in found) + 1})" * any(
                c.name == label for c in found
            )
            split = Stopwatch(calculator) if isinstance(calculator, NFFLrCalculator) else dict
            found.append(Contestant(label, calculator, split))
    return found


def _training(config: Path, device: str) -> dict[str, float]:
    from ..train.config import load_config
    from ..train.pace import training_pace

    return training_pace(load_config(config, {"device": device}))


def _structures(calculator, element: str | None, structure: Path | None, sizes) -> list:
    """One for each size, of the numbers of atoms that repeats of the cell come nearest to."""
    from ..structures.readers import read_structure
    from ..validation.check import make_samples

    known = list(calculator.elements)
    if element is not None and known and element not in known:
        raise ConfigError(f"--element: {element} is not covered; the model has {', '.join(known)}")
    atoms = [read_structure(structure)] if structure else []
    if not (atoms or element or known):
        raise ConfigError("--element: the calculator does not say what it covers; give one, or --structure")
    samples = make_samples([element or (known or atoms[0].get_chemical_symbols())[0]], atoms)
    found = {len(atoms): atoms for atoms in map(samples.sized, sorted(set(sizes)))}
    return list(found.values())


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


def _describe(calculator) -> dict:
    known = calculator.todict()
    kept = ("package", "version", "digest", "dtype", "device", "compiled")
    told = {key: known[key] for key in kept if key in known}
    return {"class": f"{type(calculator).__module__}.{type(calculator).__qualname__}", **told}


def _threads() -> int:
    import torch

    return torch.get_num_threads()


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
        shown = ["–" if v is None else f"{v:.3g}" for v in values]
        shown.append("–" if row["memory_MB"] is None else f"{row['memory_MB']:.1f}")
        view.add_row(str(row["atoms"]), row["calculator"], *shown)
        if row["message"]:
            failures.append(f"{row['calculator']}, {row['atoms']} atoms: {row['message']}")
    Console(width=None if Console().is_terminal else 100).print(view)
    click.echo("CPU: processor time; list, model, ASE: that of neighbours, model and the others")
    for failure in failures:
        click.echo(failure)
