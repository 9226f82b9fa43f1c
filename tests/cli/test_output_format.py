"""The format out is the format in, unless that cannot hold what the structure carries."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms

from nfflr.cli.main import run
from nfflr.structures.readers import read_structure

D2O = """data_x
_cell_length_a 9
_cell_length_b 9
_cell_length_c 9
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
C1 C 0 0 0
D1 D 0.1067 0 0
D2 D -0.03 0.102 0
"""
EMT = "ase:ase.calculators.emt:EMT"


def silicon():
    atoms = bulk("Si", a=5.469, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def nff(*arguments):
    return run([*map(str, arguments)])


def relax(path, out, *options):
    return nff("relax", path, "-m", "mlearn-si-fast", "-o", out, "--fmax", "0.2", *options)


@pytest.mark.parametrize(
    ("name", "relaxed"),
    [
        ("POSCAR", "POSCAR-relaxed.vasp"),
        ("CONTCAR", "CONTCAR-relaxed.vasp"),
        ("si.vasp", "si-relaxed.vasp"),
        ("si.cif", "si-relaxed.cif"),
        ("si.xyz", "si-relaxed.xyz"),
        ("si.lmp", "si-relaxed.lammps-data"),
        ("si.traj", "si-relaxed.xyz"),
        ("si.xsf", "si-relaxed.xsf"),
    ],
)
def test_the_format_out_is_the_format_in(tmp_path, name, relaxed, capsys):
    options = {"format": "lammps-data", "masses": True} if name.endswith("lmp") else {}
    ase.io.write(tmp_path / name, silicon(), **options)
    out = tmp_path / "out"
    assert relax(tmp_path / name, out) == 0
    assert capsys.readouterr().err == ""
    record = json.loads(next(out.glob("*-relax.json")).read_text())
    assert record["files"]["relaxed"] == relaxed
    expected = np.array(record["result"]["positions"])
    for path in out.iterdir():
        if path.suffix not in (".json", ".png"):  # ASE reads all structures by their names
            for atoms in (ase.io.read(path), read_structure(path)):
                offset = np.linalg.solve(atoms.cell.array.T, (atoms.positions - expected).T)
                np.testing.assert_allclose(offset - np.round(offset), 0, atol=1e-5)
    assert nff("energy", out / relaxed, "-m", "mlearn-si-fast", "-o", out) == 0


def test_a_format_that_is_asked_for(tmp_path, capsys):
    silicon().write(tmp_path / "si.cif")
    assert relax(tmp_path / "si.cif", tmp_path / "out", "--format", "vasp") == 0
    assert len(read_structure(tmp_path / "out" / "si-relaxed.vasp")) == 8
    assert relax(tmp_path / "si.cif", tmp_path / "out", "--format", "pdb") == 2
    assert "--format" in capsys.readouterr().err


def test_what_a_format_asked_for_cannot_hold_is_said(tmp_path, capsys):
    atoms = silicon()
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.write(tmp_path / "si.vasp")
    out = tmp_path / "out"
    assert relax(tmp_path / "si.vasp", out, "--format", "cif") == 0
    assert "si-relaxed.cif: CIF cannot hold its constraints, which are left out" in capsys.readouterr().err
    atoms.pbc = (True, True, False)
    atoms.write(tmp_path / "slab.xyz")
    assert relax(tmp_path / "slab.xyz", out, "--format", "cif", "--steps", "200") == 0
    assert "slab-relaxed.xyz: is extended XYZ, since CIF cannot hold an open axis" in capsys.readouterr().err
    found = read_structure(out / "slab-relaxed.xyz")
    assert found.pbc.tolist() == [True, True, False] and found.constraints[0].index.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["POSCAR", "slab.xyz"])
def test_fixed_atoms_stay_fixed_in_the_relaxed_file(tmp_path, name):
    atoms = silicon()
    atoms.set_constraint(FixAtoms([0, 3]))
    ase.io.write(tmp_path / name, atoms)
    assert relax(tmp_path / name, tmp_path / "out") == 0
    (path,) = (tmp_path / "out").glob("*-relaxed.*")
    assert read_structure(path).constraints[0].index.tolist() == [0, 3]


def test_deuterium_of_a_cif_keeps_its_mass(tmp_path, capsys):
    (tmp_path / "d.cif").write_text(D2O)
    assert nff("relax", tmp_path / "d.cif", "-m", EMT, "-o", tmp_path / "out", "--fmax", 1) in (0, 5)
    assert (
        "d-relaxed.xyz: is extended XYZ, since CIF cannot hold masses of isotopes" in capsys.readouterr().err
    )
    found = read_structure(tmp_path / "out" / "d-relaxed.xyz")
    assert str(found.symbols) == "CH2" and found.get_masses() == pytest.approx(
        [12.011, 2.014, 2.014], abs=2e-3
    )


@pytest.mark.parametrize(
    "name", ["si.cif", "POSCAR", *(pytest.param(n, marks=pytest.mark.slow) for n in ("si.xyz", "si.data"))]
)
def test_dynamics_goes_on_with_the_velocities_of_its_last_frame(tmp_path, name):
    options = {"format": "lammps-data", "masses": True} if name == "si.data" else {}
    ase.io.write(tmp_path / name, bulk("Si", a=5.469, cubic=True) * (2, 1, 1), **options)
    out = tmp_path / "out"
    start = ["-m", "mlearn-si-fast", "-o", out, "--ensemble", "nve", "--interval", 5, "--rdf-cutoff", 2.5]
    assert nff("md", tmp_path / name, *start, "--steps", 20, "--temperature", 900) == 0
    (final,) = (p for p in out.iterdir() if "-final." in p.name)
    (first,) = out.glob("*-md.traj")
    last = ase.io.read(first, -1)
    assert nff("md", final, *start, "--steps", 10, "--keep-velocities") == 0
    (second,) = (p for p in out.glob("*-md.traj") if p != first)
    begin = ase.io.read(second, 0)
    assert last.get_temperature() > 100
    assert begin.get_velocities() == pytest.approx(last.get_velocities(), rel=1e-4, abs=1e-6)


def test_results_in_another_format_are_not_replaced_unasked(tmp_path, capsys):
    silicon().write(tmp_path / "si.cif")
    out = tmp_path / "out"
    out.mkdir()
    (out / "si-relaxed.xyz").write_text("mine")
    assert relax(tmp_path / "si.cif", out) == 2
    assert "si-relaxed.xyz: exists" in capsys.readouterr().err
    assert relax(tmp_path / "si.cif", out, "--overwrite") == 0
    assert sorted(p.name for p in out.glob("si-relaxed.*")) == ["si-relaxed.cif"]
