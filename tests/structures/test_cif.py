"""CIFs as people and programs write them: the right crystal, or a line that says what to write."""

import gzip
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal
from crystals import cif, same_crystal

from nfflr.errors import StructureError
from nfflr.structures.readers import read_structure, read_structures

CUBE = (5.469, 5.469, 5.469, 90, 90, 90)
DIAMOND = [("Si1", "Si", 0, 0, 0), ("Si2", "Si", 0.25, 0.25, 0.25)]
HEXAGONAL = (3.2, 3.2, 5.2, 90, 90, 120)
HCP = "_symmetry_space_group_name_H-M 'P 63/m m c'"
WITH = "label type_symbol fract_x fract_y fract_z"


@pytest.fixture
def reading(tmp_path):
    """Reads the text or bytes of a CIF."""

    def read(content, name="x.cif"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_structure(path)

    return read


@pytest.fixture
def refused(reading, tmp_path):
    """Checks that a CIF is refused in a line with its name and these words."""

    def check(content, *words):
        with pytest.raises(StructureError) as caught:
            reading(content)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'x.cif'}: frame 0") and "\n" not in message
        assert all(word in message for word in words), message
        assert "damaged" not in message

    return check


def symops(group):
    import gemmi

    return ["loop_", "_symmetry_equiv_pos_as_xyz"] + [
        f"'{op.triplet()}'" for op in gemmi.SpaceGroup(group).operations()
    ]


# --- elements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, symbol",
    [("Si", "Si"), ("SI", "Si"), ("si", "Si"), ("CU", "Cu"), ("NI", "Ni"), ("CL", "Cl"), ("FE", "Fe"),
     ("Si4+", "Si"), ("Si+4", "Si"), ("O2-", "O"), ("Cl1-", "Cl"), ("C", "C"), ("'Si4+'", "Si"), ("D", "H")],
)  # fmt: skip
def test_type_symbols(reading, kind, symbol):
    assert reading(cif(CUBE, [("X1", kind, 0, 0, 0)])).get_chemical_symbols() == [symbol]


@pytest.mark.parametrize(
    "label, symbol",
    [("Si1", "Si"), ("si1", "Si"), ("SI1", "Si"), ("Si1+", "Si"), ("Si", "Si"), ("CU1", "Cu"), ("OW1", "O"),
     ("Ow1", "O"), ("H1A", "H"), ("HW2", "H"), ("C1A", "C"), ("O1'", "O"), ("Na_2", "Na"), ("c1", "C")],
)  # fmt: skip
def test_labels_without_a_type_symbol(reading, label, symbol):
    text = cif(CUBE, [(f'"{label}"', 0, 0, 0)], columns="label fract_x fract_y fract_z")
    assert reading(text).get_chemical_symbols() == [symbol]
    text = cif(CUBE, [(f'"{label}"', "?", 0, 0, 0)])
    assert reading(text).get_chemical_symbols() == [symbol]


def test_the_formula_decides_what_capital_letters_mean(reading, caplog):
    rows = [("CA1", 0, 0, 0), ("O1", 0.2, 0, 0)]
    columns = "label fract_x fract_y fract_z"
    assert str(reading(cif(CUBE, rows, ["_chemical_formula_sum 'C O'"], columns)).symbols) == "CO"
    assert str(reading(cif(CUBE, rows, ["_chemical_formula_sum 'Ca O'"], columns)).symbols) == "CaO"
    assert "CA1" not in caplog.text
    reading(cif(CUBE, rows, columns=columns))
    assert "CA1 as Ca" in caplog.text


@pytest.mark.parametrize("label", ["Wat1", "T1", "M1", "X", "Vac1", "1Si", "dum"])
def test_labels_that_are_no_elements_are_refused(refused, label):
    text = cif(CUBE, [(label, 0, 0, 0)], columns="label fract_x fract_y fract_z")
    refused(text, f"atom {label}", "names no element", "_atom_site_type_symbol")
    refused(cif(CUBE, [("A", "Wat", 0, 0, 0)]), "atom A", "'Wat' is no element")


