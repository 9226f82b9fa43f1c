"""Notes about structures: where they help, and nowhere else."""

import ase
import ase.io
import pytest
from ase.build import bulk, fcc111, graphene, molecule

from nfflr.structures.readers import read_structure


def read(tmp_path, atoms):
    atoms.info.clear()
    ase.io.write(tmp_path / "x.xyz", atoms, format="extxyz")
    return read_structure(tmp_path / "x.xyz")


def box(name, vacuum):
    atoms = molecule(name)
    atoms.center(vacuum=vacuum)
    return atoms


CRYSTALS = {
    "silicon": bulk("Si", cubic=True),
    "primitive": bulk("Cu"),
    "salt": bulk("NaCl", "rocksalt", a=5.64),
    "caesium": bulk("Cs", cubic=True),
    "supercell": bulk("Al", cubic=True).repeat(3),
}
OTHERS = {
    "molecule": molecule("H2O"),
    "in a box": box("CH3CH2OH", 5.0),
    "in a small box": box("C6H6", 3.0),
    "cluster": ase.Atoms("Au4", [[0, 0, 0], [2.7, 0, 0], [0, 2.7, 0], [0, 0, 2.7]]),
    "slab": fcc111("Cu", (2, 2, 3), vacuum=8, periodic=True),
    "sheet": graphene(vacuum=8),
    "dummy cell": ase.Atoms("OH2", molecule("H2O").positions, cell=[1, 1, 1]),
    "large dummy cell": ase.Atoms("OH2", molecule("H2O").positions, cell=[50, 50, 50]),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_a_crystal_with_its_axes_off_is_said_to_be_computed_as_a_cluster(tmp_path, caplog, name):
    atoms = CRYSTALS[name].copy()
    read(tmp_path, atoms)
    assert caplog.text == ""
    atoms.pbc = False
    read(tmp_path, atoms)
    assert "no periodic axis" in caplog.text and 'pbc="T T T"' in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("periodic", [False, None])
def test_molecules_boxes_slabs_and_dummy_cells_get_no_note(tmp_path, caplog, name, periodic):
    atoms = OTHERS[name].copy()
    if periodic is not None:
        atoms.pbc = periodic
    read(tmp_path, atoms)
    assert caplog.text == ""
