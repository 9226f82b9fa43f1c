"""CIFs from a grammar: whatever the layout, the crystal is the one that was written."""

import random
import re

import gemmi
import numpy as np
from crystals import TAGS, cif, drawn, same_crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from nfflr.errors import StructureError
from nfflr.structures.readers import read_structures

SETTINGS = list(gemmi.spacegroup_table_itb())
SMALL = [k + 1 for k, entry in enumerate(SETTINGS) if len(entry.operations()) <= 16]
QUICK = settings(max_examples=120, deadline=None, derandomize=True, database=None)
DISTRACTIONS = (
    "_publ_section_comment\n;\nloop_\n_atom_site_label\nSi1\ndata_trap\n;",
    "_chemical_name_common 'it''s # no comment'",
    "# data_comment _cell_length_a 99",
    "_audit_creation_date 2020-01-01",
    "loop_\n_publ_author_name\n_publ_author_address\n'A, B' ?\n\"C 'D'\" .",
    "loop_\n_atom_type_symbol\n_atom_type_oxidation_number\nC 4\nN -3",
    "_cell_volume 1(2)",
    "",
)


def quoted(text, rng, must=False):
    """A value in one of the forms that CIF has for it."""
    forms = [f"'{text}'", f'"{text}"', f"\n;{text}\n;\n"] + [text] * (not must and " " not in text)
    return rng.choice(forms)


def cased(tag, rng):
    return rng.choice([tag, tag.upper(), tag.lower(), tag.swapcase()])


def precise(text, rng):
    """The same number, written otherwise."""
    signed = f"+{text}" if text[0] != "-" else text
    return rng.choice([text, text, f"{text}(3)", f"{float(text):.10E}", signed])


def symmetry_items(hall_number, rng):
    """The symmetry of a setting by name, Hall symbol, or operations in any spelling."""
    entry = SETTINGS[hall_number - 1]
    tags = "_space_group_name_H-M_alt", "_symmetry_space_group_name_H-M", "_space_group.name_H-M_alt"
    tag = rng.choice(tags)
    name = f"{cased(tag, rng)} {quoted(entry.xhm(), rng, must=True)}"
    hall = (
        f"{cased('_space_group_name_Hall', rng)} {quoted(entry.hall.replace(chr(34), '='), rng, must=True)}"
    )
    number = f"{cased('_space_group_IT_number', rng)} {entry.number}"
    triplets = [operation.triplet() for operation in entry.operations()]
    rng.shuffle(triplets)
    column = rng.choice(["_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz"])
    spelled = [quoted(rng.choice([t, t.upper(), t.replace(",", ", ")]), rng) for t in triplets]
    numbered = rng.random() < 0.5
    rows = [f"{k + 1} {row}" if numbered else row for k, row in enumerate(spelled)]
    tags = ["_space_group_symop_id"] * numbered + [column]
    listed = "\n".join(["loop_", *(cased(tag, rng) for tag in tags), *rows])
    halls = [] if '"' in entry.hall else [hall]
    return rng.choice(
        [[name], [name, number], halls or [name], [listed], [listed, name], [listed, number, name, *halls]]
    )


def atom_loop(sites, rng):
    """The atoms with columns in any order and others among them."""
    columns = {
        "label": [site[0] for site in sites],
        "type_symbol": [rng.choice([site[1], site[1].lower(), f"{site[1]}2+"]) for site in sites],
        **{f"fract_{axis}": [precise(site[2 + k], rng) for site in sites] for k, axis in enumerate("xyz")},
        "occupancy": [rng.choice(["1", "1.0", "?", ".", "1.00(1)"]) for _ in sites],
        "U_iso_or_equiv": ["0.0123(4)"] * len(sites),
        "calc_flag": ["d"] * len(sites),
        "disorder_group": ["."] * len(sites),
    }
    dropped = rng.choice([(), ("type_symbol",), ("label",), ("occupancy", "calc_flag")])
    names = [name for name in columns if name not in dropped]
    rng.shuffle(names)
    rows = zip(*(columns[name] for name in names), strict=True)
    gap = rng.choice([" ", "  ", "\t", "\n"])
    return "\n".join(["loop_", *(cased(f"_atom_site_{name}", rng) for name in names), *map(gap.join, rows)])


@QUICK
@given(st.sampled_from(SMALL), st.integers(0, 10**6))
def test_any_layout_of_a_cif_gives_its_crystal(tmp_path_factory, hall_number, seed):
    rng = random.Random(seed)
    cell, sites, numbers, positions = drawn(hall_number)
    items = [
        f"{cased(f'_cell_{tag}', rng)} {precise(f'{value:.8f}', rng)}"
        for tag, value in zip(TAGS, cell.cellpar(), strict=True)
    ]
    items += [*symmetry_items(hall_number, rng), atom_loop(sites, rng), *rng.sample(DISTRACTIONS, 3)]
    rng.shuffle(items)
    text = rng.choice(["", "# CIF 1.1\n", "\ufeff"]) + cased("data_x", rng) + "\n" + "\n".join(items) + "\n"
    path = tmp_path_factory.getbasetemp() / "grammar.cif"
    path.write_text(text, encoding="utf-8")
    (atoms,) = read_structures(path)
    assert same_crystal(atoms, numbers, positions), text


@QUICK
@given(st.sampled_from(SMALL), st.integers(0, 10**6))
def test_a_mutilated_cif_is_read_or_refused_in_one_line(tmp_path_factory, hall_number, seed):
    rng = random.Random(seed)
    cell, sites, _, _ = drawn(hall_number)
    lines = symmetry_items(hall_number, rng)
    text = cif([f"{x:.4f}" for x in cell.cellpar()], sites, lines)
    place, kind = rng.randrange(len(text)), rng.choice(["replaced", "added", "swapped"])
    letter = rng.choice("x0.,'\";?-/# \n_\t9é\0")
    if kind == "replaced":
        text = text[:place] + letter + text[place + 1 :]
    elif kind == "added":
        text = text[:place] + letter + text[place:]
    else:
        rows = text.splitlines()
        a, b = rng.randrange(len(rows)), rng.randrange(len(rows))
        rows[a], rows[b] = rows[b], rows[a]
        text = "\n".join(rows) + "\n"
    path = tmp_path_factory.getbasetemp() / "mutilated.cif"
    path.write_text(text, encoding="utf-8")
    try:
        for atoms in read_structures(path):
            assert np.isfinite(atoms.positions).all() and atoms.pbc.all()
    except StructureError as error:
        message = str(error)
        assert message.startswith(f"{path}: frame 0") and "\n" not in message
        assert not re.search(r"Traceback|NoneType|list index|KeyError|damaged", message)
