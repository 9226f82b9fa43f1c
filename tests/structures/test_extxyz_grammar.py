"""Files of extended XYZ written by a grammar: what is read is what was written, and damage is refused.

A frame is drawn first, as numbers; then its text, in one of the many spellings. ASE's reader is the second
opinion on the spelling that it knows.
"""

import io
from dataclasses import dataclass

import numpy as np
import pytest
from ase.data import chemical_symbols
from ase.io.extxyz import read_xyz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfflr.errors import StructureError
from nfflr.structures.readers import read_structures

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.integers(-(10**6), 10**6).map(lambda n: n / 1000)
SYMBOLS = ["H", "C", "O", "Si", "Cu", "Ta", "W"]


@dataclass
class Frame:
    """What a frame says: symbols, positions (N, 3), a cell (3, 3) or none, axes (3,), and labels."""

    symbols: list[str]
    positions: np.ndarray
    cell: np.ndarray | None
    pbc: tuple[bool, ...]
    energy: float | None
    forces: np.ndarray | None
    masses: np.ndarray | None
    group: list[int] | None  # a column without a meaning here


@st.composite
def frames(draw):
    count = draw(st.integers(1, 4))
    triples = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=count, max_size=count).map(np.array)
    positive = st.integers(1, 300).map(float)
    cell = draw(st.none() | st.tuples(*[st.integers(2, 40).map(lambda n: n / 4)] * 3).map(np.diag))
    if cell is not None:
        cell[1, 0], cell[2, 1] = draw(st.tuples(NUMBERS, NUMBERS))
        cell[2, 1] %= 7
    return Frame(
        symbols=draw(st.lists(st.sampled_from(SYMBOLS), min_size=count, max_size=count)),
        positions=draw(triples),
        cell=cell,
        pbc=(False,) * 3 if cell is None else draw(st.tuples(*[st.booleans()] * 3)),
        energy=draw(st.none() | NUMBERS),
        forces=draw(st.none() | triples),
        masses=draw(st.none() | st.lists(positive, min_size=count, max_size=count).map(np.array)),
        group=draw(st.none() | st.lists(st.integers(-5, 5), min_size=count, max_size=count)),
    )


# Spellings


def any_case(draw, *names):
    name = draw(st.sampled_from(names))
    return draw(st.sampled_from([name, name.lower(), name.upper(), name.capitalize()]))


def number(draw, value):
    """A number in one of the formats that programs write; all of them give the same float."""
    texts = [repr(value), f"{value:.3f}", f"{value:+.10e}", f"{value:.10E}"]
    texts += [f"{value:.10e}".replace("e", letter) for letter in "dD"]
    if value == int(value):
        texts.append(str(int(value)))
    return draw(st.sampled_from(texts))


def quoted(draw, text):
    first, last = draw(st.sampled_from(['""', "''", "{}", "[]"]))
    return f"{first}{text}{last}"


def cell_text(draw, cell):
    rows = [[number(draw, value) for value in row] for row in cell.tolist()]
    flat = [text for row in rows for text in row]
    if draw(st.booleans()):
        return quoted(draw, draw(st.sampled_from([" ", "  ", "\t", ", ", ","])).join(flat))
    return "[" + ", ".join(f"[{', '.join(row)}]" for row in rows) + "]"


PAIRS = [
    ("T", "F"),
    ("t", "f"),
    ("True", "False"),
    ("true", "false"),
    ("1", "0"),
    ("TRUE", "FALSE"),
    ("p", "f"),
]


def pbc_text(draw, pbc):
    true, false = draw(st.sampled_from(PAIRS))
    words = [true if axis else false for axis in pbc]
    texts = [quoted(draw, " ".join(words)), quoted(draw, ", ".join(words)), "[" + ",".join(words) + "]"]
    texts.append(" ".join(words))
    if len(true) == 1:
        texts.append("".join(words))
    if len(set(pbc)) == 1:
        texts += [words[0]] + ["None"] * (not any(pbc))
    return draw(st.sampled_from(texts))


