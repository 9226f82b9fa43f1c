"""Crystallographic information files (CIF 1.1, the magnetic dictionary's too): one structure a data block.

gemmi parses the file and knows every setting of the space groups; what the sites and symmetry mean is decided
here and in ``cif_symmetry``. ASE's reader is the second opinion where it honours all that the file says.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ase
import ase.io.cif
import gemmi
import numpy as np
from ase.cell import Cell

from ...errors import StructureError
from ...notes import note
from ..cif_sites import CARTESIAN, FRACTIONAL, BadValue, Block, Site, Sites, formula_of, number, sites_of
from ..cif_symmetry import crystal_with, elements_of, same_atoms, symmetry_of
from ..species import set_masses
from . import content_of, encoding_of, suffix_of

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
class Structure:
    """A structure, what a user should know of it, and whether ASE's reader honours all that was used."""

    atoms: ase.Atoms
    sites: list[Site]
    notes: list[str]
    comparable: bool = False


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
            structure = _structure(block)
        except BadValue as error:
            place = f" (data_{block.name})" if len(blocks) > 1 else ""
            raise StructureError(f"{path}: frame {count}{place}: {error}") from error
        notes = [*structure.notes, *_formula_note(structure, block), *_opinion(structure, text, block)]
        for message in notes:
            note(f"{path}: {message}")
        yield structure.atoms
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
    """The data blocks; ``cut`` says that the file ends without a line end, as one does that was cut.

    Raises:
        BadValue: the text is no CIF; names the line.
    """
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


def _structure(block: Block) -> Structure:
    for tag, reason in REFUSED.items():
        if tag in block.columns:
            raise BadValue(reason)
    sites = sites_of(block)
    cell = _cell(block)
    if cell is None:
        return _cluster(sites)
    if not sites.fractional:
        sites = _fractional(sites, cell)
    symmetry = symmetry_of(block, cell.array)
    crystal = crystal_with(sites.sites, symmetry, cell.array)
    notes = [*sites.notes, *symmetry.notes]
    if any(tag.startswith("_atom_site_moment_") for tag in block.columns):
        notes.append("the magnetic moments are not read")
    if crystal.repeated:
        labels = ", ".join(crystal.repeated[:4]) + ("…" if len(crystal.repeated) > 4 else "")
        notes.append(f"sites that repeat atoms of other sites are left out ({labels})")
    if not crystal.multiplicities_agree():
        notes.append("the number of images of a site is not the multiplicity that the file gives")
    comparable = symmetry.listed and sites.usual and crystal.moved < 1e-4 and not crystal.repeated
    return Structure(crystal.atoms(cell), sites.sites, notes, comparable)


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
            parameters.append(number(text)[0] if text else 90.0)
        except BadValue as error:
            raise BadValue(f"_cell_{name}: {error}") from error
    lengths, angles = np.array(parameters[:3]), np.radians(parameters[3:])
    cosines = np.cos(angles)
    share = 1 - (cosines**2).sum() + 2 * cosines.prod()  # (volume / a b c)²
    if (lengths <= 0).any() or not ((angles > 0) & (angles < np.pi)).all() or share < 1e-12:
        raise BadValue(f"the cell {parameters} has no volume; correct its lengths and angles")
    return Cell.fromcellpar(parameters)


def _cluster(sites: Sites) -> Structure:
    if sites.fractional:
        raise BadValue("fractional coordinates need a cell; give _cell_length_a and the others")
    numbers, masses = elements_of(sites.sites)
    atoms = ase.Atoms(numbers, [site.position for site in sites.sites])
    set_masses(atoms, masses)
    return Structure(atoms, sites.sites, sites.notes)


def _fractional(sites: Sites, cell: Cell) -> Sites:
    """Cartesian sites as fractional ones; a lies along x and b in the plane of x and y, as is usual."""
    inverse = np.linalg.inv(cell.array)
    converted = [
        replace(site, position=site.position @ inverse, error=site.error @ np.abs(inverse))
        for site in sites.sites
    ]
    notes = [] if np.allclose(cell.angles(), 90) else ["Cartesian coordinates are taken with a along x"]
    return replace(sites, sites=converted, fractional=True, notes=[*sites.notes, *notes])


def _formula_note(structure: Structure, block: Block) -> Iterator[str]:
    """A note if the elements of the cell are not in the proportions of the formula in the file."""
    expected, counts = Counter[str](), Counter(structure.atoms.symbols)
    for name, count in formula_of(block).items():
        expected["H" if name in ("D", "T") else name] += count  # type: ignore[assignment]  # 0.5 of an atom
    scale = len(structure.atoms) / (sum(expected.values()) or 1)
    if expected and any(
        abs(counts[name] - scale * expected[name]) > 0.01 * max(1, counts[name])
        for name in counts.keys() | expected.keys()
    ):
        yield (
            f"the atoms are {structure.atoms.symbols}, but the formula in the file is "
            f"{block.first('_chemical_formula_sum')}; atoms may be missing"
        )


def _opinion(structure: Structure, text: str, block: Block) -> Iterator[str]:
    """A note if ASE's reader finds another crystal in the same block."""
    if not structure.comparable or len(structure.sites) > OPINION:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            blocks = ase.io.cif.parse_cif(io.BytesIO(text.encode()))
            (other,) = (entry for entry in blocks if entry.name.strip() == block.name)
            atoms = other.get_atoms(fractional_occupancies=False)
        except Exception:  # what it cannot read, it has no opinion of
            return
    if not same_atoms(structure.atoms, atoms):
        yield (
            f"ASE's reader finds another structure in this file, {atoms.symbols} for "
            f"{structure.atoms.symbols}; check the atoms"
        )