def test_isotopes_keep_their_masses(reading, caplog):
    rows = [("O1", "O", 0, 0, 0), ("D1", "D", 0.17, 0, 0), ("T1", "T", 0, 0.17, 0), ("H1", "H", 0, 0, 0.17)]
    atoms = reading(cif(CUBE, rows))
    assert atoms.get_chemical_symbols() == ["O", "H", "H", "H"]
    assert atoms.get_masses() == pytest.approx([15.999, 2.0141, 3.0160, 1.008], abs=1e-3)
    assert "T is read as tritium" in caplog.text
    rows = [("O1", 0, 0, 0), ("D1", 0.1067, 0, 0), ("D2", -0.03, 0.102, 0)]
    heavy = reading(cif((9, 9, 9, 90, 90, 90), rows, columns="label fract_x fract_y fract_z"))
    assert heavy.get_masses() == pytest.approx([15.999, 2.0141, 2.0141], abs=1e-3)
    assert not reading(cif(CUBE, DIAMOND)).has("masses")


def test_the_type_symbol_counts_and_a_label_that_names_another_element_is_said(reading, caplog):
    assert str(reading(cif(CUBE, [("Ca1", "C", 0, 0, 0), ("T1", "Si", 0.5, 0, 0)])).symbols) == "CSi"
    assert caplog.text == ""
    assert str(reading(cif(CUBE, [("Fe1", "Co", 0, 0, 0)])).symbols) == "Co"
    assert "Fe1 is Co" in caplog.text


# --- numbers, encodings, syntax -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1/3",
        "'1/3'",
        "0.33333333333(2)",
        "3.3333333333E-1",
        "+.33333333333",
        "3.333333333D-01",
        "0.33333333333(2",
    ],
)
def test_numbers(reading, text):
    atoms = reading(cif(CUBE, [("Si1", "Si", text, 0, "-.25")]))
    assert atoms.get_scaled_positions()[0] == pytest.approx([1 / 3, 0, 0.75], abs=1e-9)


@pytest.mark.parametrize("text", ["?", "."])
def test_unknown_coordinates_are_refused(refused, text):
    refused(cif(CUBE, [*DIAMOND, ("H1", "H", text, text, text)]), "atom H1", "unknown", "leave the atom out")
    refused(cif(CUBE, [("H1", "H", text, text, text)]), "atom H1", "unknown")


@pytest.mark.parametrize("text", ["abc", "0,25", "1/0", "1e", "nan", "inf"])
def test_coordinates_that_are_no_numbers_are_refused(refused, text):
    refused(cif(CUBE, [("Si7", "Si", 0, text, 0)]), "atom Si7", f"{text!r}")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "utf-8"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(reading, encoding, ends):
    text = cif(CUBE, DIAMOND, ["_publ_author_name 'Müller'", "# of Zürich"]).replace("\n", ends)
    assert len(reading(text.encode(encoding))) == 2


def test_a_compressed_cif_and_capital_endings(reading):
    packed = gzip.compress(cif(CUBE, DIAMOND).encode())
    assert len(reading(packed, "x.cif.gz")) == 2
    assert len(reading(cif(CUBE, DIAMOND), "X.CIF")) == 2


def test_what_is_no_cif_names_the_line(refused):
    refused("hello world\n", "line 1", "cannot be read as CIF")
    refused("", "cannot be read as CIF")
    refused("data_a\n_cell_length_a 5\n", "no data block has atoms")
    whole = cif(CUBE, DIAMOND)
    refused(whole.replace("Si2 Si", "Si2") + "_x 1\n", "line 8", "do not fill its rows", "give every row")
    refused(whole + "_cell_length_a 6\n", "_cell_length_a", "second time")


