"""Random structures survive being written and read in every format that another program also reads."""

import json

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.lammps import Prism
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from hypothesis import given, settings
from hypothesis import strategies as st

from nfflr.structures import read_structures, write_structure
from nfflr.structures.writers import FORMATS, structure_bytes
from nfflr.units import factor

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round-trips")


def crystal(seed: int, labels: bool = False) -> ase.Atoms:
    """One to eight atoms of three elements, anywhere, in a skewed cell of either handedness."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(4, 9, 3) * rng.choice([-1, 1], 3)) + rng.uniform(-1.5, 1.5, (3, 3))
    n = int(rng.integers(1, 9))
    fractions = (np.arange(n)[:, None] + rng.uniform(0.1, 0.9, (n, 3)) * [0.5, n, n]) / n
    atoms = ase.Atoms(rng.choice(["O", "Si", "Cu"], n), scaled_positions=fractions, cell=cell, pbc=True)
    atoms.positions += rng.integers(-2, 3, (n, 3)) @ cell  # in other cells too
    if labels:
        results = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "stress": rng.normal(size=6)}
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def only(path) -> ase.Atoms:
    (atoms,) = read_structures(path)
    return atoms


def assert_same(atoms, original, positions=True, tolerance=1e-9):
    assert list(atoms.symbols) == list(original.symbols) and (atoms.pbc == original.pbc).all()
    assert atoms.cell.array == pytest.approx(original.cell.array, abs=tolerance)
    if positions:
        assert atoms.positions == pytest.approx(original.positions, abs=tolerance)


@QUICK
@given(SEEDS, st.booleans())
def test_poscar(folder, seed, cartesian):
    original = crystal(seed)
    path = folder / "POSCAR"
    ase.io.write(path, original, format="vasp", direct=not cartesian)
    assert_same(only(path), original, tolerance=1e-8)


@QUICK
@given(SEEDS)
def test_lammps_data_turned_as_lammps_needs_it(folder, seed):
    original, rng = crystal(seed), np.random.default_rng(seed)
    original.set_initial_charges(rng.normal(size=len(original)))
    original.set_velocities(rng.normal(size=(len(original), 3)))
    path = folder / "x.data"
    path.write_bytes(structure_bytes(original, FORMATS["lammps"]))
    atoms, prism = only(path), Prism(original.cell)
    assert list(atoms.symbols) == list(original.symbols)
    assert atoms.cell.cellpar() == pytest.approx(original.cell.cellpar(), abs=1e-8)
    assert atoms.positions == pytest.approx(prism.vector_to_lammps(original.positions), abs=1e-8)
    assert atoms.get_velocities() == pytest.approx(
        prism.vector_to_lammps(original.get_velocities()), abs=1e-8
    )
    assert atoms.get_initial_charges() == pytest.approx(original.get_initial_charges(), abs=1e-8)
    # Lengths between atoms do not turn.
    assert atoms.get_all_distances() == pytest.approx(original.get_all_distances(), abs=1e-8)


@QUICK
@given(SEEDS, st.sampled_from(["x", "xs", "xu"]), st.booleans())
def test_lammps_dump(folder, seed, kind, general):
    """A dump written by hand, with bounds that enclose a tilted box or vectors of a general one."""
    original, rng = crystal(seed), np.random.default_rng(seed)
    if not general:
        prism = Prism(original.cell)
        original.positions = prism.vector_to_lammps(original.positions)
        original.cell = prism.get_lammps_prism()[:3] * np.eye(3)
        xy, xz, yz = prism.get_lammps_prism()[3:]
        original.cell.array[1, 0], original.cell.array[2, 0], original.cell.array[2, 1] = xy, xz, yz
    cell, origin, forces = original.cell.array, rng.normal(size=3), rng.normal(size=(len(original), 3))
    if general:
        header = "abc origin pp pp pp"
        rows = [[*vector, corner] for vector, corner in zip(cell, origin, strict=True)]
    else:
        header, corners = (
            "xy xz yz pp pp pp",
            origin + np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T @ cell,
        )
        rows = np.column_stack([corners.min(axis=0), corners.max(axis=0), (xy, xz, yz)])
    x = original.positions + origin
    values = (x - origin) @ np.linalg.inv(cell) if kind == "xs" else x
    names = " ".join(axis + kind[1:] for axis in "xyz")
    lines = ["ITEM: TIMESTEP", "7", "ITEM: NUMBER OF ATOMS", str(len(original)), f"ITEM: BOX BOUNDS {header}"]
    lines += [" ".join(f"{value:.17g}" for value in row) for row in rows]
    lines.append(f"ITEM: ATOMS id element {names} fx fy fz")
    order = rng.permutation(len(original))
    lines += [
        f"{k + 1} {original.symbols[k]} " + " ".join(f"{v:.17g}" for v in [*values[k], *forces[k]])
        for k in order
    ]
    path = folder / "x.lammpstrj"
    path.write_text("\n".join(lines) + "\n")
    atoms = only(path)
    assert_same(atoms, original, positions=False, tolerance=1e-8)
    assert atoms.positions == pytest.approx(x, abs=1e-8)
    assert atoms.get_forces() == pytest.approx(forces, abs=1e-9)


@QUICK
@given(SEEDS, st.booleans())
def test_mtp_configuration(folder, seed, direct):
    original = crystal(seed, labels=True)
    species = sorted(set(original.symbols))
    x = original.get_scaled_positions(wrap=False) if direct else original.positions
    stress = -original.get_volume() * original.calc.results["stress"]  # PlusStress: −V σ, eV
    names = " ".join(f"{'direct' if direct else 'cartes'}_{axis}" for axis in "xyz")
    lines = ["BEGIN_CFG", " Size", f" {len(original)}", " Supercell"]
    lines += [" ".join(f"{v:.17g}" for v in row) for row in original.cell.array]
    lines.append(f" AtomData: id type {names} fx fy fz")
    for k, symbol in enumerate(original.symbols):
        row = [*x[k], *original.calc.results["forces"][k]]
        lines.append(f"{k + 1} {species.index(symbol)} " + " ".join(f"{v:.17g}" for v in row))
    lines += [" Energy", f"{original.calc.results['energy']:.17g}", " PlusStress: xx yy zz yz xz xy"]
    lines += [" ".join(f"{v:.17g}" for v in stress), " Feature species " + " ".join(species), "END_CFG"]
    path = folder / "x.cfg"
    path.write_text("\n".join(lines) + "\n")
    atoms = only(path)
    assert_same(atoms, original)
    for name, value in original.calc.results.items():
        assert atoms.calc.results[name] == pytest.approx(value, abs=1e-9)


@QUICK
@given(SEEDS, st.sampled_from(["abc", "xyz", "both"]))
def test_pymatgen_record(folder, seed, coordinates):
    original = crystal(seed, labels=True)
    fractions = original.get_scaled_positions(wrap=False)
    sites = [
        {"species": [{"element": symbol, "occu": 1}]}
        | ({} if coordinates == "xyz" else {"abc": fractions[k].tolist()})
        | ({} if coordinates == "abc" else {"xyz": original.positions[k].tolist()})
        for k, symbol in enumerate(original.symbols)
    ]
    stress = -voigt_6_to_full_3x3_stress(original.calc.results["stress"]) / factor("kbar", "stress")
    record = {
        "matpes_id": "matpes-1",  # of MatPES: kbar, pressure positive
        "structure": {"@class": "Structure", "lattice": {"matrix": original.cell.tolist()}, "sites": sites},
        "energy": original.calc.results["energy"],
        "forces": original.calc.results["forces"].tolist(),
        "stress": stress.tolist(),
    }
    path = folder / "x.json"
    path.write_text(json.dumps([record]))
    atoms = only(path)
    assert_same(atoms, original)
    for name, value in original.calc.results.items():
        assert atoms.calc.results[name] == pytest.approx(value, abs=1e-9)


@QUICK
@given(SEEDS, st.sampled_from(["x.xyz", "x.traj", "x.vasp"]))
def test_what_is_written_is_read_again(folder, seed, name):
    original = crystal(seed)
    write_structure(folder / name, original)
    assert_same(only(folder / name), original, tolerance=1e-7)
