"""Data files and dumps of LAMMPS: every file that a grammar makes is read as written, all else is refused."""

import gzip

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.units import fs
from hypothesis import given
from hypothesis import strategies as st

from nfflr.errors import StructureError
from nfflr.structures.readers import read_structure, read_structures

PS = 1000 * fs
DATA = """LAMMPS data file

4 atoms
1 atom types

0.0 3.61 xlo xhi
0.0 3.61 ylo yhi
0.0 3.61 zlo zhi

{masses}
Atoms # atomic

1 {type} 0 0 0
2 {type} 0 1.805 1.805
4 {type} 1.805 1.805 0
3 {type} 1.805 0 1.805
"""
DUMP = """ITEM: TIMESTEP
{step}
ITEM: NUMBER OF ATOMS
4
ITEM: BOX BOUNDS pp pp pp
0 3.61
0 3.61
0 3.61
ITEM: ATOMS id type x y z{names}
1 1 0 0 0{values}
2 1 0 1.805 1.805{values}
4 1 1.805 1.805 0{values}
3 1 1.805 0 1.805{values}
"""


def data(folder, masses="", type="1", name="cu.lmp", **replaced):
    text = DATA.format(masses=masses, type=type)
    for old, new in replaced.items():
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


def dump(folder, names="", values="", name="cu.lammpstrj", steps=(0,)):
    frames = [DUMP.format(step=step, names=names, values=values) for step in steps]
    (folder / name).write_text("".join(frames))
    return folder / name


def refused(path) -> str:
    with pytest.raises(StructureError) as caught:
        read_structures(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "damaged" not in str(caught.value)
    return str(caught.value)


COPPER = bulk("Cu", cubic=True)


def assert_copper(atoms):
    assert atoms.positions == pytest.approx(COPPER.positions, abs=1e-12)
    assert atoms.cell.array == pytest.approx(COPPER.cell.array) and atoms.pbc.all()
    assert set(atoms.symbols) == {"Cu"}


# Elements ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masses", "type"),
    [
        ("Masses\n\n1 63.546\n", "1"),
        ("Masses\n\n1 63.545999983653154 # Cu\n", "1"),
        ("Masses\n\n1 63.55 # CU2+\n", "1"),
        ("Masses\n\n1 1.0 # Cu\n", "1"),  # a placeholder
        ("Atom Type Labels\n\n1 Cu\n", "1"),
        ("Atom Type Labels\n\n1 Cu\n", "Cu"),
        ("Atom Type Labels\n\n1 Cu1\n\nMasses\n\nCu1 63.546\n", "Cu1"),
    ],
)
@pytest.mark.parametrize("name", ["cu.lmp", "cu.data", "cu.lammps-data", "data.cu", "cu.lammps.gz"])
def test_masses_comments_and_labels_tell_the_elements_of_a_data_file(tmp_path, masses, type, name):
    path = data(tmp_path, masses, type, name)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert_copper(read_structure(path))


@pytest.mark.parametrize(
    ("names", "values"),
    [(" element", " Cu"), (" mass", " 63.546"), (" typelabel", " Cu"), (" element mass", " Cu 63.546")],
)
@pytest.mark.parametrize("name", ["cu.lammpstrj", "dump.cu", "cu.dump", "frames.txt"])
def test_elements_masses_and_labels_tell_the_elements_of_a_dump(tmp_path, names, values, name):
    frames = read_structures(dump(tmp_path, names, values, name, steps=(0, 10)))
    assert [atoms.info["timestep"] for atoms in frames] == [0, 10]
    for atoms in frames:
        assert_copper(atoms)


@pytest.mark.parametrize(
    ("masses", "reason"),
    [
        ("", "atoms have a type, but no element"),
        ("Masses\n\n1 1.0\n", "is that of no single element"),
        ("Masses\n\n1 72.0 # W\n", "contradicts the mass"),  # a bead of water
        ("Masses\n\n1 15.035 # C\n", "contradicts the mass"),  # a methyl group
        ("Masses\n\n1 72.0 # bead\n", "is that of no single element"),
        ("Masses\n\n1 12.011 # Ca\n", "contradicts the mass"),
        ("Atom Type Labels\n\n1 ca\n", "names no element"),  # aromatic carbon
        ("Atom Type Labels\n\n1 opls_135\n", "names no element"),
    ],
)
def test_types_that_name_no_element_are_refused(tmp_path, masses, reason):
    path = data(tmp_path, masses)
    message = refused(path)
    assert reason in message and "write Masses with comments" in message


def test_names_of_a_force_field_do_not_count_against_the_mass(tmp_path):
    assert set(read_structure(data(tmp_path, "Masses\n\n1 12.01 # CA\n")).symbols) == {"C"}