def column_list(draw, frame):
    """Names, types and texts of the columns, of which the first two are elements and positions."""
    count = len(frame.symbols)
    labels = [f"{symbol}{draw(st.sampled_from(['', '1', '2+', '_pv']))}" for symbol in frame.symbols]
    elements = [
        (any_case(draw, "species", "element", "symbol"), "S", [[label] for label in labels]),
        ("Z", "I", [[str(chemical_symbols.index(symbol))] for symbol in frame.symbols]),
    ]
    columns = [draw(st.sampled_from(elements)), (any_case(draw, "pos", "positions"), "R", frame.positions)]
    if frame.forces is not None:
        columns.append((any_case(draw, "forces", "force"), "R", frame.forces))
    if frame.masses is not None:
        columns.append((any_case(draw, "mass", "masses"), "R", frame.masses[:, None]))
    if frame.group is not None:
        columns.append(("group", "I", [[str(value)] for value in frame.group]))
    texts = []
    for name, kind, values in draw(st.permutations(columns)):
        rows = [[v if isinstance(v, str) else number(draw, float(v)) for v in row] for row in values]
        assert len(rows) == count
        texts.append((name, kind, rows))
    return texts


def frame_text(draw, frame):
    """Lines of a frame: count, comment, atoms."""
    columns = column_list(draw, frame)
    names = ":".join(f"{name}:{kind}:{len(rows[0])}" for name, kind, rows in columns)
    keys = [f"{any_case(draw, 'Properties')}={names}"]
    if frame.cell is not None:
        keys.append(f"{any_case(draw, 'Lattice', 'cell', 'box')}={cell_text(draw, frame.cell)}")
        if not all(frame.pbc) or draw(st.booleans()):
            keys.append(f"{any_case(draw, 'pbc', 'periodic')}={pbc_text(draw, frame.pbc)}")
    if frame.energy is not None:
        keys.append(f"{any_case(draw, 'energy')}={number(draw, frame.energy)}")
    keys += draw(st.sampled_from([[], ["config_type=bulk"], ['name="a b"', "step=3"], ["_x={1 2}"]]))
    space = draw(st.sampled_from([" ", "  ", "\t"]))
    end = draw(st.sampled_from(["", " ", "\t "]))
    lines = [str(len(frame.symbols)), space.join(draw(st.permutations(keys)))]
    for k in range(len(frame.symbols)):
        lines.append(space.join(word for _, _, rows in columns for word in rows[k]))
    return [line + end for line in lines]


def file_text(draw, parts):
    blank = st.lists(st.sampled_from(["", " ", "\t"]), max_size=2)
    lines = draw(blank)
    for part in parts:
        lines = [*lines, *part, *draw(blank)]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    return (end.join(lines) + draw(st.sampled_from(["", end]))).encode(encoding)


def assert_read(atoms, frame):
    assert [chemical_symbols[z] for z in atoms.numbers] == frame.symbols
    assert atoms.positions == pytest.approx(frame.positions, rel=1e-12, abs=1e-12)
    cell = np.zeros((3, 3)) if frame.cell is None else frame.cell
    assert atoms.cell.array == pytest.approx(cell, rel=1e-9, abs=1e-12)
    assert tuple(atoms.pbc) == frame.pbc
    results = atoms.calc.results if atoms.calc else {}
    assert ("energy" in results, "forces" in results) == (frame.energy is not None, frame.forces is not None)
    if frame.energy is not None:
        assert results["energy"] == pytest.approx(frame.energy, rel=1e-9)
    if frame.forces is not None:
        assert results["forces"] == pytest.approx(frame.forces, rel=1e-12, abs=1e-12)
    if frame.masses is not None:
        assert atoms.get_masses() == pytest.approx(frame.masses)
    if frame.group is not None:
        assert atoms.arrays["group"].tolist() == frame.group


@given(data=st.data(), content=st.lists(frames(), min_size=1, max_size=3))
@QUICK
def test_what_was_written_is_read_in_any_spelling(tmp_path, data, content):
    path = tmp_path / "any.xyz"
    path.write_bytes(file_text(data.draw, [frame_text(data.draw, frame) for frame in content]))
    structures = read_structures(path)
    assert len(structures) == len(content)
    for atoms, frame in zip(structures, content, strict=True):
        assert_read(atoms, frame)


def as_ase_writes(frame):
    """Lines of a frame in the spelling that ASE knows."""
    names, rows = (
        "species:S:1:pos:R:3",
        [[s, *p] for s, p in zip(frame.symbols, frame.positions, strict=True)],
    )
    for name, values in (
        ("forces:R:3", frame.forces),
        ("masses:R:1", frame.masses),
        ("group:I:1", frame.group),
    ):
        if values is not None:
            names += f":{name}"
            rows = [[*row, *np.atleast_1d(value)] for row, value in zip(rows, values, strict=True)]
    comment = f"Properties={names}"
    if frame.cell is not None:
        cell, pbc = " ".join(map(str, frame.cell.ravel())), " ".join("FT"[axis] for axis in frame.pbc)
        comment += f' Lattice="{cell}" pbc="{pbc}"'
    comment += "" if frame.energy is None else f" energy={frame.energy}"
    return [str(len(rows)), comment, *(" ".join(map(str, row)) for row in rows)]


