"""Crystallographic information files (CIF 1.1, the magnetic dictionary's too): one structure a data block.

gemmi parses the file and knows every setting of the space groups; what the sites and symmetry mean is decided
here and in ``cif_symmetry``. ASE's reader is the second opinion where it honours all that the file says.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_letters

import ase
import ase.io.cif
import gemmi
import numpy as np
from ase.cell import Cell

from ...errors import StructureError
from ...notes import note
from ..cif_symmetry import BadValue, Block, Site, crystal_with, symmetry_of
from ..neighbours import same_atoms
from ..species import atoms_of, element_of, is_symbol
from . import content_of, encoding_of, suffix_of

FRACTIONAL = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
CARTESIAN = tuple(f"_atom_site_cartn_{axis}" for axis in "xyz")
MULTIPLICITY = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
NUMBER = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:[eEdD]([+-]?\d+))?(?:\((\d+)\)?)?$")
FRACTION = re.compile(r"([+-]?\d+)/(\d+)$")
USUAL = re.compile(r"[A-Z][a-z]?(?![A-Za-z])")  # labels in which ASE's reader finds the element
SUFFIXES = (".cif", ".mcif")
CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
OPINION = 60  # sites up to which ASE's reader is asked too: its time grows with their square
MODULATED = "the structure is modulated, which is not read; give a commensurate cell"
REFUSED = {
    "_atom_site_group_pdb": "a macromolecular file (mmCIF) is not read; convert it to PDB",
    "_cell_modulation_dimension": MODULATED,
    "_space_group_symop_ssg_operation_algebraic": MODULATED,
}
# What programs write without the quotes that it needs: operations and names that hold spaces.
TRIPLET = re.compile(r"^(\s*(?:_\S+\s+|\d+\s+)?)([-+\dxyz/.* ]+(?:,[-+\dxyz/.* ]+){2})(\s*)$", re.I)
NAME = re.compile(r"^(\s*_(?:symmetry|space_group)[_.]\S*name_\S+\s+)([^'\"\s;][^'\"#]*?)(\s*)$", re.I)


@dataclass
class Sites:
    """The sites of a block, and what a user should know of them."""

    sites: list[Site]
    fractional: bool
    notes: list[str] = field(default_factory=list)
    comparable: bool = True  # whether ASE's reader honours all that was used


def opens(path: Path) -> bool:
    """Whether the name ends as that of a CIF, compressed or not."""
    return suffix_of(path) in SUFFIXES


def read(path: Path) -> Iterator[ase.Atoms]:
    """The structure of every block that has atoms.

    Raises:
        StructureError: the file is no CIF, or a block cannot mean one structure; names file, frame and block.
    """
    original = _decoded(content_of(path))
    text = _quoted(original)
    try:
        blocks = _blocks(text, cut=not original.endswith(("\n", "\r")))
    except BadValue as error:
        raise StructureError(f"{path}: frame 0 cannot be read as CIF: {error}") from error
    count = 0
    for block in blocks:
        blank = any(block.column(tag) for tag in FRACTIONAL)  # coordinates that are unknown
        if not (blank or block.has_coordinates(FRACTIONAL) or block.has_coordinates(CARTESIAN)):
            continue
        try:
            atoms, sites = _structure(block)
        except BadValue as error:
            place = f" (data_{block.name})" if len(blocks) > 1 else ""
            raise StructureError(f"{path}: frame {count}{place}: {error}") from error
        opinion = _opinion(atoms, text, block) if sites.comparable and len(sites.sites) <= OPINION else ()
        for message in (*sites.notes, *_formula_note(atoms, block), *opinion):
            note(f"{path}: {message}")
        yield atoms
        count += 1
    if not count:
        raise StructureError(
            f"{path}: frame 0 cannot be read as CIF: no data block has atoms (_atom_site_fract_x, _y and _z)"
        )


def _decoded(content: bytes) -> str:
    """ASCII text of a file in UTF-8, UTF-16 or Latin-1; no value that is read needs other letters."""
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding, "strict" if encoding == "utf-8" else "replace")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = text.replace("−", "-").translate({0x2080 + digit: str(digit) for digit in range(10)})
    text = re.sub("(\\d)[\u0304\u0305]", r"-\1", unicodedata.normalize("NFKC", text))
    return text.encode("ascii", "replace").decode()


def _quoted(text: str) -> str:
    """The text with quotes around operations and names that need them."""
    lines = [NAME.sub(r"\1'\2'\3", line) if " " in line else line for line in text.splitlines()]
    lines = [TRIPLET.sub(r"\1'\2'\3", x) if "," in x and re.search(r"\s", x.strip()) else x for x in lines]
    return "\n".join(lines) + "\n"


def _blocks(text: str, cut: bool) -> list[Block]:
    """The data blocks; ``cut`` says that the file ends without a line end and so may be truncated."""
    try:
        document = gemmi.cif.read_string(text, check_level=0)
    except (ValueError, RuntimeError) as error:
        raise BadValue(_reason(str(error), text, cut)) from error
    return [Block(block) for block in document]


def _reason(message: str, text: str, cut: bool) -> str:
    """gemmi's message with the line of the file."""
    match = re.match(r"string:(\d+)(?::\d+)?(?:\(\d+\))?:? ?(.*)", message)
    line, reason = (int(match[1]), match[2]) if match else (1, message)
    rows = text.splitlines()
    if "number of values in loop" in reason:
        words = [row.split(None, 1)[0].lower() for row in rows[line:] if row.strip()]
        values = next((k for k, word in enumerate(words) if not word.startswith("_")), len(words))
        cut = cut and not any(word.startswith(("_", "loop_", "data_")) for word in words[values:])
        reason = "the values of this loop do not fill its rows"
        reason += "" if cut else "; give every row all its columns, and quotes in pairs"
    else:
        cut = cut and line >= len(rows)
    return f"line {line}: {reason}" + ("; the file may be truncated" if cut else "")


