"""A block of a CIF, the symmetry that it gives its crystal, and the atoms that follow from its sites."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import ase
import numpy as np
from ase.cell import Cell
from ase.data import covalent_radii
from gemmi import cif

from .neighbours import close_pairs, same_atoms
from .spacegroups import (
    CLOSEST,
    Operations,
    Setting,
    number_of,
    operations_of_hall,
    parse_operations,
    settings_named,
    settings_numbered,
)
from .species import Element, atoms_of, element_of

DECISIVE = ("_cell_", "_symmetry_", "_space_group_", "_atom_site_")
OPERATIONS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_symmetry_equiv_pos_site_as_xyz",
)
NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_symmetry_space_group_name_h-m_alt",
    "_space_group_name_h-m_ref",
    "_space_group_name_h-m_full",
)
HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
CHOICES = ("_space_group_it_coordinate_system_code", "_symmetry_space_group_setting")
WRITE = "write the list of all operations (_space_group_symop_operation_xyz)"
SHORT = 0.5  # share of the sum of covalent radii; a shorter distance speaks against a reading
REPEATED = 0.02  # Å; a site this close to an atom of the same element is that atom again
MISFIT = 0.02  # change of the lattice by the operations, above which the cell is of another setting


class BadValue(ValueError):
    """A value that cannot be used; the message says what was expected."""


class Block:
    """The values of a data block as text, by tags in small letters, with ``_`` for the point of newer ones.

    A tag has a value for each row of its loop, or one alone. Quotes are gone; ``?`` and ``.`` are empty.

    Raises:
        BadValue: a tag that says what the structure is stands there twice, with two values.
    """

    def __init__(self, content: cif.Block):
        self.name = content.name.strip()
        self.columns: dict[str, list[str]] = {}
        for item in content:
            if item.loop is not None:
                tags, cells = item.loop.tags, item.loop.values
            elif item.pair is not None:
                tags, cells = [item.pair[0]], [item.pair[1]]
            else:
                continue
            for k, tag in enumerate(tags):
                name = tag.lower().replace(".", "_")
                column = cells[k :: len(tags)]
                values = ["" if cif.is_null(text) else cif.as_string(text).strip() for text in column]
                if self.columns.setdefault(name, values) != values and name.startswith(DECISIVE):
                    raise BadValue(
                        f"line {item.line_number}: {tag} is given a second time, with another value; leave "
                        "one of them out"
                    )

    def first(self, *tags: str) -> str:
        """The first value that is given for one of these tags, or an empty text."""
        return next((value for tag in tags for value in self.columns.get(tag, ()) if value), "")

    def column(self, *tags: str) -> list[str]:
        """The values of the first of these tags that is there; empty if none is."""
        return next((self.columns[tag] for tag in tags if tag in self.columns), [])

    def has_coordinates(self, tags: tuple[str, ...]) -> bool:
        """Whether these coordinates of at least one atom are there."""
        return all(self.column(tag) for tag in tags) and any(self.first(tag) for tag in tags)


@dataclass(frozen=True)
class Site:
    """An atom site; its symbol may be ``D`` or ``T``."""

    label: str
    symbol: str
    position: np.ndarray  # (3,) fractional, or Å in a file with Cartesian coordinates
    error: np.ndarray  # (3,) by which rounding may have changed the position
    multiplicity: float | None  # number of images in a cell, if the file says it

    @property
    def element(self) -> Element:
        return element_of(self.symbol) or (0, None)


@dataclass
class Symmetry:
    """The symmetry of a crystal as a CIF gives it, with notes for the user."""

    operations: Operations
    listed: bool = False  # by the file
    title: str = ""  # the name or number in the file, for messages
    rivals: list[Setting] = field(default_factory=list)  # other readings of the name that fit the cell
    claims: list[Operations] = field(default_factory=list)  # operations of the name, if the list differs
    notes: list[str] = field(default_factory=list)


def symmetry_of(block: Block, cell: np.ndarray) -> Symmetry:
    """The symmetry that a block gives its crystal in a cell (3, 3) in Å; ``P 1`` if it gives none.

    Raises:
        BadValue: it names no symmetry, or symmetries that exclude each other or the cell.
    """
    texts = _operations_listed(block)
    if texts:
        return _listed(block, texts, cell)
    hall, name = block.first(*HALL), block.first(*NAMES)
    claimed = _number(block)
    if hall and (operations := operations_of_hall(hall)) is not None:
        return _by_hall(hall, name, claimed, operations, cell)
    if name or claimed:
        return _by_name(block, name, claimed, cell)
    if any(tag.startswith(("_space_group_magn_", "_space_group_ssg_")) for tag in block.columns):
        raise BadValue("a magnetic space group needs its list of operations; " + WRITE)
    return Symmetry(parse_operations(["x,y,z"]), True, "P 1")


def _operations_listed(block: Block) -> list[str]:
    magnetic = block.column("_space_group_symop_magn_operation_xyz")
    return _without_time(magnetic) if magnetic else [text for text in block.column(*OPERATIONS) if text]


def _without_time(texts: list[str]) -> list[str]:
    """Magnetic operations without the fourth part, which reverses time."""
    return [",".join(text.split(",")[:3]) for text in texts if text]


def _listed(block: Block, texts: list[str], cell: np.ndarray) -> Symmetry:
    """Operations from a list, which count; what names say beside it has to agree."""
    centrings = _without_time(block.column("_space_group_symop_magn_centering_xyz"))
    try:
        operations = parse_operations(texts)
        if centrings:
            operations = operations.after(parse_operations(centrings))
    except ValueError as error:
        raise BadValue(str(error)) from error
    pair = operations.product_outside()
    if pair is not None:
        first, second = (texts[k] if len(texts) == len(operations) else f"number {k + 1}" for k in pair)
        raise BadValue(
            f"the list of symmetry operations is not whole: the product of {first!r} and {second!r} is not "
            "in it; write all operations"
        )
    symmetry = Symmetry(operations, True)
    _check_cell(symmetry, cell)
    if not centrings:
        _compare_names(symmetry, block)
    return symmetry


def _claims(name: str, hall: str, claimed: int | None) -> dict[str, tuple[set[int], list[Operations]]]:
    """The numbers of space groups and the operations of settings that names in a file mean, by name."""
    settings = {name: settings_named(name) if name else []}
    settings[f"number {claimed}"] = settings_numbered(claimed) if claimed else []
    claims = {
        title: ({setting.number for setting in meanings}, [setting.operations for setting in meanings])
        for title, meanings in settings.items()
        if meanings
    }
    if hall and (operations := operations_of_hall(hall)) and (number := number_of(operations)):
        claims[hall] = {number}, [operations]
    return claims


def _compare_names(symmetry: Symmetry, block: Block) -> None:
    """Find out whether the name, the Hall symbol and the number mean the group that is listed."""
    claims = _claims(block.first(*NAMES), block.first(*HALL), _number(block))
    listed = number_of(symmetry.operations)
    wrong = [title for title, (numbers, _) in claims.items() if listed not in numbers]
    if not wrong or listed is None:
        return
    if len(wrong) < len(claims):
        symmetry.notes.append(
            f"the listed operations are those of space group {listed}, but it also says {', '.join(wrong)}; "
            "the operations are used"
        )
        return
    symmetry.title = wrong[0]
    symmetry.claims = [operations for title in wrong for operations in claims[title][1]]


def _by_hall(hall: str, name: str, claimed: int | None, operations: Operations, cell: np.ndarray) -> Symmetry:
    symmetry = Symmetry(operations, False, hall)
    _check_cell(symmetry, cell)
    actual = number_of(operations)
    for title, (numbers, _) in _claims(name, "", claimed).items():
        if actual and actual not in numbers:
            raise BadValue(f"the Hall symbol {hall!r} and {title!r} are different space groups; {WRITE}")
    return symmetry


def _by_name(block: Block, name: str, claimed: int | None, cell: np.ndarray) -> Symmetry:
    """Operations of the setting that the name, the number and the cell allow."""
    settings = settings_named(name) if name else settings_numbered(claimed or 1)
    if not settings and (operations := operations_of_hall(name)) is not None:
        return _by_hall(name, "", claimed, operations, cell)
    title = name or f"number {claimed}"
    if not settings:
        raise BadValue(f"the space group {name!r} is not known; {WRITE}")
    if claimed and all(setting.number != claimed for setting in settings):
        raise BadValue(f"the space group {name!r} is not number {claimed}; correct one of them, or {WRITE}")
    settings = [setting for setting in settings if claimed in (None, setting.number)]
    several = not name and len({setting.hall for setting in settings}) > 1
    if not name:
        settings = [setting for setting in settings if setting.is_standard or setting.choice]
    settings = _with_choice(block, settings)
    fitting = [setting for setting in settings if setting.operations.distortion(cell) <= MISFIT]
    if not fitting:
        return _other_axes(settings, title, cell)
    symmetry = Symmetry(fitting[0].in_order_of_ase(), False, fitting[0].name, fitting[1:])
    if several:
        symmetry.notes.append(
            f"only the number {claimed} of the space group is given; the setting {fitting[0].name!r} is taken"
        )
    _check_cell(symmetry, cell)
    return symmetry


def _with_choice(block: Block, settings: list[Setting]) -> list[Setting]:
    """The settings with the origin or axes that a tag names; all of them if no tag does."""
    code = block.first(*CHOICES).upper()
    meanings = {"1": ("1", "H"), "2": ("2", "R")}.get(code, (code,))  # ASE numbers axes too
    return [setting for setting in settings if setting.choice and setting.choice in meanings] or settings


def _other_axes(settings: list[Setting], title: str, cell: np.ndarray) -> Symmetry:
    """Rhombohedral and hexagonal axes exclude each other by the cell, whatever the name's suffix says."""
    if settings[0].choice in ("H", "R"):
        for setting in settings_numbered(settings[0].number):
            if setting.operations.distortion(cell) <= MISFIT:
                message = f"does not fit the cell, which has the axes of {setting.name!r}; these are used"
                return Symmetry(
                    setting.in_order_of_ase(), False, setting.name, notes=[f"{title!r} {message}"]
                )
    raise BadValue(
        f"the cell does not have the symmetry of the space group {title!r}; correct the cell or the name"
    )