@pytest.mark.parametrize(
    ("names", "values", "reason"),
    [
        ("", "", "types alone"),
        (" element mass", " C 63.546", "contradicts"),
        (" element", " Xx", "names no element"),
    ],
)
def test_a_dump_without_elements_is_refused(tmp_path, names, values, reason):
    assert reason in refused(dump(tmp_path, names, values))


def test_isotopes_keep_their_mass(tmp_path):
    path = data(tmp_path, "Masses\n\n1 64.93 # Cu\n")
    assert read_structure(path).get_masses() == pytest.approx([64.93] * 4)
    assert str(read_structure(data(tmp_path, "Masses\n\n1 2.014\n")).symbols) == "H4"
    frames = read_structures(dump(tmp_path, " element mass", " Cu 62.93"))
    assert frames[0].get_masses() == pytest.approx([62.93] * 4)
    assert not read_structure(data(tmp_path, "Masses\n\n1 63.55\n")).has("masses")  # rounded


def test_carbon_for_every_type_gives_a_note(tmp_path, caplog):
    path = dump(tmp_path, " element", " C")
    path.write_text(path.read_text().replace("4 1 ", "4 2 "))
    read_structures(path)
    assert "unless dump_modify names elements" in caplog.text


# What is refused -----------------------------------------------------------------------------------------

CU = "Masses\n\n1 63.546\n"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("4 atoms", "5 atoms", "truncated"),
        ("4 atoms", "3 atoms", "one more than"),
        ("4 atoms", "", "no line 'N atoms'"),
        ("0.0 3.61 ylo yhi", "", "has no box"),
        ("2 1 0 1.805", "1 1 0 1.805", "two atoms have one id"),
        ("2 1 0 1.805 1.805", "2 1 0 1.805", "expected columns id type x y z"),
        ("2 1 0 1.805", "2 1 zero 1.805", "expected numbers"),
        ("LAMMPS data file", "units = lj", "units lj are not read"),
        ("# atomic", "# ellipsoid", None),
        ("2 1 0", "2 2 0", "type 2"),
    ],
)
def test_what_is_wrong_in_a_data_file_is_said(tmp_path, old, new, reason):
    path = data(tmp_path, CU, **{old: new})
    if reason is None:  # a style that is unknown, with columns that fit one alone
        assert_copper(read_structure(path))
    else:
        assert reason in refused(path)


@pytest.mark.parametrize("style", ["", "# my atoms"])
def test_columns_that_fit_two_styles_are_refused(tmp_path, style):
    rows = "1 1 1 0.0 0.0 0.0\n2 1 1 0.0 1.8 1.8\n"
    head = "x\n\n2 atoms\n1 atom types\n\n0 4 xlo xhi\n0 4 ylo yhi\n0 4 zlo zhi\n\n" + CU
    path = tmp_path / "a.data"
    path.write_text(f"{head}\nAtoms {style}\n\n{rows}")
    assert len(read_structure(path)) == 2  # molecular: charges are not written as 1
    path.write_text(f"{head}\nAtoms {style}\n\n{rows.replace(' 1 1 0', ' 1 0 0')}")
    assert read_structure(path).get_masses() == pytest.approx(63.546)  # charge: there is no type 0
    path.write_text(
        f"{head}\nAtoms {style}\n\n{rows}".replace("1 1 1 0.0", "1 1 5.5 0.0").replace("2 1 1", "2 0 1")
    )
    assert "write the style behind the word Atoms" in refused(path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("NUMBER OF ATOMS\n4", "NUMBER OF ATOMS\n5", "truncated"),
        ("NUMBER OF ATOMS\n4", "NUMBER OF ATOMS\n3", "NUMBER OF ATOMS is wrong"),
        (" pp pp pp", "", "expected boundaries"),
        ("2 1 0 1.805", "1 1 0 1.805", "two atoms of this frame have one id"),
        ("2 1 0 1.805 1.805", "2 1 0 1.805", "got 5 columns; expected 6"),
        ("2 1 0 1.805", "2 1 zero 1.805", "no number"),
        ("type x y z", "type a b c", "expected columns x y z"),
        ("0 3.61\nITEM", "0\nITEM", "expected 2 numbers"),
    ],
)
def test_what_is_wrong_in_a_dump_names_the_frame(tmp_path, old, new, reason):
    path = dump(tmp_path, " element", " Cu", steps=(0, 1))
    head, middle, tail = path.read_text().partition("ITEM: TIMESTEP\n1\n")
    assert old in tail
    path.write_text(head + middle + tail.replace(old, new, 1))
    message = refused(path)
    assert reason in message and "frame 1" in message


