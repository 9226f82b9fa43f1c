"""Plain and extended XYZ: what can be meant in one way is read, the rest is refused with frame and line."""

import bz2
import gzip
import io
import logging
import lzma

import ase
import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import read_xyz
from builders import copper

from nfflr.cli.main import run
from nfflr.data.records import read_records
from nfflr.errors import ConfigError, StructureError
from nfflr.structures.checks import net_force, net_torque
from nfflr.structures.formats import extxyz, find
from nfflr.structures.readers import read_structure, read_structures
from nfflr.structures.species import element

CELL = "5.469 0 0 0 5.469 0 0 0 25.469"
LATTICE = f'Lattice="{CELL}"'
SITES = "Si 0.0 0.0 0.0\nSi 1.36 1.36 1.36\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "si.xyz"


@pytest.fixture
def read(path):
    """Writes a text or bytes and reads its only structure."""

    def read(content, encoding="utf-8"):
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        (atoms,) = read_structures(path)
        return atoms

    return read


@pytest.fixture
def refused(path):
    """Writes a text, and checks that it is refused at a line of a frame; returns what is said of it."""

    def refused(content, line, frame=0):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(StructureError) as caught:
            read_structures(path)
        message, place = str(caught.value), f"{path}: frame {frame}, line {line}: "
        assert message.startswith(place) and "\n" not in message
        assert "truncated" not in message and "damaged" not in message
        return message.removeprefix(place)

    return refused


def header(line: str, sites: str = SITES) -> str:
    return f"{len(sites.splitlines())}\n{line}\n{sites}"


def columns(names: str, *lines: str, lattice: str = LATTICE) -> str:
    return header(f"{lattice} Properties={names}", "".join(f"{line}\n" for line in lines))


# What ASE reads stays what it is


def as_ase_reads(text: str) -> list[ase.Atoms]:
    return list(read_xyz(io.StringIO(text), index=slice(None)))


def assert_equal(new, old):
    """Two structures are equal in everything that a reader leaves in them, types included."""
    assert new.arrays.keys() == old.arrays.keys() and new.info.keys() == old.info.keys()
    results = [atoms.calc.results if atoms.calc else {} for atoms in (new, old)]
    assert results[0].keys() == results[1].keys()
    pairs = [(new.cell.array, old.cell.array), (new.pbc, old.pbc)]
    for one, other in ((new.arrays, old.arrays), (new.info, old.info), results):
        pairs += [(one[name], other[name]) for name in one]
    for one, other in pairs:
        assert type(one) is type(other)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert [c.todict() for c in new.constraints] == [c.todict() for c in old.constraints]


def good_frames() -> list[ase.Atoms]:
    """Structures with everything that ASE writes to this format."""
    water = molecule("H2O")
    water.set_initial_charges([-0.8, 0.4, 0.4])
    water.set_velocities(np.arange(9).reshape(3, 3) * 0.01)
    water.set_masses([16, 2.014, 2.014])
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, False, True)
    slab.set_constraint(FixAtoms([0, 2]))
    slab.set_tags([0, 1, 2, 3])
    slab.info = {"config_type": "surf [111]", "step": 3, "ratio": 0.5, "ok": True, "flags": [True, False]}
    slab.info |= {"vector": np.array([1.0, 2.5]), "nested": {"a": [1, 2]}, "matrix": np.eye(2)}
    slab.new_array("name", np.array(["a", "b", "c", "d"], dtype=object))
    partly = bulk("Cu", cubic=True)
    partly.set_constraint([FixCartesian(0, (True, False, True))])
    partly.calc = SinglePointCalculator(
        partly, energy=-1.5, free_energy=-1.25, stress=np.arange(6) / 7, magmoms=np.ones(4), dipole=np.ones(3)
    )
    return [*copper(2), water, slab, partly]