def _structure(block: Block) -> tuple[ase.Atoms, Sites]:
    for tag, reason in REFUSED.items():
        if tag in block.columns:
            raise BadValue(reason)
    sites, cell = _sites(block), _cell(block)
    if cell is None:
        if sites.fractional:
            raise BadValue("fractional coordinates need a cell; give _cell_length_a and the others")
        sites.comparable = False
        positions = [site.position for site in sites.sites]
        return atoms_of([site.element for site in sites.sites], positions=positions), sites
    if not sites.fractional:
        _make_fractional(sites, cell)
    symmetry = symmetry_of(block, cell.array)
    crystal = crystal_with(sites.sites, symmetry, cell.array)
    sites.notes += symmetry.notes
    if any(tag.startswith("_atom_site_moment_") for tag in block.columns):
        sites.notes.append("the magnetic moments are not read")
    if crystal.repeated:
        labels = ", ".join(crystal.repeated[:4]) + ("…" if len(crystal.repeated) > 4 else "")
        sites.notes.append(f"sites that repeat atoms of other sites are left out ({labels})")
    if not crystal.multiplicities_agree():
        sites.notes.append("the number of images of a site is not the multiplicity that the file gives")
    sites.comparable &= symmetry.listed and crystal.moved < 1e-4 and not crystal.repeated
    return crystal.atoms(cell), sites


def _cell(block: Block) -> Cell | None:
    """The cell, if a length or an angle is given. Angles that are not given are 90°."""
    if not any(block.column(f"_cell_{name}") for name in CELL):
        return None
    parameters = []
    for name in CELL:
        text = block.first(f"_cell_{name}")
        if not text and (name.startswith("length") or f"_cell_{name}" in block.columns):
            raise BadValue(f"_cell_{name} is not given; a cell needs three lengths and three angles")
        try:
            parameters.append(_number(text)[0] if text else 90.0)
        except BadValue as error:
            raise BadValue(f"_cell_{name}: {error}") from error
    lengths, angles = np.array(parameters[:3]), np.radians(parameters[3:])
    cosines = np.cos(angles)
    share = 1 - (cosines**2).sum() + 2 * cosines.prod()  # (volume / a b c)²
    if (lengths <= 0).any() or not ((angles > 0) & (angles < np.pi)).all() or share < 1e-12:
        raise BadValue(f"the cell {parameters} has no volume; correct its lengths and angles")
    return Cell.fromcellpar(parameters)


def _make_fractional(sites: Sites, cell: Cell) -> None:
    """Convert Cartesian sites; a lies along x and b in the plane of x and y, as is usual."""
    inverse = np.linalg.inv(cell.array)
    sites.sites = [
        replace(site, position=site.position @ inverse, error=site.error @ np.abs(inverse))
        for site in sites.sites
    ]
    if not np.allclose(cell.angles(), 90):
        sites.notes.append("Cartesian coordinates are taken with a along x")


