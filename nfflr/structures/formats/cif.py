"""Crystallographic information files (CIF 1.1, the magnetic dictionary's too): one structure a data block.

gemmi parses the file and knows every setting of the space groups; what the sites and symmetry mean is decided
here and in ``cif_symmetry``. ASE's reader is the second opinion where it honours all that the file says.
"""

from __future__ import annotations

import codecs
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
from ..cif_sites import (
    CARTESIAN,
    FRACTIONAL,
    Crystal,
    Site,
    Sites,
    atoms_of,
    closeness,
    crystal_of,
    has_coordinates,
    number_of_element,
    same_atoms,
    set_masses,
    sites_of,
)
from ..cif_symmetry import Symmetry, symmetry_of
from ..cif_values import BadValue, Block, block_of, formula_of, number
from ..file_text import content_of, suffix_of

SUFFIXES = (".cif", ".mcif")
CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
OPINION = 60  # sites up to which ASE's reader is asked too: its time grows with their square
SHORT = 0.5  # of the sum of covalent radii: a shorter distance speaks against a reading
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
        if not (has_coordinates(block, FRACTIONAL) or has_coordinates(block, CARTESIAN) or _blank(block)):
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
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            text = content.decode(encoding, "replace")
            break
    else:
        text = _without_mark(content)
    text = text.replace("−", "-").translate({0x2080 + digit: str(digit) for digit in range(10)})
    text = re.sub("(\\d)[\u0304\u0305]", r"-\1", unicodedata.normalize("NFKC", text))
    return text.encode("ascii", "replace").decode()


def _without_mark(content: bytes) -> str:
    """Text without a byte-order mark: in UTF-16, every other byte of ASCII letters is zero."""
    for encoding, zeros in (("utf-16-le", content[1:200:2]), ("utf-16-be", content[0:200:2])):
        if zeros and not any(zeros):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _quoted(text: str) -> str:
    """The text with quotes around operations and names that need them."""
    lines = [NAME.sub(r"\1'\2'\3", line) if " " in line else line for line in text.splitlines()]
    lines = [
        TRIPLET.sub(r"\1'\2'\3", line) if "," in line and re.search(r"[\s]", line.strip()) else line
        for line in lines
    ]
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
    return [block_of(block) for block in document]


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


def _blank(block: Block) -> bool:
    """Whether all coordinates of a block with atoms are unknown."""
    return any(block.column(tag) for tag in FRACTIONAL)


def _structure(block: Block) -> Structure:
    for tag, reason in REFUSED.items():
        if tag in block.columns:
            raise BadValue(reason)
    sites = sites_of(block)
    parameters = _cell_parameters(block)
    if parameters is None:
        return _cluster(sites)
    cell = _cell(parameters)
    if not sites.fractional:
        sites = _fractional(sites, cell)
    symmetry = symmetry_of(block, cell.array)
    crystal = _crystal(sites.sites, symmetry, cell.array)
    notes = [*sites.notes, *symmetry.notes]
    if any(tag.startswith("_atom_site_moment_") for tag in block.columns):
        notes.append("the magnetic moments are not read")
    if crystal.repeated:
        labels = ", ".join(crystal.repeated[:4]) + ("…" if len(crystal.repeated) > 4 else "")
        notes.append(f"sites that repeat atoms of other sites are left out ({labels})")
    if not crystal.multiplicities_agree():
        notes.append("the number of images of a site is not the multiplicity that the file gives")
    comparable = symmetry.listed and sites.usual and crystal.moved < 1e-4 and not crystal.repeated
    return Structure(atoms_of(crystal, cell), sites.sites, notes, comparable)


def _cell_parameters(block: Block) -> list[float] | None:
    """Lengths in Å and angles in degrees; None without any. Angles that are not given are 90."""
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
    return parameters


def _cell(parameters: list[float]) -> Cell:
    lengths, angles = np.array(parameters[:3]), np.radians(parameters[3:])
    cosines = np.cos(angles)
    share = 1 - (cosines**2).sum() + 2 * cosines.prod()  # (volume / a b c)²
    if (lengths <= 0).any() or not ((angles > 0) & (angles < np.pi)).all() or share < 1e-12:
        raise BadValue(f"the cell {parameters} has no volume; correct its lengths and angles")
    return Cell.fromcellpar(parameters)


def _cluster(sites: Sites) -> Structure:
    if sites.fractional:
        raise BadValue("fractional coordinates need a cell; give _cell_length_a and the others")
    atoms = ase.Atoms(
        [number_of_element(site.symbol) for site in sites.sites], [site.position for site in sites.sites]
    )
    set_masses(atoms, [site.symbol for site in sites.sites])
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


def _crystal(sites: list[Site], symmetry: Symmetry, cell: np.ndarray) -> Crystal:
    """The crystal, after a look at every other reading of what the file says of its symmetry."""
    if symmetry.rivals:
        return _best_reading(sites, symmetry, cell)
    crystal = crystal_of(sites, symmetry.operations, cell)
    if symmetry.claims and not any(_agrees(crystal, sites, claim, cell) for claim in symmetry.claims):
        raise BadValue(
            f"the space group {symmetry.title!r} contradicts the list of {len(symmetry.operations)} symmetry "
            "operation(s), which make another crystal; write all operations, or the name of those in the list"
        )
    return crystal


def _agrees(crystal: Crystal, sites: list[Site], claim, cell: np.ndarray) -> bool:
    if claim.distortion(cell) > 0.1:
        return False
    try:
        return crystal.same_as(crystal_of(sites, claim, cell), cell)
    except BadValue:
        return False


def _best_reading(sites: list[Site], symmetry: Symmetry, cell: np.ndarray) -> Crystal:
    """The first setting that keeps atoms apart and has the multiplicities of the file.

    Raises:
        BadValue: no setting makes a crystal.
    """
    readings: list[tuple[str, Crystal]] = []
    problem: BadValue | None = None
    for title, operations in [
        (symmetry.title, symmetry.operations),
        *((setting.name, setting.operations) for setting in symmetry.rivals),
    ]:
        try:
            readings.append((title, crystal_of(sites, operations, cell)))
        except BadValue as error:
            problem = problem or error
    if not readings:
        raise problem or BadValue("no setting of its space group fits the cell")
    ranks = [(crystal.multiplicities_agree(), closeness(crystal, cell) > SHORT) for _, crystal in readings]
    title, crystal = readings[ranks.index(max(ranks))]
    if title != symmetry.title and readings[0][0] != symmetry.title:
        symmetry.notes.append(f"{title!r} is taken, as {symmetry.title!r} would bring atoms together")
    others = [name for name, other in readings if not crystal.same_as(other, cell)]
    if others:
        symmetry.notes.append(
            f"the space group can mean {title!r} or {', '.join(map(repr, others))}, which make different "
            f"crystals; {title!r} is taken ({len(crystal.positions)} atoms); write the one you mean"
        )
    return crystal


def _formula_note(structure: Structure, block: Block) -> Iterator[str]:
    """A note if the elements of the cell are not in the proportions of the formula in the file."""
    expected = formula_of(block.first("_chemical_formula_sum"))
    for isotope in ("D", "T"):
        if isotope in expected:
            expected["H"] = expected.get("H", 0) + expected.pop(isotope)
    counts = Counter(structure.atoms.symbols)
    total = sum(expected.values())
    scale = len(structure.atoms) / total if total else 1
    if expected and any(
        abs(counts[name] - scale * expected.get(name, 0)) > 0.01 * max(1, counts[name])
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
