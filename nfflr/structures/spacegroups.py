"""Space groups by name, Hall symbol or number, in each of their settings (axes and origins).

The tables are those of gemmi (International Tables A, 1983 and 2002, and settings used elsewhere).
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, cached_property

import gemmi
import numpy as np
import spglib
from ase.spacegroup import Spacegroup

from .operations import Operations

# What follows a name: origin choice 1 or 2, or hexagonal or rhombohedral axes, as programs write it.
CHOICES = {
    "1": "1", "o1": "1", "s": "1", "origin1": "1", "originchoice1": "1",
    "2": "2", "o2": "2", "z": "2", "origin2": "2", "originchoice2": "2",
    "h": "H", "hr": "H", "hex": "H", "hexagonal": "H", "hexagonalaxes": "H",
    "r": "R", "rs": "R", "rh": "R", "rhombohedral": "R", "rhombohedralaxes": "R",
}  # fmt: skip
SUFFIX = re.compile(r":?\(?(" + "|".join(sorted(CHOICES, key=len, reverse=True)) + r")\)?$")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆−–¯", "0123456---")


class Setting:
    """A space group with its axes and origin.

    Attributes:
        number: in International Tables, 1 to 230.
        name: Hermann–Mauguin symbol with the origin or axes, as ``F d -3 m:2``.
        choice: ``1`` or ``2`` (origin), ``H`` or ``R`` (axes), or empty.
        hall: Hall symbol.
        is_standard: whether it is the one that a number alone means.
    """

    def __init__(self, group: gemmi.SpaceGroup):
        self._group = group
        self.number, self.name, self.hall = group.number, group.xhm(), group.hall
        self.choice = group.ext.strip("\0")
        self.is_standard = group.is_reference_setting() or self.choice in ("1", "H")

    def __repr__(self) -> str:
        return f"Setting({self.name!r})"

    @cached_property
    def operations(self) -> Operations:
        """All of them, centring translations among them."""
        return _operations(self._group.operations())

    def in_order_of_ase(self) -> Operations:
        """The operations in ASE's order if ASE has this setting: the order of atoms follows from it."""
        with suppress(Exception):  # ASE has no such setting
            pairs = Spacegroup(self.number, 2 if self.choice in ("2", "R") else 1).get_symop()
            theirs = Operations(*(np.array(part) for part in zip(*pairs, strict=True)))
            if theirs.same_as(self.operations) and len(theirs) == len(self.operations):
                return theirs
        return self.operations


def settings_named(name: str) -> list[Setting]:
    """Settings that a Hermann–Mauguin symbol can mean, the usual first; none if it is no symbol.

    Symbols may be short or full, with or without spaces, with a suffix for origin or axes (``:2``, ``Z``,
    ``:H``, ``RS``, ``(origin choice 2)``). A short monoclinic symbol can mean each unique axis.
    """
    key = _key(name)
    if groups := _table()[key]:
        return [Setting(group) for group in groups]
    match = SUFFIX.search(key)
    if match is None:
        group = gemmi.find_spacegroup_by_name(name)
        return [] if group is None else [Setting(group)]
    choice, settings = CHOICES[match[1]], settings_named(key[: match.start()])
    fitting = [setting for setting in settings if setting.choice == choice]
    if choice == "1" and not any(setting.choice for setting in settings):
        return settings  # where there is one origin, it is the first
    return fitting


def settings_numbered(number: int) -> list[Setting]:
    """All settings of a space group, the standard first, with origin choice 1 or hexagonal axes as in ASE."""
    settings = [Setting(group) for group in gemmi.spacegroup_table() if group.number == number]
    return sorted(settings, key=lambda setting: not setting.is_standard)


def operations_of_hall(symbol: str) -> Operations | None:
    """Operations of a Hall symbol, or None if it is none."""
    try:
        return _operations(gemmi.symops_from_hall(symbol.replace("_", " ").strip()))
    except (RuntimeError, ValueError):
        return None


def number_of(operations: Operations, cell: np.ndarray) -> int | None:
    """Number of the space group of operations (a group) in any setting; None if it is not found."""
    if (group := _in_table(operations)) is not None:
        return int(group.number)
    with suppress(Exception), warnings.catch_warnings():  # whatever spglib raises in this version
        warnings.simplefilter("ignore")  # it warns of changes to come
        kind = spglib.get_spacegroup_type_from_symmetry(
            operations.rotations.astype("intc"), operations.translations, lattice=cell
        )
        if kind is not None:
            return int(kind.number)
    return None


def _in_table(operations: Operations) -> gemmi.SpaceGroup | None:
    """gemmi's entry with these operations, if it has one."""
    shifts = operations.translations * gemmi.Op.DEN
    if np.abs(shifts - np.rint(shifts)).max() > 1e-6:
        return None
    entries = []
    for rotation, shift in zip(operations.rotations, np.rint(shifts).astype(int), strict=True):
        entry = gemmi.Op()
        entry.rot, entry.tran = (rotation * gemmi.Op.DEN).tolist(), shift.tolist()
        entries.append(entry)
    return gemmi.find_spacegroup_by_ops(gemmi.GroupOps(entries))


def _operations(group: gemmi.GroupOps) -> Operations:
    scale = gemmi.Op.DEN
    pairs = [(operation.rot, operation.tran) for operation in group]
    rotations = np.array([rotation for rotation, _ in pairs]) // scale
    translations = np.array([translation for _, translation in pairs]) % scale / scale
    return Operations(rotations, translations)


@cache
def _table() -> defaultdict[str, list[gemmi.SpaceGroup]]:
    table: defaultdict[str, list[gemmi.SpaceGroup]] = defaultdict(list)
    for group in gemmi.spacegroup_table():
        for key in dict.fromkeys(_keys(group)):
            table[key].append(group)
    return table


def _keys(group: gemmi.SpaceGroup) -> Iterable[str]:
    parts = group.hm.split()
    yield _key(group.hm)
    yield _key(group.short_name())
    if 3 <= group.number <= 15:  # monoclinic, for which the unique axis is often left out
        yield _key(" ".join([parts[0], *(part for part in parts[1:] if part != "1")]))
    if group.number >= 195:  # cubic, whose minus sign older symbols lack
        yield _key(group.hm).replace("-3", "3")


def _key(name: str) -> str:
    """A symbol in small letters without spaces and marks of subscripts."""
    plain = re.sub(r"(\d)[̄̅]", r"-\1", name.translate(SUBSCRIPTS))  # 3 with a bar above
    plain = re.sub(r"</?su[bp]>|\(#?\d+\)$|#\d+$", "", plain.strip().strip("'\"").lower())
    return re.sub(r"\(a,b,c\)$", "", re.sub(r"[\s_~{}$\\]", "", plain))