def _number(text: str) -> tuple[float, float]:
    """A number and its error, by its last digit or its standard uncertainty.

    Whole numbers, fractions such as 1/3, and numbers of one decimal are exact.
    """
    if match := FRACTION.match(text):
        if not int(match[2]):
            raise BadValue(f"{text!r} divides by zero")
        return int(match[1]) / int(match[2]), 0.0
    match = NUMBER.match(text)
    if match is None:
        hint = "; write a point for the comma" if "," in text else ""
        raise BadValue(f"{text!r} is not a number{hint}")
    sign, digits, exponent, uncertainty = match.groups()
    decimals = len(digits.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - decimals)
    error = unit * max(1, int(uncertainty or 0)) if decimals > 1 or uncertainty else 0.0
    return float(f"{sign}{digits}e{exponent or 0}"), error


def _formula(block: Block) -> dict[str, float]:
    """Counts by element of a formula such as ``Si O2`` or ``C6 H12 O6``; empty if it has another form."""
    counts: dict[str, float] = {}
    for part in block.first("_chemical_formula_sum").split():
        match = re.match(r"([A-Z][a-z]?)(\d*\.?\d*)$", part)
        if match is None or not element_of(match[1]):
            return {}
        counts[match[1]] = counts.get(match[1], 0) + float(match[2] or 1)
    return counts


def _symbol(kind: str, label: str, formula: frozenset[str]) -> str:
    """Symbol of a site's element, by its type symbol (``Si``, ``CU``, ``O2-``) or else its label (``Si1``).

    The elements of the formula in the file decide what capital letters mean.
    """
    symbol = _letters(kind).capitalize() if kind else next(iter(_possible(label, formula)), "")
    if not element_of(symbol):
        wrong = f"type symbol {kind!r} is no" if kind else f"label {label!r} names no"
        which = "one" if kind else "the element"
        raise BadValue(f"its {wrong} element; write {which}, as Si or O, in _atom_site_type_symbol")
    return symbol


def _letters(text: str) -> str:
    return text[: len(text) - len(text.lstrip(ascii_letters))]


def _possible(label: str, formula: frozenset[str]) -> list[str]:
    """Elements that a label may name, the likeliest first: Si for si1, O for OW1, none for Wat1."""
    letters = _letters(label)
    if letters[1:3].islower() and len(letters) > 2:  # a word such as Wat, Vac or dum
        return []
    names = dict.fromkeys((letters[:2].capitalize(), letters[:1].capitalize()))
    possible = [name for name in names if name != "T" and element_of(name)]
    if letters[:2].isupper():
        possible = [name for name in possible if name in formula] or possible
    return possible


def _sites(block: Block) -> Sites:
    """The fully occupied sites of a block."""
    fractional = block.has_coordinates(FRACTIONAL) or not block.has_coordinates(CARTESIAN)
    columns = [block.column(tag) for tag in (FRACTIONAL if fractional else CARTESIAN)]
    count = len(columns[0])
    labels, kinds = block.column("_atom_site_label"), block.column("_atom_site_type_symbol")
    if not labels and not kinds:
        raise BadValue("no atom has an element; give _atom_site_type_symbol")
    labels = labels or [f"{kind}{k + 1}" for k, kind in enumerate(kinds)]
    kinds = kinds or [""] * count
    if any(len(column) != count for column in (*columns, labels, kinds)):
        raise BadValue("the columns of its atom sites differ in length; give them in one loop")
    result = Sites([], fractional)
    occupied = _occupied(block, labels, result.notes)
    _check_disorder(block, labels, occupied)
    formula = frozenset(_formula(block))
    multiplicities = block.column(*MULTIPLICITY) or [""] * count
    for k in occupied:
        label = labels[k] or kinds[k]
        try:
            symbol = _symbol(kinds[k], label, formula)
            position, errors = np.array([_coordinate(column[k]) for column in columns]).T
        except BadValue as error:
            raise BadValue(f"atom {label or k}: {error}") from error
        multiplicity = None
        with suppress(BadValue):
            multiplicity = _number(multiplicities[k])[0]
        result.sites.append(Site(label, symbol, position, errors, multiplicity))
    result.comparable = all(USUAL.match(kinds[k] or labels[k]) for k in occupied)
    result.notes += _doubts(result.sites, [kinds[k] for k in occupied], formula)
    return result


def _coordinate(text: str) -> tuple[float, float]:
    if not text:
        raise BadValue("a coordinate is unknown ('?' or '.'); give it, or leave the atom out")
    return _number(text)