def test_a_file_that_ends_inside_a_row_may_be_truncated(refused):
    refused(cif(CUBE, DIAMOND)[:-6], "line 8", "may be truncated")
    refused(cif(CUBE, DIAMOND).replace("0.25 0.25 0.25", "0.25 0.25"), "line 8", "all its columns")


def test_several_blocks_are_several_structures_and_those_without_atoms_are_none(tmp_path, caplog):
    path = tmp_path / "x.cif"
    path.write_text(
        "data_global\n_publ_section_title 'x'\n" + cif(CUBE, DIAMOND) + cif(CUBE, DIAMOND[:1], name="y")
    )
    assert [len(atoms) for atoms in read_structures(path)] == [2, 1]
    assert len(read_structure(path)) == 1 and "holds 2 structures; the last is used" in caplog.text
    path.write_text(cif(CUBE, DIAMOND) + cif(CUBE, [("Q1", "Q", 0, 0, 0)], name="bad"))
    with pytest.raises(StructureError, match=r"frame 1 \(data_bad\): atom Q1"):
        read_structures(path)


# --- cells ----------------------------------------------------------------------------------------------


def test_fractional_coordinates_need_a_cell(refused):
    refused(cif(None, DIAMOND), "fractional coordinates need a cell")
    refused(cif(("?", 5, 5, 90, 90, 90), DIAMOND), "_cell_length_a is not given")
    refused(cif((5, 5, 5, 90, 90, "?"), DIAMOND), "_cell_angle_gamma")
    refused(cif((5, 5, 5, 60, 60, 150), DIAMOND), "no volume")
    refused(cif((0, 5, 5, 90, 90, 90), DIAMOND), "no volume")


def test_cartesian_coordinates_are_a_cluster_without_a_cell_and_a_crystal_with_one(reading):
    rows = [("O1", "O", 0, 0, 0), ("H1", "H", 0.96, 0, 0)]
    columns = "label type_symbol Cartn_x Cartn_y Cartn_z"
    cluster = reading(cif(None, rows, columns=columns))
    assert not cluster.pbc.any() and cluster.get_distance(0, 1) == pytest.approx(0.96)
    inside = reading(cif((8, 9, 10, 90, 90, 90), rows, columns=columns))
    assert inside.pbc.all() and inside.positions[1] == pytest.approx([0.96, 0, 0])


def test_angles_that_are_not_given_are_right(reading):
    text = "\n".join(line for line in cif(CUBE, DIAMOND).splitlines() if "angle" not in line)
    assert reading(text).cell.cellpar() == pytest.approx(CUBE)


# --- occupancy and disorder -----------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["?", ".", "1", "1.0", "1.000(2)"])
def test_full_and_unknown_occupancies_are_one(reading, share):
    rows = [("Si1", "Si", 0, 0, 0, share), ("Si2", "Si", 0.25, 0.25, 0.25, 1)]
    assert len(reading(cif(CUBE, rows, columns=WITH + " occupancy"))) == 2


def test_partial_occupancies_name_their_sites(refused, reading, caplog):
    shared = [("Cl1", "Cl", 0.5, 0.5, 0.5, "0.7(1)"), ("Br1", "Br", 0.5, 0.5, 0.5, 0.3)]
    columns, whole = WITH + " occupancy", ("Cs1", "Cs", 0, 0, 0, 1)
    refused(cif(CUBE, [whole, *shared], columns=columns), "Cl1 0.7(1), Br1 0.3", "ordered structure")
    refused(cif(CUBE, [("Si1", "Si", 0, 0, 0, "x")], columns=columns), "occupancy 'x'")
    assert len(reading(cif(CUBE, [whole, ("Br1", "Br", 0.5, 0.5, 0.5, 0)], columns=columns))) == 1
    assert "Br1" in caplog.text


