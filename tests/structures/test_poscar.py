"""POSCAR: every file that a grammar makes is read as written, ASE's reader agrees, all else is refused."""

import gzip

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixScaled
from ase.units import fs
from hypothesis import given
from hypothesis import strategies as st

from nfflr.errors import StructureError
from nfflr.structures.formats import poscar
from nfflr.structures.readers import read_structure, read_structures

SI = """title
5.469
1 0 0
0 1 0
0 0 1
{symbols}8
Direct
0.00 0.00 0.00
0.25 0.25 0.25
0.00 0.50 0.50
0.25 0.75 0.75
0.50 0.00 0.50
0.75 0.25 0.75
0.50 0.50 0.00
0.75 0.75 0.25
"""


def write(folder, text, name="POSCAR"):
    path = folder / name
    path.write_text(text)
    return path


def refused(path) -> str:
    with pytest.raises(StructureError) as caught:
        read_structure(path)
    assert str(caught.value).startswith(f"{path}: ") and "internal" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "title",
    ["In plane strained nickel", "Cu substrate test", "Si8", "Si 8 atoms", "CoP3_In-3.pos", "Si O", ""],
)
def test_a_title_is_not_taken_for_symbols(tmp_path, title):
    path = write(tmp_path, SI.format(symbols="").replace("title", title), "in.vasp")
    assert "line 6" in refused(path) and "write a line of symbols" in refused(path)


def test_a_title_that_is_symbols_and_nothing_else_gives_them(tmp_path):
    path = write(tmp_path, SI.format(symbols="").replace("title", " Si "))
    assert set(read_structure(path).symbols) == {"Si"}


@pytest.mark.parametrize("name", ["POTCAR", "OUTCAR", "POTCAR.gz"])
def test_a_potcar_beside_the_file_gives_symbols(tmp_path, name):
    path = write(tmp_path, SI.format(symbols=""))
    content = b"   TITEL  = PAW_PBE Ge_d 03Jul2007\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert set(read_structure(path).symbols) == {"Ge"}
    write(tmp_path, SI.format(symbols="").replace("title", "Si"))
    assert "the title says Si" in refused(path) and "says Ge_d" in refused(path)


@pytest.mark.parametrize("label", ["Si", "Si_pv", "Si_pv/6a2f546d", "Si/6a2f546d", "SI", "si", "Si1", "Si4+"])
def test_a_label_names_its_element(tmp_path, label):
    path = write(tmp_path, SI.format(symbols=f"{label}\n"))
    assert set(read_structure(path).symbols) == {"Si"}


def test_deuterium_keeps_its_mass(tmp_path):
    path = write(tmp_path, SI.format(symbols="D Si\n4 ").replace("4 8", "4 4"))
    atoms = read_structure(path)
    assert str(atoms.symbols) == "H4Si4"
    assert atoms.get_masses() == pytest.approx([2.014102] * 4 + [28.085] * 4)


@pytest.mark.parametrize(
    ("line", "text", "reason"),
    [
        (6, "Xx", "'Xx' is no chemical symbol"),
        (6, "H.5", "'H.5' is no chemical symbol"),
        (6, "Si O", "got 1 counts for 2 symbols"),
        (7, "8 1", "got 2 counts for 1 symbols"),
        (7, "-8", "expected the number of atoms"),
        (7, "8.0", "expected the number of atoms"),
        (7, "9", "truncated"),
        (7, "7", "the counts of the atoms are too small"),
        (2, "one", "expected one scale factor"),
        (2, "0", "expected one scale factor"),
        (2, "1 2", "expected one scale factor"),
        (2, "-1 2 3", "expected one scale factor"),
        (3, "1 0", "expected a lattice vector"),
        (5, "1 1 0", "linearly dependent"),
        (8, "0.1 0.2 0.3", "expected Direct or Cartesian"),
        (8, "", "expected Direct or Cartesian"),
        (9, "0.0 zero 0.0", "expected three coordinates"),
        (12, "", "truncated"),
        (8, "Selective\nDirect", "Selective dynamics needs three flags"),
    ],
)
def test_what_cannot_be_meant_names_the_line(tmp_path, line, text, reason):
    lines = SI.format(symbols="Si\n").splitlines()
    lines[line - 1] = text
    assert reason in refused(write(tmp_path, "\n".join(lines) + "\n"))


@pytest.mark.parametrize("kept", range(1, 16))
def test_a_file_cut_after_any_line_is_truncated(tmp_path, kept):
    text = "\n".join(SI.format(symbols="Si\n").splitlines()[:kept]) + "\n"
    assert "the file is truncated" in refused(write(tmp_path, text))