def _occupied(block: Block, labels: list[str], notes: list[str]) -> list[int]:
    """Places of the sites that hold an atom."""
    tags = ("_atom_site_occupancy", "_atom_site_calc_flag", "_atom_site_attached_hydrogens")
    shares, flags, hydrogens = (block.column(tag) or [""] * len(labels) for tag in tags)
    occupied, empty, partial = [], [], []
    for k, text in enumerate(shares):
        try:
            share = _number(text)[0] if text else 1.0
        except BadValue as error:
            raise BadValue(f"atom {labels[k]}: occupancy {error}") from error
        if flags[k].lower() == "dum" or share == 0:
            empty.append(labels[k])
            continue
        if abs(share - 1) > 1e-6:
            partial.append(f"{labels[k]} {text}")
        if hydrogens[k].isdecimal() and int(hydrogens[k]):
            raise BadValue(
                f"atom {labels[k]} has {hydrogens[k]} hydrogen atoms without coordinates "
                "(_atom_site_attached_hydrogens); give them as sites"
            )
        occupied.append(k)
    if partial:
        raise BadValue(f"sites are partially occupied ({_some(partial)}); give an ordered structure")
    if empty:
        notes.append(f"sites without an atom are left out ({_some(empty)})")
    if not occupied:
        raise BadValue("no site holds an atom; expected at least one")
    return occupied


def _check_disorder(block: Block, labels: list[str], occupied: list[int]) -> None:
    """Refuse sites of which a crystal holds one or the other."""
    groups = block.column("_atom_site_disorder_group")
    assemblies = block.column("_atom_site_disorder_assembly") or [""] * len(labels)
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for k in occupied if groups else []:
        if groups[k] not in ("", "0"):
            members[assemblies[k]][groups[k]].append(labels[k])
    for alternatives in members.values():
        if len(alternatives) > 1 or any(group.startswith("-") for group in alternatives):
            listed = [f"group {group}: {_some(names)}" for group, names in sorted(alternatives.items())]
            raise BadValue(
                f"sites are disordered and exclude each other ({'; '.join(listed)}); keep one group"
            )


def _doubts(sites: list[Site], kinds: list[str], formula: frozenset[str]) -> list[str]:
    """Notes about elements that a file could mean otherwise."""
    notes = []
    unclear = [
        f"{site.label} as {site.symbol}"
        for site, kind in zip(sites, kinds, strict=True)
        if not kind and site.label[:2].isupper() and len(_possible(site.label, formula)) > 1
    ]
    if unclear:
        notes.append(f"without _atom_site_type_symbol, labels are read as elements ({_some(unclear)})")
    if any(site.symbol == "T" for site in sites):
        notes.append("T is read as tritium, hydrogen of mass 3.016; write Si or Al for tetrahedral sites")
    others = [
        f"{site.label} is {site.symbol}"
        for site in sites
        if re.match(r"[A-Z][a-z]?\d*$", site.label)
        and is_symbol(_letters(site.label))
        and site.label[0] != site.symbol[0]
    ]
    if others:
        notes.append(f"_atom_site_type_symbol counts where the label names another element ({_some(others)})")
    return notes


def _some(names: list[str]) -> str:
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _formula_note(atoms: ase.Atoms, block: Block) -> Iterator[str]:
    """A note if the elements of the cell are not in the proportions of the formula in the file."""
    expected, counts = Counter[str](), Counter(atoms.symbols)
    for name, count in _formula(block).items():
        expected["H" if name in ("D", "T") else name] += count  # type: ignore[assignment]  # 0.5 of an atom
    scale = len(atoms) / (sum(expected.values()) or 1)
    if expected and any(
        abs(counts[name] - scale * expected[name]) > 0.01 * max(1, counts[name])
        for name in counts.keys() | expected.keys()
    ):
        yield (
            f"the atoms are {atoms.symbols}, but the formula in the file is "
            f"{block.first('_chemical_formula_sum')}; atoms may be missing"
        )


def _opinion(atoms: ase.Atoms, text: str, block: Block) -> Iterator[str]:
    """A note if ASE's reader finds another crystal in the same block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            blocks = ase.io.cif.parse_cif(io.BytesIO(text.encode()))
            (other,) = (entry for entry in blocks if entry.name.strip() == block.name)
            ase_atoms = other.get_atoms(fractional_occupancies=False)
        except Exception:  # a reader that fails has no opinion
            return
    if not same_atoms(atoms, ase_atoms):
        yield (
            f"ASE's reader finds another structure in this file, {ase_atoms.symbols} for "
            f"{atoms.symbols}; check the atoms"
        )