def test_a_file_of_ase_gives_what_ase_reads(path):
    ase.io.write(path, good_frames(), format="extxyz")
    old = as_ase_reads(path.read_text())
    new = read_structures(path)
    assert len(new) == len(old) == len(good_frames())
    for one, other in zip(new, old, strict=True):
        if isinstance(next(iter(other.constraints), None), FixCartesian):
            assert one.constraints[0].todict() == other.constraints[0].todict()
        assert_equal(one, other)


def test_plain_xyz_and_cell_vectors_as_lines_give_what_ase_reads(path):
    for vectors in (False, True):
        ase.io.write(path, [molecule("CH4"), bulk("Cu")], format="extxyz", plain=True, vec_cell=vectors)
        for one, other in zip(read_structures(path), as_ase_reads(path.read_text()), strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize(
    "comment",
    ["", "Cubic bulk silicon", "i = 5, time = 0.5, E = -17.16", "a='b c' d={1 2 3} e=[1, 2] \"f g\"=h k"],
)
def test_comments_are_parsed_as_by_ase(path, read, comment):
    assert_equal(read(header(comment)), as_ase_reads(path.read_text())[0])


def test_words_of_a_sentence_are_no_labels_and_no_cell(read):
    atoms = read(header("minimum energy in a box, unit cell under stress, Lattice of Tom's"))
    assert atoms.calc is None and not atoms.pbc.any() and not atoms.cell.any()
    assert atoms.info["energy"] is True


# Keys (xyz_lowercase_lattice)


@pytest.mark.parametrize("key", ["lattice", "LATTICE", "cell", "Cell", "box", "Box", "lattice_vectors"])
@pytest.mark.parametrize(
    "value", [f'"{CELL}"', f"'{CELL}'", f"[{CELL.replace(' ', ',')}]", f"{{{CELL}}}", CELL]
)
def test_a_cell_in_any_spelling(read, key, value):
    atoms = read(header(f"{key}={value}"))
    assert atoms.cell.array == pytest.approx(np.diag([5.469, 5.469, 25.469])) and atoms.pbc.all()
    assert atoms.info == {}


def test_rows_of_a_nested_list_are_cell_vectors(read):
    atoms = read(header("Lattice=[[3, 1, 0], [0, 4, 0], [0, 2, 5]] pbc=[True, False, True]"))
    assert atoms.cell.array.tolist() == [[3, 1, 0], [0, 4, 0], [0, 2, 5]]
    assert atoms.pbc.tolist() == [True, False, True]


def test_three_edges_or_lengths_and_angles_are_a_cell_and_a_note_says_so(read, caplog):
    assert read(header('cell="3 4 5"')).cell.array.tolist() == np.diag([3.0, 4, 5]).tolist()
    assert read(header('box="3 3 5 90 90 120"')).cell.cellpar() == pytest.approx([3, 3, 5, 90, 90, 120])
    assert "edges of a rectangular cell" in caplog.text and "angles in degrees" in caplog.text


@pytest.mark.parametrize(
    "value", ["0 10 0 10 0 10", "60 60 60 25 25 25", "3 4", "1 2 3 4", "-3 4 5", "3 4 inf"]
)
def test_a_cell_of_several_meanings_is_refused(refused, value):
    message = refused(header(f'Lattice="{value}"'), 2)
    assert "nine" in message


def test_forces_and_energies_of_nep_are_labels(path):
    lattice = 'energy=-42.28 lattice="5.5 0 0 0 5.4 0 0 0 5.3" virial="9 2 3 2 5 6 3 6 1"'
    line = f"{lattice} properties=species:S:1:pos:R:3:force:R:3"
    path.write_text(header(line, "Si 0 0 0 1 2 3\nSi 1 1 1 -1 -2 -3\n"))
    (atoms,) = read_structures(path)
    assert atoms.pbc.all() and atoms.get_potential_energy() == -42.28
    assert atoms.get_forces().tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert atoms.info["virial"].tolist() == [[9, 2, 3], [2, 5, 6], [3, 6, 1]]
    for keys in ({}, {"forces": "force"}):  # the name in the file counts as well
        (record,) = read_records(path, labels=("total_energy", "forces"), keys=keys)
        assert record.labels["forces"].tolist() == [[1, 2, 3], [-1, -2, -3]]


def test_labels_in_another_case_do_not_outlive_the_calculation(path, tmp_path):
    path.write_text(
        columns("species:S:1:pos:R:3:Force:R:3", "Cu 0 0 0 1 2 3", "Cu 2 2 2 -1 -2 -3").replace(
            "Properties", "Energy=-3.5 Properties"
        )
    )
    (atoms,) = read_structures(path)
    assert atoms.get_potential_energy() == -3.5 and atoms.calc.results["Energy"] == -3.5
    atoms.calc = EMT()
    atoms.get_forces()
    atoms.write(tmp_path / "new.xyz")
    assert read_structure(tmp_path / "new.xyz").get_potential_energy() == pytest.approx(
        atoms.get_potential_energy(), abs=1e-6
    )


@pytest.mark.parametrize(
    "line",
    [
        f'{LATTICE} lattice="6 0 0 0 5 0 0 0 5"',
        f'{LATTICE} cell="5.4 5.4 25"',
        f'{LATTICE} pbc="T T F" PBC="T T T"',
        f"{LATTICE} energy=-1 energy=-2",
        f"{LATTICE} energy=-1 Energy=-2",
        f'{LATTICE} virial="1 0 0 0 1 0 0 0 1" virials="2 0 0 0 1 0 0 0 1"',
        f"{LATTICE} Properties=species:S:1:pos:R:3 properties=pos:R:3:species:S:1",
    ],
)
def test_two_spellings_that_differ_are_refused(refused, line):
    assert "remove one" in refused(header(line), 2)


def test_two_spellings_that_agree_are_read(read):
    atoms = read(header(f'{LATTICE} cell="5.46900001 0 0 0 5.469 0 0 0 25.469" energy=-1.0 Energy=-1'))
    assert atoms.cell.lengths() == pytest.approx([5.469, 5.469, 25.469])
    assert atoms.get_potential_energy() == -1


@pytest.mark.parametrize(
    "line",
    [
        'Lattice="5 0 0 0 5 0 0 0 5',
        'Lattice="5 0 0 0 5 0 0 0 5 Properties="species:S:1:pos:R:3"',
        f'config_type="bulk {LATTICE}',
        'config_type="bulk Properties="species:S:1:pos:R:3"',
        f'{LATTICE} note="_JSON {{1"',
    ],
)
def test_quotes_that_do_not_close_are_refused(refused, line):
    refused(header(line), 2)


# Periodic axes (pbc_words)


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        *[(f'pbc="{text}"', "110") for text in ("t t f", "T T F", "1 1 0", "True, True, False", "p p f")],
        *[(f"pbc={text}", "110") for text in ("TTF", "ttf", "110", "ppf", "pps", "[true,true,false]", "xy")],
        *[(f"{key}=[T,T,F]", "110") for key in ("PBC", "Pbc", "periodic", "Periodic")],
        *[
            (f"pbc={text}", "000")
            for text in ("None", "FFF", "F", "false", '"f f f"', '"[False, False, False]"')
        ],
        *[(f"pbc={text}", "111") for text in ("true", "T", "1", "XYZ", "T T T")],
        ('boundary="p p f"', "110"),
        ("boundary=grain", "111"),  # no word of this kind: an ordinary key
        ("", "111"),
    ],
)
def test_periodic_axes_in_words(read, text, axes):
    assert read(header(f"{LATTICE} {text} energy=-1")).pbc.tolist() == [axis == "1" for axis in axes]


