"""Configurations of moment tensor potentials (MLIP)."""

import numpy as np
import pytest
from ase.build import molecule
from ase.stress import voigt_6_to_full_3x3_stress
from builders import copper

from nfflr.data.records import read_records
from nfflr.errors import StructureError
from nfflr.structures.readers import read_structures

ORDER = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}


def stress(atoms):
    """EMT's stress (3, 3) of copper, whatever the elements are called by now."""
    return voigt_6_to_full_3x3_stress(atoms.calc.results["stress"])


def block(atoms, types, order=tuple(ORDER), direct=False, features=()) -> str:
    """A configuration as MLIP writes it; PlusStress is −V σ in eV."""
    coordinates = atoms.get_scaled_positions(wrap=False) if direct else atoms.positions
    prefix = "direct" if direct else "cartes"
    lines = ["BEGIN_CFG", " Size", f"    {len(atoms)}"]
    if atoms.pbc.any():
        lines += [" Supercell", *("    " + " ".join(map(repr, v)) for v in atoms.cell.array.tolist())]
    lines.append(f" AtomData:  id type {prefix}_x {prefix}_y {prefix}_z fx fy fz")
    rows = zip(types, coordinates, atoms.calc.results["forces"], strict=True)
    for k, (kind, position, force) in enumerate(rows):
        lines.append(f"  {k + 1} {kind} " + " ".join(map(repr, [*position.tolist(), *force.tolist()])))
    lines += [" Energy", f"    {float(atoms.calc.results['energy'])!r}"]
    if "stress" in atoms.calc.results:
        virial = -stress(atoms) * atoms.get_volume()
        lines.append(" PlusStress:  " + "  ".join(order))
        lines.append("    " + " ".join(repr(float(virial[ORDER[name]])) for name in order))
    lines += [f" Feature   {name}\t{value}" for name, value in features]
    return "\n".join([*lines, "END_CFG", "", ""])


def write(folder, blocks, species=None):
    path = folder / "train.cfg"
    path.write_text("".join(blocks))
    if species:
        (folder / "train.cfg.species").write_text(species)
    return path


@pytest.mark.parametrize("direct", [False, True], ids=["cartesian", "direct"])
@pytest.mark.parametrize("order", [tuple(ORDER), ("xx", "yy", "zz", "xy", "xz", "yz")], ids=["yz", "xy"])
def test_labels_are_ases(tmp_path, direct, order):
    structures = copper(3)
    for atoms in structures:
        atoms.numbers[::2] = 79
    blocks = [block(a, [int(n == 79) for n in a.numbers], order, direct) for a in structures]
    records = read_records(write(tmp_path, blocks, "Cu Au\n"))
    assert len(records) == 3
    for record, atoms in zip(records, structures, strict=True):
        assert record.atoms.numbers.tolist() == atoms.numbers.tolist() and record.atoms.pbc.all()
        assert record.atoms.positions == pytest.approx(atoms.positions, abs=1e-10)
        assert record.labels["total_energy"] == pytest.approx(atoms.calc.results["energy"], abs=1e-12)
        assert record.labels["forces"] == pytest.approx(atoms.calc.results["forces"], abs=1e-12)
        assert record.labels["stress"] == pytest.approx(stress(atoms), abs=1e-12)


def test_elements_are_asked_for_and_never_guessed(tmp_path):
    (atoms,) = copper(1)
    path = write(tmp_path, [block(atoms, [0] * len(atoms))])
    with pytest.raises(StructureError, match=r"types and no elements; write .* train\.cfg\.species"):
        read_structures(path)
    (tmp_path / "train.cfg.species").write_text("Copper")
    with pytest.raises(StructureError, match="'Copper' is no element"):
        read_structures(path)
    (tmp_path / "train.cfg.species").write_text("Cu")
    assert set(read_structures(path)[0].symbols) == {"Cu"}
    with pytest.raises(StructureError, match="frame 0: has the type 1, but 1 symbols"):
        read_structures(write(tmp_path, [block(atoms, [0, 1, 0, 0])]))


def test_elements_in_a_feature_and_molecules_without_cell(tmp_path):
    atoms = molecule("H2O")
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.calc = SinglePointCalculator(atoms, energy=-14.2, forces=np.zeros((3, 3)))
    text = block(atoms, [0, 1, 1], features=[("species", "O H"), ("EFS_by", "VASP")])
    (read,) = read_structures(write(tmp_path, [text]))
    assert list(read.symbols) == ["O", "H", "H"] and not read.pbc.any()
    assert read.get_potential_energy() == -14.2


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.rpartition("END_CFG")[0], r"frame 1 has no END_CFG \(it begins in line 19\)"),
        (lambda t: t.replace(" Energy\n", " Energy\n x"), "frame 0: line 14: expected 1 numbers"),
        (lambda t: t.replace("Energy", "Enthalpy"), "line 13: 'Enthalpy' is no section"),
        (lambda t: t.replace("END_CFG", " Feature EFS_by VASP_not_converged\nEND_CFG"), "did not converge"),
        (lambda t: t.replace("cartes_y", "cartes_q"), "no cartes_x, cartes_y, cartes_z"),
    ],
    ids=["cut", "number", "section", "convergence", "column"],
)
def test_damage_is_named_by_frame_and_line(tmp_path, change, message):
    frames = copper(2, sizes=((1, 1, 1),))
    path = write(tmp_path, [change("".join(block(a, [0] * 4) for a in frames))], "Cu")
    with pytest.raises(StructureError, match=f"train.cfg: .*{message}"):
        read_structures(path)


def test_stresses_of_other_meaning_are_left_out_with_a_note(tmp_path, caplog):
    (atoms,) = copper(1)
    text = block(atoms, [0] * len(atoms)).replace("PlusStress", "Stress")
    (read,) = read_structures(write(tmp_path, [text], "Cu"))
    assert "stress" not in read.calc.results and "left out" in caplog.text


def test_files_of_atomeye_keep_their_reader(tmp_path):
    import ase.io

    (atoms,) = copper(1)
    atoms.calc = None
    ase.io.write(tmp_path / "eye.cfg", atoms, format="cfg")
    (read,) = read_structures(tmp_path / "eye.cfg")
    assert read.get_all_distances(mic=True) == pytest.approx(atoms.get_all_distances(mic=True), abs=1e-5)