@given(content=st.lists(frames(), min_size=1, max_size=3))
@QUICK
def test_what_ase_reads_is_read_alike(tmp_path, content):
    text = "\n".join(line for frame in content for line in as_ase_writes(frame)) + "\n"
    path = tmp_path / "ase.xyz"
    path.write_text(text)
    for new, old in zip(read_structures(path), read_xyz(io.StringIO(text), slice(None)), strict=True):
        assert new.arrays.keys() == old.arrays.keys() and new.info == old.info
        for name, array in old.arrays.items():
            assert array.dtype == new.arrays[name].dtype and (array == new.arrays[name]).all()
        assert (new.cell.array == old.cell.array).all() and (new.pbc == old.pbc).all()
        results = [atoms.calc.results if atoms.calc else {} for atoms in (new, old)]
        assert results[0].keys() == results[1].keys()
        assert all((results[0][name] == results[1][name]).all() for name in results[1])


# Damage: (what is done to the lines of a frame, the line that is named; None where the next frame is)


def more_columns(lines, atom):
    lines[2 + atom] += " 0.25"
    return 2 + atom


def fewer_columns(lines, atom):
    lines[2 + atom] = lines[2 + atom].rsplit(None, 1)[0]
    return 2 + atom


def no_number(word):
    def damage(lines, atom):
        words = lines[2 + atom].split()
        lines[2 + atom] = " ".join([*words[:2], word, *words[3:]])
        return 2 + atom

    return damage


def no_element(lines, atom):
    lines[2 + atom] = " ".join(["Xx", *lines[2 + atom].split()[1:]])
    return 2 + atom


def blank_atom(lines, atom):
    lines[2 + atom] = ""
    return 2 + atom


def in_comment(addition):
    def damage(lines, _atom):
        lines[1] += addition
        return 1

    return damage


def wrong_count(step):
    def damage(lines, _atom):
        lines[0] = str(int(lines[0]) + step)
        return None

    return damage


def no_count(lines, _atom):
    lines[0] = "x"
    return 0


DAMAGES = [
    *[more_columns, fewer_columns, no_element, blank_atom, no_count, wrong_count(1), wrong_count(-1)],
    *[no_number(word) for word in ("***", "1.0e", "nan", "-inf", "1,5", "--", "1_0")],
    *[
        in_comment(text)
        for text in (
            ' pbc="T T"',
            " pbc=perhaps",
            ' cell="1 2"',
            ' LATTICE="90 0 0 0 90 0 0 0 90" box="80 0 0 0 80 0 0 0 80"',
            " properties=species:S:1:pos:R:2",
            ' note="open',
            " stress=3",
            " Energy=1 ENERGY=2",
        )
    ],
]


@given(
    content=st.lists(frames(), min_size=3, max_size=3),
    damage=st.sampled_from(DAMAGES),
    where=st.tuples(st.integers(0, 1), st.integers(0, 3)),
)
@QUICK
def test_damage_is_refused_and_the_message_names_the_place(tmp_path, content, damage, where):
    parts = [as_ase_writes(frame) for frame in content]
    index, atom = where[0], where[1] % len(content[where[0]].symbols)
    before = sum(len(part) for part in parts[:index])
    line = damage(parts[index], atom)
    path = tmp_path / "wrong.xyz"
    path.write_text("\n".join(line for part in parts for line in part) + "\n")
    with pytest.raises(StructureError) as caught:
        read_structures(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: frame ") and "\n" not in message
    assert "damaged" not in message and "truncated" not in message
    if line is not None:
        assert f": frame {index}, line {before + line + 1}: " in message


@given(content=st.lists(frames(), min_size=1, max_size=2), data=st.data())
@QUICK
def test_a_file_that_ends_early_is_truncated(tmp_path, content, data):
    parts = ["\n".join(as_ase_writes(frame)) + "\n" for frame in content]
    text = "".join(parts)
    last = len(text) - 1 - len(text.split()[-1])  # where the last number begins; fewer digits are a number
    path = tmp_path / "cut.xyz"
    path.write_text(text[: data.draw(st.integers(len(text) - len(parts[-1]) + 1, last))])
    with pytest.raises(StructureError, match=rf": frame {len(content) - 1} ends in line \d+ .* truncated"):
        read_structures(path)