@pytest.mark.parametrize("text", ["maybe", '"T T"', '"T T F F"', '"2 2 2"', '""', "TTX", '"a b c"', "T F"])
def test_words_that_say_nothing_of_axes_are_refused(refused, text):
    assert 'pbc="T T F"' in refused(header(f"{LATTICE} pbc={text}"), 2)


# Blank lines, line ends, encodings (xyz_blank_line, xyz_messages)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_between_frames_do_not_end_the_reading(path, end):
    one = header(LATTICE)
    text = f"\n \n{one}\n\t\n\n{one}{one}\n{header('')}\n\n".replace("Si 0.0", "Si\t0.0").replace(
        "\n", f" {end}"
    )
    path.write_bytes(text.encode())
    frames = read_structures(path)
    assert [atoms.pbc.all() for atoms in frames] == [True, True, True, False]
    assert all(atoms.positions.tolist() == [[0, 0, 0], [1.36, 1.36, 1.36]] for atoms in frames)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]
)
def test_encodings(read, encoding):
    atoms = read(header(f"{LATTICE} unit=Å"), encoding)
    assert atoms.symbols.get_chemical_formula() == "Si2" and atoms.info == {"unit": "Å"}


def test_marks_of_byte_order_where_files_were_joined(path):
    path.write_bytes(header(LATTICE).encode("utf-8-sig") * 3)
    assert len(read_structures(path)) == 3


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_archives_and_what_is_missing_or_wrong_in_them(tmp_path, ending, pack):
    content = pack(header(f"{LATTICE} pbc=TTF").encode() * 50)
    path = tmp_path / f"si.extxyz{ending}"
    path.write_bytes(content)
    assert [atoms.pbc[2] for atoms in read_structures(path)] == [False] * 50
    path.write_bytes(content[:-3])
    with pytest.raises(StructureError, match=r"frame \d+ cannot be read; the archive is truncated"):
        read_structures(path)
    path.write_bytes(content[:40] + bytes([content[40] ^ 255]) + content[41:])
    with pytest.raises(StructureError, match=r"frame \d+ .*the archive is damaged"):
        read_structures(path)