@pytest.mark.parametrize("make", [data, dump])
def test_a_file_cut_after_any_line_is_refused(tmp_path, make):
    path = data(tmp_path, CU) if make is data else dump(tmp_path, " element", " Cu", steps=(0, 1))
    lines = path.read_text().splitlines(keepends=True)
    whole = 13 if make is dump else len(lines)
    for kept in range(1, len(lines)):
        path.write_text("".join(lines[:kept]))
        if kept != whole:
            assert "truncated" in refused(path) or "no box" in refused(path), kept


# The grammar ---------------------------------------------------------------------------------------------

number = st.floats(-1, 1).map(lambda x: round(x, 6))


@st.composite
def systems(draw):
    """A structure with all that a file may hold: tilted box, origin, open axes, velocities, charges."""
    n = draw(st.integers(1, 5))
    numbers = draw(st.lists(st.sampled_from([6, 14, 29]), min_size=n, max_size=n))
    cell = np.diag([4.0, 5.0, 6.0])
    if draw(st.booleans()):
        cell[1, 0], cell[2, 0], cell[2, 1] = (draw(number) for _ in range(3))
    triples = [[[draw(number) for _ in range(3)] for _ in range(n)] for _ in range(2)]
    scaled, velocities = np.array(triples[0]) * 0.49 + 0.5, np.array(triples[1])
    origin = np.array([draw(number) for _ in range(3)])
    atoms = ase.Atoms(numbers, origin + scaled @ cell, cell=cell, pbc=draw(st.tuples(*[st.booleans()] * 3)))
    if draw(st.booleans()):
        atoms.set_velocities(velocities / PS)  # Å/ps
    atoms.info["origin"] = origin
    return atoms


def kinds(atoms):
    return list(dict.fromkeys(atoms.get_chemical_symbols()))


def bounds(atoms, tilted):
    low = atoms.info["origin"]
    return low, low + np.diag(atoms.cell.array)


@given(systems(), st.data())
def test_data_files_are_read_as_written(tmp_path_factory, atoms, draw):
    symbols, style = kinds(atoms), draw.draw(st.sampled_from(["atomic", "charge", "molecular", "full"]))
    hint = draw.draw(
        st.sampled_from([f" # {style}", f"   #  {style}"] + [""] * (style in ("atomic", "full")))
    )
    images = draw.draw(
        st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=len(atoms), max_size=len(atoms))
    )
    telling = draw.draw(st.sampled_from(["mass", "comment", "labels"]))
    flagged, general = draw.draw(st.booleans()), draw.draw(st.booleans())
    shift = np.array(images) @ atoms.cell.array if flagged else 0.0
    lines = [f"made by hand, units = metal, boundary = {' '.join('fp'[int(x)] for x in atoms.pbc)}", ""]
    lines += [f"{len(atoms)} atoms", f"{len(symbols)} atom types"]
    low, high = bounds(atoms, True)
    if general:
        lines += [
            f"{' '.join(map(repr, map(float, v)))} {axis}vec"
            for v, axis in zip(atoms.cell, "abc", strict=True)
        ]
        lines += ["0 0 0 abc origin"]
    else:
        lines += [f"{float(a)!r} {float(b)!r} {x}lo {x}hi" for a, b, x in zip(low, high, "xyz", strict=True)]
        tilt = atoms.cell.array[[1, 2, 2], [0, 0, 1]]
        lines += [" ".join(map(repr, map(float, tilt))) + " xy xz yz"] if tilt.any() else []
    if telling == "labels":
        lines += ["", "Atom Type Labels", "", *(f"{k} {s}" for k, s in enumerate(symbols, 1))]
    else:
        masses = [ase.data.atomic_masses[ase.data.atomic_numbers[s]] for s in symbols]
        mark = " # {}" if telling == "comment" else ""
        rows = zip(range(1, 9), masses, symbols, strict=False)
        lines += ["", "Masses", "", *(f"{k} {m}{mark.format(s)}" for k, m, s in rows)]
    rows = []
    for k, (symbol, x) in enumerate(zip(atoms.symbols, atoms.positions, strict=True)):
        kind = symbol if telling == "labels" and k % 2 else symbols.index(symbol) + 1
        before = {"atomic": [kind], "charge": [kind, -0.5], "molecular": [1, kind], "full": [1, kind, -0.5]}
        flags = images[k] if flagged else ()
        rows.append(" ".join(map(str, [k + 1, *before[style], *map(float, x), *flags])))
    order = draw.draw(st.permutations(range(len(atoms))))
    lines += ["", f"Atoms{hint}", "", *(rows[k] for k in order)]
    if atoms.has("momenta"):
        v = atoms.get_velocities() * PS
        lines += ["", "Velocities", "", *(f"{k + 1} {' '.join(map(str, map(float, v[k])))}" for k in order)]
    path = tmp_path_factory.mktemp("data") / "x.data"
    path.write_text("\n".join(lines) + "\n")
    (found,) = read_structures(path)  # atoms of a drawn structure may be closer than those of a real one
    assert list(found.symbols) == list(atoms.symbols) and found.pbc.tolist() == atoms.pbc.tolist()
    assert found.cell.array == pytest.approx(atoms.cell.array, abs=1e-12)
    assert found.positions == pytest.approx(atoms.positions + shift, abs=1e-9)
    assert found.get_velocities() == pytest.approx(atoms.get_velocities(), abs=1e-12)
    assert found.get_initial_charges() == pytest.approx(-0.5 if style in ("charge", "full") else 0.0)
    if telling != "labels" and hint:  # ASE does not sort labels with their atoms
        second = ase.io.read(path, format="lammps-data")
        assert second.positions == pytest.approx(found.positions, abs=1e-9)
        assert list(second.symbols) == list(found.symbols)


