"""Which epoch is best: by phonons and elastic constants, or by force errors?

Usage: python tests/benchmarks/selection_by_physics.py [--seeds 0 1 2]

Trains the recipe of ``mlearn-si`` with its phonon and elastic tasks measured every 20 epochs. For each seed
it prints the epoch with the least weighted error of the tasks (1 for THz, 0.1 for GPa), as ``select_by``
chooses it, and that of these epochs with the least force error of the validation split.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / "calculators" / "mlearn-si"
NFF = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
SETTINGS = """
from nfflr.validation.reading import read_suite

tasks_every = 20
"""
TASKS = f"tasks = read_suite({str(HOME / 'suite')!r}).only(('phonons', 'elastic')).tasks\n"
WEIGHTS = {"val/phonons/frequency_mae": 1.0, "val/elastic/clamped_mae": 0.1}
FORCES = "val/forces_mae"


def trained(folder: Path, seed: int, tasks: bool) -> tuple[list[dict[str, float]], float]:
    """The rows in which tasks were measured, and the processor time (s) of the training."""
    text = (HOME / "config.py").read_text().replace("__file__", repr(str(HOME / "config.py"))) + SETTINGS
    text += TASKS + f"select_by = {WEIGHTS}\n" if tasks else ""
    (folder / "config.py").write_text(text)
    command = [sys.executable, "-c", NFF, "train", str(folder / "config.py"), "--seed", str(seed)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--out", str(folder / "run")], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(folder / "run" / "metrics.csv") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [row for row in rows if WEIGHTS.keys() <= row.keys()], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 0, 1])
    print("seed | selected by | epoch | phonons (THz) | elastic (GPa) | validation force error (meV/Å)")
    for number, seed in enumerate(parser.parse_args().seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows, seconds = trained(Path(folder), seed, tasks=True)
        physics = min(rows, key=lambda row: sum(weight * row[key] for key, weight in WEIGHTS.items()))
        for name, row in {"physics": physics, "forces": min(rows, key=lambda row: row[FORCES])}.items():
            figures = [row[key] for key in WEIGHTS] + [1000 * row[FORCES]]
            cells = [seed, name, int(row["epoch"]), *(f"{value:.3g}" for value in figures)]
            print(*cells, sep=" | ", flush=True)
        if number == 0:
            with tempfile.TemporaryDirectory() as folder:
                plain = trained(Path(folder), seed, tasks=False)[1]
            print(f"processor time: {seconds:.0f} s with tasks, {plain:.0f} s without", flush=True)


if __name__ == "__main__":
    main()