@pytest.mark.parametrize(
    "name", ["POSCAR", "CONTCAR.gz", "a.vasp", "my_POSCAR_300K", "a.POSCAR", "POSCAR.txt"]
)
def test_names(tmp_path, name):
    content = SI.format(symbols="Si\n").replace("\n", "\r\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert len(read_structure(tmp_path / name)) == 8


def test_the_name_of_another_format_decides_if_the_content_agrees(tmp_path):
    atoms = bulk("Cu", cubic=True)
    ase.io.write(tmp_path / "POSCAR-1.xyz", atoms, format="extxyz")
    assert not poscar.opens(tmp_path / "POSCAR-1.xyz")
    ase.io.write(tmp_path / "POSCAR-2.xyz", atoms, format="vasp")
    assert poscar.opens(tmp_path / "POSCAR-2.xyz")


def test_velocities_in_lattice_units_are_left_out_with_a_note(tmp_path, caplog):
    text = SI.format(symbols="Si\n") + "Direct\n" + "0.1 0 0\n" * 8
    assert not read_structure(write(tmp_path, text)).has("momenta")
    assert "left out; write them in Å/fs" in caplog.text


def test_velocities_that_are_cut_are_truncated(tmp_path):
    text = SI.format(symbols="Si\n") + "\n" + "0.1 0 0\n" * 7
    assert "the file is truncated" in refused(write(tmp_path, text))


def test_flags_of_a_skewed_cell_hold_along_its_vectors(tmp_path):
    """VASP keeps the fractional coordinates whose flag is F, wherever a relaxation goes."""
    text = "Si\n1\n4 0 0\n1 4 0\n0.5 0.7 4\nSi\n2\nSelective\nDirect\n0 0 0 F F F\n0.3 0.3 0.3 T F T\n"
    atoms = read_structure(write(tmp_path, text))
    before = atoms.get_scaled_positions(wrap=False)
    atoms.set_positions(atoms.positions + 0.1)
    after = atoms.get_scaled_positions(wrap=False)
    held = np.abs(after - before) < 1e-12
    assert held.tolist() == [[True] * 3, [False, True, False]]


# The grammar ---------------------------------------------------------------------------------------------

ELEMENTS = ["H", "C", "Si", "Cu", "Ta"]
number = st.floats(-1, 1).map(lambda x: round(x, 6))


@st.composite
def poscars(draw):
    """A file's text and what it says, computed here: symbols, cell, positions, fixed flags, velocities."""
    labels = draw(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=3))
    counts = [draw(st.integers(1, 3)) for _ in labels]
    n = sum(counts)
    vectors = np.diag([3.0, 4.0, 5.0]) + np.array([[draw(number) for _ in range(3)] for _ in range(3)])
    kind = draw(st.sampled_from(["one", "volume", "three"]))
    if kind == "one":
        scale = np.full(3, draw(st.sampled_from([1.0, 0.5, 3.61])))
        line = f"{scale[0]}"
    elif kind == "three":
        scale = np.array([1.5, 0.75, 2.0])
        line = "1.5 0.75 2.0"
    else:
        volume = draw(st.sampled_from([40.0, 123.5]))
        scale = np.full(3, (volume / np.linalg.det(vectors)) ** (1 / 3))
        line = f"{-volume}"
    values = np.array([[draw(number) for _ in range(3)] for _ in range(n)])
    cartesian, selective = draw(st.booleans()), draw(st.booleans())
    flags = np.array([[draw(st.booleans()) for _ in range(3)] for _ in range(n)]) | (not selective)
    moving = draw(st.booleans())
    velocities = np.array([[draw(number) for _ in range(3)] for _ in range(n)]) * moving
    suffix = draw(st.sampled_from(["", "_pv", "/6a2f"]))
    comment = draw(st.sampled_from(["", " # a comment", " Si1"]))
    rows = [
        "  ".join(map(str, row)) + ("  " + "   ".join("FT"[int(flag)] for flag in mark) if selective else "")
        for row, mark in zip(values, flags, strict=True)
    ]
    lines = [
        draw(st.sampled_from(["", "In plane strained", "Cu"])),
        line,
        *("  ".join(map(str, row)) for row in vectors),
        " ".join(label + suffix for label in labels),
        " ".join(map(str, counts)) + draw(st.sampled_from(["", " ! counts"])),
        *(["Selective dynamics"] if selective else []),
        draw(st.sampled_from(["Cartesian", "kartesisch"] if cartesian else ["Direct", "direct"])),
        *(row + comment for row in rows),
        *(["", *("  ".join(map(str, row)) for row in velocities)] if moving else []),
        *(["", "1", "2.0", "0. 0. 0. 0."] if draw(st.booleans()) else []),
    ]
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    cell = vectors * scale
    return ending.join(lines) + ending, {
        "symbols": [label for label, count in zip(labels, counts, strict=True) for _ in range(count)],
        "cell": cell,
        "positions": values * scale if cartesian else values @ cell,
        "fixed": ~flags,
        "velocities": velocities / fs,
    }


def fixed(atoms):
    flags = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        assert isinstance(constraint, FixAtoms | FixScaled)
        flags[constraint.index] |= getattr(constraint, "mask", True)
    return flags


@given(poscars())
def test_what_is_written_is_read_and_ase_agrees(tmp_path_factory, file):
    text, expected = file
    path = tmp_path_factory.mktemp("poscar") / "POSCAR"
    path.write_bytes(text.encode())
    (ours,), ase_reads = read_structures(path), ase.io.read(path, format="vasp")
    for atoms in (ours, ase_reads):
        assert list(atoms.symbols) == expected["symbols"] and atoms.pbc.all()
        assert atoms.cell.array == pytest.approx(expected["cell"], abs=1e-9)
        assert atoms.positions == pytest.approx(expected["positions"], abs=1e-9)
        assert fixed(atoms).tolist() == expected["fixed"].tolist()
        free = ~expected["fixed"].any(axis=1)
        assert atoms.get_velocities()[free] == pytest.approx(expected["velocities"][free], abs=1e-9)
    assert ours.get_momenta() == pytest.approx(ase_reads.get_momenta(), abs=1e-9)