def _check_cell(symmetry: Symmetry, cell: np.ndarray) -> None:
    """Refuse a cell that the operations do not keep, and give a note about one that they nearly keep."""
    distortion = symmetry.operations.distortion(cell)
    if distortion > 5 * MISFIT:
        raise BadValue(
            f"the symmetry operations change the cell by {distortion:.0%}; they belong to another cell or to "
            "other axes, correct one of them"
        )
    if distortion > 0.002:
        symmetry.notes.append(f"the cell departs from the symmetry of the operations by {distortion:.1%}")


def _number(block: Block) -> int | None:
    text = block.first(*NUMBERS)
    if not text.isdecimal():
        return None
    if not 1 <= int(text) <= 230:
        raise BadValue(f"space group number {text} does not exist; expected 1 to 230")
    return int(text)


@dataclass
class Crystal:
    """Atoms in one cell."""

    positions: np.ndarray  # (N, 3) fractional, from 0 to below 1
    places: np.ndarray  # (N,) the site of each atom, as its place in the list
    sites: list[Site]
    moved: float = 0.0  # fractional, the furthest that a site was moved to a special position
    repeated: list[str] = field(default_factory=list)  # labels of sites that are images of others

    def multiplicities_agree(self) -> bool:
        """Whether every site has as many images as the file says of it."""
        counts = np.bincount(self.places, minlength=len(self.sites))
        pairs = zip(self.sites, counts, strict=True)
        return all(site.multiplicity in (None, count) for site, count in pairs if count)

    def atoms(self, cell: np.ndarray | Cell) -> ase.Atoms:
        """The crystal as periodic atoms, with the masses of isotopes."""
        elements = [self.sites[k].element for k in self.places]
        return atoms_of(elements, scaled_positions=self.positions, cell=cell, pbc=True)

    def same_as(self, other: Crystal, cell: np.ndarray) -> bool:
        """Whether both hold the same atoms at the same places."""
        return same_atoms(self.atoms(cell), other.atoms(cell))