@pytest.mark.parametrize("name", ["a.xyz", "a.XYZ", "a.extxyz", "a.exyz", "a.xyz.gz", "POSCAR-relaxed.xyz"])
def test_names_of_the_format(tmp_path, name):
    assert find(tmp_path / name) is extxyz


def test_a_name_without_ending_is_judged_by_its_content(tmp_path):
    for name, content, kind in (("data", header(LATTICE), extxyz), ("other", "buy milk\n", None)):
        (tmp_path / name).write_text(content)
        assert find(tmp_path / name) is kind
    assert read_structure(tmp_path / "data").pbc.all()
    assert find(tmp_path / "missing") is None and find(tmp_path) is None


# Columns (shifted_columns, xyz_messages)

FORCES = "species:S:1:pos:R:3:forces:R:3"


def test_lines_with_more_or_fewer_columns_than_named_are_refused(refused):
    good = "Si 0 0 0 1 2 3"
    message = refused(columns(FORCES, good, "Si 0 0 0.1 0.12 1 2 3"), 4)
    assert "8 columns" in message and "has 7" in message
    assert "6 columns" in refused(columns(FORCES, "Si 0 0 0 1 2", good), 3)
    assert "3 columns" in refused(header("", "Si 0 0\nSi 1 1 1\n"), 3)


def test_columns_without_names_are_not_read_and_a_note_says_so(read, caplog):
    atoms = read(header("water", "Si 0 0 0 7 8 9\nSi 1 1 1 7 8 9\n"))
    assert atoms.positions.tolist() == [[0, 0, 0], [1, 1, 1]] and set(atoms.arrays) == {
        "numbers",
        "positions",
    }
    assert caplog.text.count("columns behind the fourth are not read") == 1


def test_an_index_in_front_of_the_elements_is_refused(refused):
    refused(header("x", "1 14 0 0 0\n2 14 1 1 1\n"), 3)
    refused(header("x", "1 Si 0 0 0\n2 Si 1 1 1\n"), 3)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("species:S:1::pos:R:3", "name:type:count"),
        ("species:S:1:pos:R3", "write R:3 for R3"),
        ("species:S:1:posR3", "write pos:R:3 for posR3"),
        ("species:S:1:pos:X:3", "types S, R, I and L"),
        ("species:S:1:pos:R:x", "name:type:count"),
        ("species:S:1:pos:R:0", "name:type:count"),
        ("species:S:1:pos:R:2", "expected pos:R:3"),
        ("species:S:1:pos:S:3", "expected pos:R:3"),
        ("species:S:1:pos:R:3:pos:R:3", "twice"),
        ("species:S:1:frac:R:3", "add pos:R:3"),
        ("id:I:1:pos:R:3", "add species:S:1"),
    ],
)
def test_lists_of_columns_that_make_no_sense(refused, names, words):
    assert words in refused(columns(names, "Si 0 0 0"), 2)