def test_disorder_groups_exclude_each_other(refused, reading):
    rows = [("O1", "O", 0, 0, 0, "."), ("H1A", "H", 0.1, 0.1, 0, 1), ("H1B", "H", 0.1, 0.13, 0, 2)]
    refused(cif(CUBE, rows, columns=WITH + " disorder_group"), "group 1: H1A; group 2: H1B", "keep one")
    refused(cif(CUBE, [(*rows[1][:5], "-1")], columns=WITH + " disorder_group"), "group -1: H1A")
    assert len(reading(cif(CUBE, rows[:2], columns=WITH + " disorder_group"))) == 2


def test_hydrogen_atoms_without_coordinates_are_said(refused, reading, caplog):
    rows = [("O1", "O", 0, 0, 0, 2)]
    refused(cif(CUBE, rows, columns=WITH + " attached_hydrogens"), "atom O1", "2 hydrogen atoms")
    reading(cif(CUBE, [("O1", "O", 0, 0, 0)], ["_chemical_formula_sum 'H2 O'"]))
    assert "the formula in the file is H2 O" in caplog.text


# --- symmetry -------------------------------------------------------------------------------------------


ROUNDED = ["0.333 0.667", "0.33 0.67", "0.3333 0.6667", "0.333 0.666", "1/3 2/3", "0.333(2) 0.667(2)"]


@pytest.mark.parametrize("x, y", [text.split() for text in ROUNDED])
@pytest.mark.parametrize("listed", [True, False])
def test_rounded_coordinates_are_on_their_special_position(reading, x, y, listed):
    rows = [("Li1", "Li", x, y, 0.25, 1)]
    lines = [HCP, *(symops("P 63/m m c") if listed else [])]
    atoms = reading(cif(HEXAGONAL, rows, lines, WITH + " occupancy"))
    assert same_crystal(atoms, [3, 3], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], 1e-9)


def test_without_symmetry_a_rounded_coordinate_stays(reading):
    atoms = reading(cif(HEXAGONAL, [("Li1", "Li", 0.333, 0.667, 0.25)]))
    assert atoms.get_scaled_positions()[0] == pytest.approx([0.333, 0.667, 0.25], abs=1e-12)


def test_an_atom_beside_a_symmetry_element_is_refused_if_its_digits_keep_it_there(refused):
    refused(cif(HEXAGONAL, [("Li1", "Li", "0.34000", "0.67000", 0.25)], [HCP]), "atom Li1", "image of itself")


@pytest.mark.parametrize("operation", ["x,y,z", "'x, y, z'", "x, y, z", "+x,+y,+z", "X,Y,Z"])
def test_a_single_operation_without_a_loop(reading, operation):
    assert len(reading(cif(CUBE, DIAMOND, [f"_symmetry_equiv_pos_as_xyz {operation}"]))) == 2


@pytest.mark.parametrize(
    "operations",
    [
        ["x,y,z", "-x,-y,-z"],
        ["1 x,y,z", "2 -x,-y,-z"],
        ["x, y, z", "-x, -y, -z"],
        ["1 'x, y, z'", "2 '-X, -Y, -Z'"],
    ],
    ids=str,
)
def test_lists_of_operations_as_programs_write_them(reading, operations):
    tags = ["_symmetry_equiv_pos_site_id"] * operations[0].startswith("1") + ["_symmetry_equiv_pos_as_xyz"]
    atoms = reading(cif(CUBE, [("Si1", "Si", 0.1, 0.2, 0.3)], ["loop_", *tags, *operations]))
    assert same_crystal(atoms, [14, 14], [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]])


def test_translations_with_decimals(reading):
    operations = [
        "loop_",
        "_space_group_symop_operation_xyz",
        "x,y,z",
        "x+0.333,y+0.667,z+.6667",
        "x+0.667,1/3+y,z+0.333",
    ]
    atoms = reading(cif(HEXAGONAL, [("Si1", "Si", 0, 0, 0)], operations))
    assert same_crystal(atoms, [14] * 3, [[0, 0, 0], [1 / 3, 2 / 3, 2 / 3], [2 / 3, 1 / 3, 1 / 3]], 1e-9)