def crystal_with(sites: list[Site], symmetry: Symmetry, cell: np.ndarray) -> Crystal:
    """The crystal in a cell (3, 3), after a look at every other reading of the file's symmetry.

    Raises:
        BadValue: no reading makes a crystal, or readings contradict each other.
    """
    if symmetry.rivals:
        return _best_reading(sites, symmetry, cell)
    crystal = crystal_of(sites, symmetry.operations, cell)
    if symmetry.claims and not any(_agrees(crystal, sites, claim, cell) for claim in symmetry.claims):
        raise BadValue(
            f"the space group {symmetry.title!r} contradicts the list of {len(symmetry.operations)} symmetry "
            "operation(s), which make another crystal; write all operations, or the name of those in the list"
        )
    return crystal


def _agrees(crystal: Crystal, sites: list[Site], claim: Operations, cell: np.ndarray) -> bool:
    try:
        return claim.distortion(cell) <= 0.1 and crystal.same_as(crystal_of(sites, claim, cell), cell)
    except BadValue:
        return False


def _best_reading(sites: list[Site], symmetry: Symmetry, cell: np.ndarray) -> Crystal:
    """The first setting that keeps atoms apart and has the multiplicities of the file."""
    readings: dict[str, Crystal] = {}
    problems: list[BadValue] = []
    rivals = {setting.name: setting.operations for setting in symmetry.rivals}
    for title, operations in {symmetry.title: symmetry.operations, **rivals}.items():
        try:
            readings[title] = crystal_of(sites, operations, cell)
        except BadValue as error:
            problems.append(error)
    if not readings:
        raise problems[0]
    ranks = {
        name: (crystal.multiplicities_agree(), closeness(crystal, cell) > SHORT)
        for name, crystal in readings.items()
    }
    title = max(ranks, key=lambda name: ranks[name])
    crystal = readings[title]
    if symmetry.title not in (title, next(iter(readings))):
        symmetry.notes.append(f"{title!r} is taken, as {symmetry.title!r} would bring atoms together")
    others = [name for name, other in readings.items() if not crystal.same_as(other, cell)]
    if others:
        symmetry.notes.append(
            f"the space group can mean {title!r} or {', '.join(map(repr, others))}, which make different "
            f"crystals; {title!r} is taken ({len(crystal.positions)} atoms); write the one you mean"
        )
    return crystal