@pytest.mark.parametrize("name", ["species", "Species", "element", "symbol", "symbols", "type", "label"])
def test_names_of_the_column_of_elements(read, name):
    assert read(columns(f"{name}:S:1:Pos:r:3", "Si 0 0 0", "C 1 1 1")).symbols.get_chemical_formula() == "CSi"


@pytest.mark.parametrize("name", ["Z", "numbers", "atomic_numbers"])
def test_columns_of_atomic_numbers(read, refused, name):
    assert read(columns(f"{name}:I:1:pos:R:3", "1 0 0 0", "6 1 1 1")).numbers.tolist() == [1, 6]
    refused(columns(f"{name}:I:1:pos:R:3", "6 0 0 0", "0 1 1 1"), 4)
    refused(columns(f"species:S:1:pos:R:3:{name}:I:1", "C 0 0 0 6", "Si 1 1 1 6"), 4)


def test_two_columns_of_one_meaning_must_agree(read, refused):
    names = "species:S:1:pos:R:3:forces:R:3:Force:R:3"
    atoms = read(columns(names, "Si 0 0 0 1 2 3 1 2 3"))
    assert atoms.get_forces().tolist() == [[1, 2, 3]]
    assert "remove one" in refused(columns(names, "Si 0 0 0 1 2 3 1 2 4"), 2)


@pytest.mark.parametrize(
    ("label", "symbol"),
    [
        *[
            (label, "Si")
            for label in ("Si", "si", "SI", "sI", "Si1", "SI12", "Si4+", "Si+4", "Si^4+", "Si_pv", "14")
        ],
        *[
            ("O2-", "O"),
            ("Cl-", "Cl"),
            ("CL", "Cl"),
            ("CU2", "Cu"),
            ("NI", "Ni"),
            ("FE", "Fe"),
            ("C.ar", "C"),
        ],
        *[("co", "Co"), ("Co", "Co"), ("H2", "H"), ("C12", "C")],
    ],
)
def test_labels_of_one_element(read, label, symbol):
    assert read(header(LATTICE, f"{label} 0 0 0\n")).symbols[0] == symbol


@pytest.mark.parametrize(
    "label", ["CO", "CA", "HG2", "X", "Wat1", "OW", "Bq", "H:", "?", "0", "119", "14.0", "Si1a"]
)
def test_labels_of_no_or_several_elements(refused, label):
    assert label in refused(header(LATTICE, f"Si 1 1 1\n{label} 0 0 0\n"), 4)


def test_numbers_from_one_on_can_be_types_of_atoms(refused):
    for lines in ("1 0 0 0\n2 1 1 1\n", "1 0 0 0\n1 1 1 1\n"):
        assert "types of atoms" in refused(header("Atoms. Timestep: 0", lines), 3)
    assert "types of atoms" in refused(columns("type:I:1:pos:R:3", "1 0 0 0", "2 1 1 1"), 3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5D+00", 1.5),
        ("15d-1", 1.5),
        ("1.5E0", 1.5),
        ("+1.5", 1.5),
        ("1.5-100", 1.5e-100),
        ("\u22121.5", -1.5),
    ],
)
def test_numbers_of_other_languages(read, text, value):
    assert read(header(LATTICE, f"Si 0 {text} 0\n")).positions[0, 1] == value
    assert read(header(f"{LATTICE} energy={text}")).get_potential_energy() == value


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "1.0e", "***", "1,5", "1_0", "1.5(3)", "0x1", "1.5D", "--1"]
)
def test_words_that_are_no_numbers(refused, text):
    refused(header(LATTICE, f"Si 0 0 0\nSi 0 {text} 0\nSi 1 1 1\n"), 4)