@pytest.mark.parametrize("operation", ["x,y", "x,y,q", "x,y,x", "2x,y,z", "x,y,z,w", "x y,z,x"])
def test_operations_that_are_none_are_refused(refused, operation):
    refused(
        cif(CUBE, DIAMOND, [f"_symmetry_equiv_pos_as_xyz '{operation}'"]),
        repr(operation),
        "no symmetry operation",
    )


def test_a_list_that_is_no_group_is_refused(refused):
    lines = symops("F d -3 m:1")
    refused(cif(CUBE, DIAMOND[:1], [*lines[:40], *lines[41:]]), "not whole", "is not in it")


def test_a_name_against_its_operations_is_refused_unless_both_make_one_crystal(refused, reading, caplog):
    name, number = "_symmetry_space_group_name_H-M 'F d -3 m'", "_symmetry_Int_Tables_number 227"
    identity, operations = ["loop_", "_symmetry_equiv_pos_as_xyz", "x,y,z"], symops("F d -3 m:1")
    one = [("Si1", "Si", 0, 0, 0)]
    refused(cif(CUBE, one, [name, number, *identity]), "'F d -3 m' contradicts")
    refused(cif(CUBE, one, [number, *identity]), "'number 227' contradicts")
    refused(cif(CUBE, one, ["_symmetry_space_group_name_H-M 'P 1'", *operations]), "'P 1' contradicts")
    without_centring = [name.replace("d -3", "m -3"), *symops("P m -3 m")]
    refused(cif(CUBE, one, without_centring), "'F m -3 m' contradicts")
    whole = bulk("Si", a=5.469, cubic=True)
    positions = whole.get_scaled_positions()
    rows = [("Si", "Si", *position) for position in positions]
    assert same_crystal(reading(cif(CUBE, rows, [name, *identity])), whole.numbers, positions)
    assert caplog.text == ""
    assert len(reading(cif(CUBE, one, [name, "_symmetry_Int_Tables_number 225", *operations]))) == 8
    assert "number 225" in caplog.text


def test_sites_that_repeat_atoms_are_left_out_and_others_there_are_refused(reading, refused, caplog):
    whole = bulk("Si", a=5.469, cubic=True).get_scaled_positions()
    rows = [(f"Si{k}", "Si", *position) for k, position in enumerate(whole)]
    assert len(reading(cif(CUBE, rows, symops("F d -3 m:1")))) == 8
    assert "repeat atoms of other sites" in caplog.text
    assert len(reading(cif(CUBE, [*DIAMOND, ("Si3", "Si", 1, 0, 0), ("Si4", "Si", 1, 1, 1)]))) == 2
    refused(cif(CUBE, [*DIAMOND, ("Ge1", "Ge", 0, 0, 0)]), "atoms Si1 and Ge1", "apart")
    refused(cif(CUBE, [*DIAMOND, ("Si3", "Si", "0.03000", 0, 0)]), "atoms Si1 and Si3", "0.164 Å")


def test_axes_follow_the_cell(reading, refused):
    site = [("Si1", "Si", 0, 0, 0.1)]
    name = "_symmetry_space_group_name_H-M 'R -3 m'"
    assert len(reading(cif((4, 4, 12, 90, 90, 120), site, [name]))) == 6
    assert (
        len(reading(cif((6.36, 6.36, 6.36, 46.1, 46.1, 46.1), [("Si1", "Si", 0.1, 0.1, 0.1)], [name]))) == 2
    )
    refused(cif((6.36, 6.36, 6.36, 46.1, 46.1, 46.1), site, symops("R -3 m:H")), "change the cell")


