"""Errors against the number of structures, of our networks and of MACE's, trained here on the same ones.

Usage:
    python tests/benchmarks/learning_curves.py nfflr              # nff init, nff train
    python tests/benchmarks/learning_curves.py mace --minutes 30  # in an environment with mace-torch and ase
    python tests/benchmarks/learning_curves.py figure             # table, and docs/learning_curves.png

``--sets`` and ``--shares`` choose some of them. Subsets of a set are nested: the first structures of one
random order. Each program keeps back a part of its subset for validation, by which it chooses its weights,
and neither sees the test structures. Results are added to ``docs/learning_curves.json``; those that are there
are not made again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from ase.io import read, write

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "learning_curves.json"
SETS = {"silicon": "mlearn-si", "copper": "mlearn-cu", "ethanol": "ethanol"}
NAMES = {"nfflr": "NFFLr", "mace": "MACE"}
SHARES = (0.1, 0.3, 1.0)
MACE = {
    "model": "MACE",
    "num_channels": 64,
    "max_L": 0,
    "r_max": 5.0,
    "E0s": "average",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "valid_fraction": 0.1,
    "batch_size": 4,
    "default_dtype": "float32",
    "device": "cpu",
    "scheduler": "ExponentialLR",
    "plot": "False",
    "seed": 0,
}


def subset(name: str, share: float, path: Path) -> int:
    """Write a share of the training structures of a set; how many these are."""
    frames = read(ROOT / "calculators" / SETS[name] / "train.xyz.xz", ":")
    order = np.random.default_rng(0).permutation(len(frames))[: round(share * len(frames))]
    chosen = [frames[k].copy() for k in order]
    for atoms, k in zip(chosen, order, strict=True):
        results = frames[k].calc.results
        atoms.info = {"REF_energy": results["energy"]}
        atoms.arrays["REF_forces"] = results["forces"]
    write(path, chosen)
    return len(chosen)


def nfflr(source: Path, folder: Path, minutes: float):
    """The calculator of ``nff init`` and ``nff train``, which take the steps that they choose themselves."""
    from nfflr import NFFLrCalculator

    keys = ["--key", "total_energy=REF_energy", "--key", "forces=REF_forces"]
    subprocess.run(["nff", "init", str(source), "--out", str(folder), *keys], check=True)
    subprocess.run(["nff", "train", str(folder / "config.py")], check=True)
    return NFFLrCalculator.load(folder / "run", compile=True)


def mace(source: Path, folder: Path, minutes: float):
    """The calculator of MACE after as many epochs as the time allows; its learning rate falls to 1 %."""
    from mace.calculators import MACECalculator

    times = [_run_mace(source, folder / f"timing-{n}", n) for n in (1, 2)]
    epochs = max(2, int((60 * minutes - 2 * times[0] + times[1]) / (times[1] - times[0])))
    print(f"an epoch takes {times[1] - times[0]:.1f} s: {epochs} of them")
    _run_mace(source, folder / "run", epochs)
    return MACECalculator(model_paths=str(folder / "run" / "mace.model"), device="cpu")


def _run_mace(source: Path, folder: Path, epochs: int) -> float:
    """Train for some epochs; the seconds that it took."""
    settings = {**MACE, "name": "mace", "train_file": source, "work_dir": folder, "model_dir": folder}
    settings |= {"max_num_epochs": epochs, "lr_scheduler_gamma": 0.01 ** (1 / epochs)}
    flags = ["--ema", "--amsgrad"]
    if epochs > 10:  # the last quarter counts energies more, as its manual advises
        flags += ["--swa", "--start_swa", str(3 * epochs // 4)]
    folder.mkdir(parents=True)
    start = time.perf_counter()
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    subprocess.run(["mace_run_train", *options, *flags], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def errors(calculator, name: str) -> dict[str, float]:
    """Mean absolute errors on the test structures of a set: meV/atom and meV/Å."""
    energies, forces = [], []
    for atoms in read(ROOT / "calculators" / SETS[name] / "test.xyz.xz", ":"):
        labels, atoms.calc = atoms.calc.results, calculator
        energies.append((atoms.get_potential_energy() - labels["energy"]) / len(atoms))
        forces.append(np.ravel(atoms.get_forces() - labels["forces"]))
    return {
        "energy_mae": 1e3 * float(np.abs(energies).mean()),
        "force_mae": 1e3 * float(np.abs(np.concatenate(forces)).mean()),
    }


def records() -> list[dict]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def measure(program: str, name: str, share: float, minutes: float) -> None:
    """Train and test, and add the result to the record."""
    if any((r["program"], r["set"], r["share"]) == (program, name, share) for r in records()):
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "train.xyz"
        count = subset(name, share, source)
        start = time.perf_counter()
        calculator = {"nfflr": nfflr, "mace": mace}[program](source, Path(folder) / "out", minutes)
        spent = (time.perf_counter() - start) / 60
        row = {"program": program, "set": name, "share": share, "structures": count, "minutes": spent}
        row |= errors(calculator, name)
    print(row, flush=True)
    RECORD.write_text(json.dumps([*records(), row], indent=1) + "\n")


def figure() -> None:
    """Print the results as a table, and draw them."""
    import matplotlib.pyplot as plt

    rows = sorted(records(), key=lambda r: (list(SETS).index(r["set"]), r["structures"], r["program"]))
    print("| set | structures | program | meV/atom | meV/Å | minutes |\n|---|---|---|---|---|---|")
    for r in rows:
        name = NAMES[r["program"]]
        cells = f"{r['energy_mae']:.3g} | {r['force_mae']:.3g} | {r['minutes']:.0f}"
        print(f"| {r['set']} | {r['structures']} | {name} | {cells} |")
    drawing, axes = plt.subplots(1, len(SETS), figsize=(9, 3), layout="constrained")
    for axis, name in zip(axes, SETS, strict=True):
        for program, mark in (("nfflr", "o-"), ("mace", "s--")):
            points = [
                (r["structures"], r["force_mae"]) for r in rows if (r["set"], r["program"]) == (name, program)
            ]
            axis.loglog(
                *np.array(points).reshape(-1, 2).T, mark, label={"nfflr": "NFFLr", "mace": "MACE"}[program]
            )
        axis.set(title=name, xlabel="structures for training")
    axes[0].set_ylabel("force MAE on test (meV/Å)")
    axes[0].legend()
    drawing.savefig(RECORD.with_suffix(".png"), dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=re.sub(r"\n\n.*", "", __doc__, flags=re.S))
    parser.add_argument("program", choices=["nfflr", "mace", "figure"])
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--minutes", type=float, default=30, help="that MACE trains, on one core")
    arguments = parser.parse_args()
    if arguments.program == "figure":
        return figure()
    for name in arguments.sets:
        for share in arguments.shares:
            measure(arguments.program, name, share, arguments.minutes)


if __name__ == "__main__":
    main()