def crystal_of(sites: list[Site], operations: Operations, cell: np.ndarray) -> Crystal:
    """All atoms of one cell (3, 3) in Å, site after site, images in the order of the operations.

    Raises:
        BadValue: two atoms are closer than ``CLOSEST`` and are not one atom that is given twice.
    """
    points, images = zip(*(operations.orbit(s.position, s.error, cell) for s in sites), strict=True)
    places = np.repeat(np.arange(len(sites)), [len(positions) for positions in images])
    shifts = np.array(points) - [site.position for site in sites]
    moved = float(np.abs(shifts - np.rint(shifts)).max()) if len(operations) > 1 else 0.0
    return _without_repeats(Crystal(np.concatenate(images), places, sites, moved), cell)


def _without_repeats(crystal: Crystal, cell: np.ndarray) -> Crystal:
    """The crystal without sites that an earlier one of the same element generates."""
    pairs = close_pairs(crystal.positions @ cell, cell, np.ones(3, bool), CLOSEST)
    if not len(pairs.distances):
        return crystal
    repeated = set()
    for i, j, distance in zip(pairs.first, pairs.second, pairs.distances, strict=True):
        a, b = sorted((crystal.places[i], crystal.places[j]))
        first, second = crystal.sites[a], crystal.sites[b]
        slack = REPEATED + np.linalg.norm((first.error + second.error) @ np.abs(cell))
        if a == b:
            raise BadValue(
                f"atom {first.label} is {distance:.3g} Å from an image of itself by symmetry; correct its "
                "coordinates, or give more digits"
            )
        if first.symbol != second.symbol or distance > slack:
            raise BadValue(
                f"atoms {first.label} and {second.label}, or their images by symmetry, are {distance:.3g} Å "
                "apart; keep one of them"
            )
        repeated.add(b)
    new = ~np.isin(crystal.places, list(repeated))
    labels = [crystal.sites[k].label for k in sorted(repeated)]
    return replace(crystal, positions=crystal.positions[new], places=crystal.places[new], repeated=labels)


def closeness(crystal: Crystal, cell: np.ndarray) -> float:
    """Shortest distance, as a share of the sum of covalent radii; 1 for any that is not short."""
    radii = covalent_radii[crystal.atoms(cell).numbers]
    pairs = close_pairs(crystal.positions @ cell, cell, np.ones(3, bool), 2 * radii.max())
    shares = pairs.distances / (radii[pairs.first] + radii[pairs.second])
    return float(min(1.0, shares.min(initial=1.0)))