def test_a_cell_that_departs_a_little_from_its_symmetry_is_said(reading, caplog):
    strained = (5.469, 5.469, 5.5, 90, 90, 90)
    assert len(reading(cif(strained, [("Si1", "Si", 0, 0, 0)], symops("F d -3 m:1")))) == 8
    assert "departs from the symmetry" in caplog.text


def test_magnetic_files_are_read_without_moments_and_modulated_ones_refused(reading, refused, caplog):
    lines = ["loop_", "_space_group_symop_magn_operation.xyz", "x,y,z,+1", "-x,-y,-z,-1"]
    lines += ["loop_", "_space_group_symop_magn_centering.xyz", "x,y,z,+1", "x+1/2,y+1/2,z,-1"]
    lines += ["_atom_site_moment.label Fe1"]
    atoms = reading(cif(CUBE, [("Fe1", "Fe", 0.1, 0.2, 0.3)], lines), "x.mcif")
    expected = [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [0.6, 0.7, 0.3], [0.4, 0.3, 0.7]]
    assert same_crystal(atoms, [26] * 4, expected) and "magnetic moments are not read" in caplog.text
    refused(cif(CUBE, DIAMOND, ["_cell_modulation_dimension 1"]), "modulated")
    refused(cif(CUBE, DIAMOND, ['_space_group_magn.name_BNS "P -1"']), "list of all operations")


def test_macromolecular_files_are_refused(refused):
    columns = "group_PDB label type_symbol Cartn_x Cartn_y Cartn_z"
    refused(cif(CUBE, [("ATOM", "CA", "C", 0, 0, 0)], columns=columns), "mmCIF")


# --- what ASE reads well stays as it is -----------------------------------------------------------------


RUTILE = {"spacegroup": 136, "cellpar": [4.6, 4.6, 2.95, 90, 90, 90]}
WRITTEN = [
    bulk("Cu"),
    bulk("Ti", a=2.95, c=4.68),
    bulk("NaCl", "rocksalt", a=5.64, cubic=True),
    crystal(["Ti", "O"], [(0, 0, 0), (0.3, 0.3, 0)], **RUTILE),
    ase.Atoms("OH2", [[4, 4, 4], [4.96, 4, 4], [3.7, 4.9, 4]], cell=[[8, 0, 0], [1, 8, 0], [0.5, -1, 9]]),
]


@pytest.mark.parametrize("atoms", WRITTEN, ids=lambda atoms: str(atoms.symbols))
def test_what_ase_writes_is_read_back_in_its_order(tmp_path, atoms, caplog):
    path = tmp_path / "x.cif"
    ase.io.write(path, atoms)
    read = read_structure(path)
    assert read.numbers.tolist() == atoms.numbers.tolist() and caplog.text == ""
    assert read.cell.cellpar() == pytest.approx(atoms.cell.cellpar(), abs=1e-9)
    offsets = read.get_scaled_positions() - atoms.get_scaled_positions()
    assert np.abs(offsets - np.rint(offsets)).max() < 1e-7
    assert read.positions == pytest.approx(ase.io.read(path).positions, abs=1e-9)


def test_many_atoms_are_read_in_a_fraction_of_the_time_of_ase(tmp_path):
    import time

    atoms = bulk("Si", cubic=True).repeat((3, 3, 3))
    atoms.rattle(0.05, rng=np.random.default_rng(0))
    path = tmp_path / "x.cif"
    ase.io.write(path, atoms)
    began = time.process_time()
    ase.io.read(path)
    middle = time.process_time()
    assert len(read_structure(path)) == 216
    assert time.process_time() - middle < 0.5 * (middle - began)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "tutorials").rglob("*.cif")), ids=str)
def test_the_files_of_the_tutorials_are_read_as_ase_reads_them(path, caplog):
    read, reference = read_structure(path), ase.io.read(path)
    assert read.numbers.tolist() == reference.numbers.tolist() and caplog.text == ""
    assert read.positions == pytest.approx(reference.positions, abs=1e-9)