def test_masks_and_whole_numbers(read, refused):
    names = "species:S:1:pos:R:3:move_mask:L:1:tag:I:1"
    for true, false in ("TF", "10", "tf"):
        atoms = read(columns(names, f"Si 0 0 0 {true} 1.0", f"Si 1 1 1 {false} -2"))
        assert atoms.constraints[0].index.tolist() == [1] and atoms.arrays["tag"].tolist() == [1, -2]
    refused(columns(names, "Si 0 0 0 T 1", "Si 1 1 1 maybe 1"), 4)
    refused(columns(names, "Si 0 0 0 T 1.5"), 3)


# Six numbers (stress6)


@pytest.mark.parametrize("key", ["stress", "Stress", "STRESS"])
def test_six_numbers_of_stress_wait_for_their_order(path, caplog, key):
    text = f'{LATTICE} energy=-1 {key}="1 2 3 4 5 6" Properties={FORCES}'
    path.write_text(header(text, "Si 0 0 0 1 2 3\n"))
    (atoms,) = read_structures(path)
    assert "stress" not in atoms.calc.results and atoms.calc.results["stress6"].tolist() == [1, 2, 3, 4, 5, 6]
    assert caplog.text.count("six numbers, whose order the format does not fix") == 1
    with pytest.raises(ConfigError, match="six numbers; say whether they are in ASE's order"):
        read_records(path)
    (record,) = read_records(path, keys={"stress": "none"})
    assert set(record.labels) == {"total_energy", "forces"}
    for order, stress in (
        ("voigt", [[1, 6, 5], [6, 2, 4], [5, 4, 3]]),
        ("vasp", [[1, 4, 6], [4, 2, 5], [6, 5, 3]]),
    ):
        (record,) = read_records(path, stress_order=order)
        assert record.labels["stress"].tolist() == stress


@pytest.mark.parametrize("key", ["virial", "virials", "Virial"])
def test_virials_stand_in_info(read, key):
    assert read(header(f'{LATTICE} {key}="1 2 3 4 5 6"')).info["virial"].tolist() == [1, 2, 3, 4, 5, 6]
    nine = read(header(f'{LATTICE} {key}="1 2 3 2 5 6 3 6 9"')).info["virial"]
    assert nine.tolist() == [[1, 2, 3], [2, 5, 6], [3, 6, 9]]


def test_a_tensor_of_another_length_is_refused_and_none_is_none(read, refused):
    assert "nine numbers" in refused(header(f'{LATTICE} stress="1 2 3"'), 2)
    assert read(header(f"{LATTICE} stress=None virial=None")).info == {}


# Masses and velocities (mass_column, keep_velocities, deuterium)


@pytest.mark.parametrize("name", ["mass", "masses", "Mass"])
def test_masses(read, refused, name):
    names = f"species:S:1:pos:R:3:{name}:R:1"
    atoms = read(columns(names, "Si 0 0 0 112.34", "Si 1 1 1 29.97"))
    assert atoms.get_masses().tolist() == [112.34, 29.97] and set(atoms.arrays) == {
        "numbers",
        "positions",
        "masses",
    }
    for mass in ("0", "-1", "nan"):
        assert "mass" in refused(columns(names, f"Si 0 0 0 {mass}"), 3)


def test_masses_in_the_unit_of_quip(read):
    silicon = 28.085 / units.fs**2  # u in eV fs²/Å²
    atoms = read(columns("species:S:1:pos:R:3:mass:R:1", f"Si 0 0 0 {silicon}", f"Si 1 1 1 {silicon}"))
    assert atoms.get_masses() == pytest.approx([28.085, 28.085])


def test_deuterium_and_tritium_are_hydrogen_with_their_masses(read):
    atoms = read(header("", "O 0 0 0\nD 0 0.763 -0.477\nT 0 -0.763 -0.477\nD1 2 2 2\n2H 3 3 3\nH 4 4 4\n"))
    assert atoms.numbers.tolist() == [8, 1, 1, 1, 1, 1]
    assert atoms.get_masses() == pytest.approx([15.999, 2.014, 3.016, 2.014, 2.014, 1.008], abs=1e-3)


