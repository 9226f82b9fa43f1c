"""What a CIF says of the symmetry of its crystal, in operations and in names, and whether these agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cif_values import BadValue, Block
from .operations import Operations, parse_operations
from .spacegroups import Setting, number_of, operations_of_hall, settings_named, settings_numbered

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
MISFIT = 0.02  # change of the lattice by the operations, above which the cell is of another setting


@dataclass
class Symmetry:
    """The symmetry of a crystal as a CIF gives it.

    Attributes:
        operations: that generate the crystal from its sites.
        listed: whether the file lists them.
        rivals: other readings of the name, each with operations that fit the cell.
        claims: operations that the name promises, where they are not those of the list; each entry is a
            setting of the name.
        title: the name or number in the file, for messages.
        notes: what a user should know.
    """

    operations: Operations
    listed: bool
    title: str
    rivals: list[Setting]
    claims: list[Operations]
    notes: list[str]


def symmetry_of(block: Block, cell: np.ndarray) -> Symmetry:
    """The symmetry that a block gives its crystal; none at all is ``P 1``.

    Args:
        cell: (3, 3) Å.

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
    return Symmetry(parse_operations(["x,y,z"]), True, "P 1", [], [], [])


def _operations_listed(block: Block) -> list[str]:
    magnetic = block.column("_space_group_symop_magn_operation_xyz")
    if not magnetic:
        return [text for text in block.column(*OPERATIONS) if text]
    return [",".join(text.split(",")[:3]) for text in magnetic if text]  # the fourth reverses time


def _listed(block: Block, texts: list[str], cell: np.ndarray) -> Symmetry:
    """Operations from a list, which count; what names say beside it has to agree."""
    operations = _parsed(texts)
    centrings = block.column("_space_group_symop_magn_centering_xyz")
    if centrings:
        operations = _centred(
            operations, _parsed([",".join(text.split(",")[:3]) for text in centrings if text])
        )
    pair = operations.product_outside()
    if pair is not None:
        first, second = (texts[k] if len(texts) == len(operations) else f"number {k + 1}" for k in pair)
        raise BadValue(
            f"the list of symmetry operations is not whole: the product of {first!r} and {second!r} is not "
            "in it; write all operations"
        )
    symmetry = Symmetry(operations, True, "", [], [], [])
    _check_cell(symmetry, cell)
    if not centrings:
        _compare_names(symmetry, block, cell)
    return symmetry


def _compare_names(symmetry: Symmetry, block: Block, cell: np.ndarray) -> None:
    """Find out whether the name, the Hall symbol and the number mean the group that is listed."""
    claims: dict[str, list[Operations]] = {}
    claimed, name, hall = _number(block), block.first(*NAMES), block.first(*HALL)
    numbers: dict[str, int | None] = {}
    if name:
        settings = settings_named(name)
        claims[name] = [setting.operations for setting in settings]
        numbers[name] = settings[0].number if settings else None
    if hall and (operations := operations_of_hall(hall)) is not None:
        claims[hall] = [operations]
        numbers[hall] = number_of(operations, np.eye(3))
    if claimed:
        claims[f"number {claimed}"] = [setting.operations for setting in settings_numbered(claimed)]
        numbers[f"number {claimed}"] = claimed
    own = number_of(symmetry.operations, cell)
    wrong = [title for title, number in numbers.items() if number not in (None, own)]
    if not wrong or own is None:
        return
    symmetry.title = wrong[0]
    if len(wrong) < sum(number is not None for number in numbers.values()):
        symmetry.notes.append(
            f"the listed operations are those of space group {own}, but it also says {', '.join(wrong)}; "
            "the operations are used"
        )
        return
    symmetry.claims = [operations for title in wrong for operations in claims[title]]


def _by_hall(hall: str, name: str, claimed: int | None, operations: Operations, cell: np.ndarray) -> Symmetry:
    symmetry = Symmetry(operations, False, hall, [], [], [])
    _check_cell(symmetry, cell)
    own = number_of(operations, np.eye(3))
    named = {setting.number for setting in settings_named(name)} if name else set()
    for title, numbers in ((name, named), (f"number {claimed}", {claimed} if claimed else set())):
        if own and numbers and own not in numbers:
            raise BadValue(f"the Hall symbol {hall!r} and {title!r} are different space groups; {WRITE}")
    return symmetry


def _by_name(block: Block, name: str, claimed: int | None, cell: np.ndarray) -> Symmetry:
    """Operations of the setting that the name, the number and the cell allow."""
    if name and (operations := operations_of_hall(name)) is not None and not settings_named(name):
        return _by_hall(name, "", claimed, operations, cell)
    settings = settings_named(name) if name else settings_numbered(claimed or 1)
    title = name or f"number {claimed}"
    if not settings:
        raise BadValue(f"the space group {name!r} is not known; {WRITE}")
    if claimed and all(setting.number != claimed for setting in settings):
        raise BadValue(f"the space group {name!r} is not number {claimed}; correct one of them, or {WRITE}")
    settings = [setting for setting in settings if claimed in (None, setting.number)]
    if not name:
        settings = [setting for setting in settings if setting.is_standard or setting.choice]
    settings = _with_choice(block, settings)
    fitting = [setting for setting in settings if setting.operations.distortion(cell) <= MISFIT]
    if not fitting:
        return _other_axes(settings, title, cell)
    symmetry = Symmetry(fitting[0].in_order_of_ase(), False, fitting[0].name, fitting[1:], [], [])
    if not name and len({setting.hall for setting in settings_numbered(claimed or 1)}) > 1:
        symmetry.notes.append(
            f"only the number {claimed} of the space group is given; the setting {fitting[0].name!r} is taken"
        )
    _check_cell(symmetry, cell)
    return symmetry


def _with_choice(block: Block, settings: list[Setting]) -> list[Setting]:
    """Those of an origin or axes that a tag of its own names, if it names one."""
    code = block.first(*CHOICES).upper()
    meanings = {"1": ("1", "H"), "2": ("2", "R")}.get(code, (code,))  # ASE numbers axes too
    return [setting for setting in settings if setting.choice and setting.choice in meanings] or settings


def _other_axes(settings: list[Setting], title: str, cell: np.ndarray) -> Symmetry:
    """Rhombohedral and hexagonal axes exclude each other by the cell, whatever the name's suffix says.

    Raises:
        BadValue: no setting of that name fits the cell.
    """
    if settings[0].choice in ("H", "R"):
        for setting in settings_numbered(settings[0].number):
            if setting.operations.distortion(cell) <= MISFIT:
                message = (
                    f"{title!r} does not fit the cell, which has the axes of {setting.name!r}; these are used"
                )
                return Symmetry(setting.in_order_of_ase(), False, setting.name, [], [], [message])
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


def _parsed(texts: list[str]) -> Operations:
    try:
        return parse_operations(texts)
    except ValueError as error:
        raise BadValue(str(error)) from error


def _centred(operations: Operations, centrings: Operations) -> Operations:
    """Every operation after every centring translation."""
    rotations = np.repeat(operations.rotations[None], len(centrings), axis=0).reshape(-1, 3, 3)
    translations = (operations.translations[None] + centrings.translations[:, None]).reshape(-1, 3) % 1
    return Operations(rotations, translations).distinct()


def _number(block: Block) -> int | None:
    text = block.first(*NUMBERS)
    if not text or not text.isdecimal():
        return None
    if not 1 <= int(text) <= 230:
        raise BadValue(f"space group number {text} does not exist; expected 1 to 230")
    return int(text)