@given(systems(), st.data())
def test_dumps_are_read_as_written(tmp_path_factory, atoms, draw):
    form = draw.draw(st.sampled_from(["x", "xu", "xs", "xsu"]))
    cell, origin = atoms.cell.array, atoms.info["origin"]
    xy, xz, yz = cell[[1, 2, 2], [0, 0, 1]]
    low, high = bounds(atoms, True)
    if xy or xz or yz:  # the manual's formula
        low = low + [min(0, xy, xz, xy + xz), min(0, yz), 0]
        high = high + [max(0, xy, xz, xy + xz), max(0, yz), 0]
    tilts = (xy, xz, yz) if xy or xz or yz else None
    flags = " ".join(
        "pp" if periodic else draw.draw(st.sampled_from(["ff", "ss", "fm"])) for periodic in atoms.pbc
    )
    telling = draw.draw(st.sampled_from(["element", "mass", "typelabel"]))
    moving = atoms.has("momenta")
    names = [axis + form[1:] for axis in "xyz"]
    lines = ["ITEM: UNITS", "metal"] if draw.draw(st.booleans()) else []
    lines += ["ITEM: TIMESTEP", "7", "ITEM: NUMBER OF ATOMS", str(len(atoms))]
    lines += [f"ITEM: BOX BOUNDS {'xy xz yz ' if tilts else ''}{flags}"]
    for k in range(3):
        lines.append(f"{float(low[k])!r} {float(high[k])!r}" + (f" {float(tilts[k])!r}" if tilts else ""))
    lines.append(
        "ITEM: ATOMS " + " ".join(["id", "type", telling, *names, *(["vx", "vy", "vz"] if moving else [])])
    )
    x = atoms.positions
    if form.startswith("xs"):
        x = np.linalg.solve(cell.T, (x - origin).T).T
    for k in draw.draw(st.permutations(range(len(atoms)))):
        word = atoms.get_masses()[k] if telling == "mass" else atoms.symbols[k]
        v = atoms.get_velocities()[k] * PS if moving else []
        lines.append(
            " ".join(
                map(str, [k + 1, kinds(atoms).index(atoms.symbols[k]) + 1, word, *map(float, [*x[k], *v])])
            )
        )
    path = tmp_path_factory.mktemp("dump") / "x.lammpstrj"
    path.write_text("\n".join(lines) + "\n")
    (found,) = read_structures(path)  # atoms of a drawn structure may be closer than those of a real one
    assert list(found.symbols) == list(atoms.symbols) and found.pbc.tolist() == atoms.pbc.tolist()
    assert found.cell.array == pytest.approx(cell, abs=1e-9)
    assert found.positions == pytest.approx(atoms.positions, abs=1e-9)
    assert found.get_velocities() == pytest.approx(atoms.get_velocities(), abs=1e-12)
    if telling == "element" and not form.startswith("xs"):  # ASE leaves out the origin there
        second = ase.io.read(path, format="lammps-dump-text")
        assert second.positions == pytest.approx(found.positions, abs=1e-9)
        assert second.cell.array == pytest.approx(found.cell.array, abs=1e-9)
        assert second.pbc.tolist() == found.pbc.tolist()


def test_units_of_a_dump_are_converted(tmp_path):
    path = dump(tmp_path, " element vx vy vz fx fy fz", " Cu 0.001 0 0 23.060548 0 0")
    path.write_text("ITEM: UNITS\nreal\n" + path.read_text())
    atoms = read_structure(path)
    assert atoms.get_velocities()[0] == pytest.approx([0.001 / fs, 0, 0])  # Å/fs
    assert atoms.get_forces()[0] == pytest.approx([1, 0, 0], rel=1e-6)  # of kcal/mol/Å
    assert set(atoms.calc.results) == {"forces"}  # a dump holds no energy, ASE's reader says 0