def test_a_column_of_masses_counts_before_the_label(read):
    assert read(columns("species:S:1:pos:R:3:masses:R:1", "D 0 0 0 2.5")).get_masses().tolist() == [2.5]


def test_an_element_is_a_symbol_or_a_number():
    assert element("Si4+") == element("14") == (14, None)
    assert element("D")[0] == 1 and element("D")[1] == pytest.approx(2.014, abs=1e-3)


def moving(name: str, unit: float, kelvin: float = 300, count: int = 64) -> tuple[str, np.ndarray]:
    """A file with a column of velocities in a unit, and the momenta of ASE that they are."""
    rng = np.random.default_rng(0)
    velocities = rng.standard_normal((count, 3)) * np.sqrt(units.kB * kelvin / 28.085)
    lines = [
        f"Si {2.5 * k} 0 0 " + " ".join(f"{value:.12g}" for value in row / unit)
        for k, row in enumerate(velocities)
    ]
    return columns(f"species:S:1:pos:R:3:{name}:R:3", *lines), 28.085 * velocities


ANGSTROM_PER_FS = 1 / units.fs


@pytest.mark.parametrize("name", ["vel", "velo", "Vel"])
@pytest.mark.parametrize("kelvin", [1e-3, 300, 4e5])
def test_velocities_of_gpumd_and_quip_are_in_angstrom_per_fs(read, name, kelvin):
    text, momenta = moving(name, ANGSTROM_PER_FS, kelvin)
    atoms = read(text)
    assert atoms.get_momenta() == pytest.approx(momenta, rel=1e-9) and name not in atoms.arrays


@pytest.mark.parametrize("name", ["velocities", "velocity"])
@pytest.mark.parametrize(("said", "unit"), [("Å/fs", ANGSTROM_PER_FS), ("ASE's unit", 1.0)])
@pytest.mark.parametrize("kelvin", [80, 300, 2500])
def test_velocities_without_a_unit_are_read_by_their_temperature_and_a_note_says_so(
    read, caplog, name, said, unit, kelvin
):
    text, momenta = moving(name, unit, kelvin)
    assert read(text).get_momenta() == pytest.approx(momenta, rel=1e-9)
    assert f"{name} have no fixed unit and are taken for {said}" in caplog.text


@pytest.mark.parametrize(("name", "unit"), [("velo", 1e-3 / units.fs), ("velocities", 1e-3 / units.fs)])
def test_velocities_in_angstrom_per_ps_are_left_out_and_a_note_says_so(read, caplog, name, unit):
    atoms = read(moving(name, unit)[0])
    assert not atoms.get_momenta().any() and name in atoms.arrays
    assert f"{name}" in caplog.text and "left out" in caplog.text and "momenta in ASE's unit" in caplog.text


@pytest.mark.parametrize("name", ["momenta", "momentum"])
def test_momenta_are_in_the_unit_of_ase(read, name):
    text, momenta = moving(name, 1 / 28.085)
    assert read(text).get_momenta() == pytest.approx(momenta, rel=1e-9)


def test_one_unit_counts_for_all_frames_of_a_file(path, caplog):
    hot, momenta = moving("velocities", ANGSTROM_PER_FS, 3000)
    cold, slow = moving("velocities", ANGSTROM_PER_FS, 1)  # 1 K would tell nothing
    path.write_text(hot + cold)
    first, second = read_structures(path)
    assert first.get_momenta() == pytest.approx(momenta) and second.get_momenta() == pytest.approx(slow)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


# Counts and truncation


def test_a_count_that_is_too_large_where_another_frame_begins(refused):
    message = refused(header("") + header("", SITES * 2).replace("4\n", "5\n", 1) + header(""), 11, frame=1)
    assert "1 line(s) less than its count of 5" in message
    message = refused(header("").replace("2\n", "4\n", 1) + "\n" + header(""), 6)
    assert "2 line(s) less than its count of 4" in message


def test_a_count_that_is_too_small_or_none(refused):
    message = refused(header("") + "Si 2 2 2\n", 5, frame=1)
    assert "frame 0 has more lines than its count of 2" in message
    for count in ("-2", "2.0", "2 atoms", "9" * 30):
        assert "expected the number of atoms" in refused(f"{count}\n\n{SITES}", 1)
    assert "is no text" in refused(b"\x80\x04\x95\x00\n", 1)
    assert "blank" in refused("2\n\nSi 0 0 0\n\nSi 1 1 1\n", 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_text_that_ends_within_a_frame_is_truncated(tmp_path, pack):
    path = tmp_path / ("si.xyz" + {bytes: "", gzip.compress: ".gz"}[pack])
    whole = (header(LATTICE) + columns(FORCES, "Si 0 0 0 1 2 3", "Si 0.5 0 0 1 2 3.25")).encode()
    start = len(header(LATTICE))
    for end in range(start + 1, len(whole) - 5):  # the last number is a number without its last digits
        path.write_bytes(pack(whole[:end]))
        with pytest.raises(StructureError, match=r": frame 1 ends in line \d+ .*the file is truncated"):
            read_structures(path)


def test_what_is_wrong_comes_before_what_is_missing(refused):
    """A newline that was lost joins two lines: no bytes of an atom are missing."""
    refused("3\n\nSi 0 0 0Si 1 1 1\nSi 2 2 2\n", 3)
    refused(f"3\n{LATTICE} pbc=maybe\nSi 0 0 0\n", 2)


def test_numbers_by_hand_have_any_number_of_decimals(read):
    assert read("2\n\nSi 0 0 0.25\nSi 0 0 0.5").positions[:, 2].tolist() == [0.25, 0.5]


@pytest.mark.parametrize("last", ["Wat1 1 1 1", "Si 1 1 x", "Si 1 1 nan"])
def test_a_wrong_last_line_without_newline_is_not_truncated(refused, last):
    refused(f"2\n\nSi 0 0 0\n{last}", 4)


def test_the_command_line_says_it_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shift.xyz").write_text(columns(FORCES, "Si 0 0 0 0.12 1 2 3"))
    assert run(["init", "shift.xyz"]) == 3
    stderr = capsys.readouterr().err.strip().splitlines()
    assert stderr[-1].startswith("error: shift.xyz: frame 0, line 3: the line has 8 columns")


# Net force and torque


def test_forces_of_a_potential_have_no_net_force_and_no_torque():
    cluster = bulk("Cu", cubic=True) * 2
    cluster.pbc = False
    cluster.rattle(0.1, seed=1)
    cluster.calc = EMT()
    forces = cluster.get_forces()
    assert net_force(forces) < 1e-12 and net_torque(cluster.positions, forces) < 1e-12
    assert net_torque(cluster.positions + 100, forces) < 1e-10  # wherever it stands


def test_forces_that_do_not_belong_have_a_net_force_and_a_torque():
    rng = np.random.default_rng(3)
    positions, forces = rng.standard_normal((2, 200, 3))
    assert 0.2 < net_force(forces) < 4 and 0.1 < net_torque(positions, forces) < 4
    assert net_force(1000 * forces) == pytest.approx(net_force(forces))  # whatever the unit
    shifted = np.column_stack([np.full(200, 0.12), (forces - forces.mean(axis=0))[:, :2]])
    assert net_force(shifted) > 1
    assert net_force(np.zeros((4, 3))) == 0 and net_torque(np.eye(3), np.zeros((3, 3))) == 0


def test_a_couple_has_a_torque_without_a_net_force():
    positions, forces = np.array([[1.0, 0, 0], [-1, 0, 0]]), np.array([[0, 1.0, 0], [0, -1, 0]])
    assert net_force(forces) == 0
    assert net_torque(positions, forces) == pytest.approx(np.sqrt(2))  # |2| of (1 + 1)^½
