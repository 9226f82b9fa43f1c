"""Folders of DeePMD-kit in NumPy form: ``type.raw``, ``type_map.raw`` and ``set.*/coord.npy, energy.npy, …``.

A folder of such folders is read too, and the mixed type form (``real_atom_types.npy``). Units are Å, eV per
frame and eV/Å; ``virial.npy`` is −V σ in eV, rows of the 3×3 tensor (https://docs.deepmodeling.com/projects/deepmd,
"System"; its ASE calculator has the sign).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase
import numpy as np
from ase.data import atomic_numbers

from ...errors import StructureError
from ...structures.checks import check_structure
from ...structures.species import is_symbol
from . import Entry, Selection, selected

KEYS = {"total_energy": ("energy",), "forces": ("force",), "stress": ("stress",)}
ENERGY_UNITS = "eV"
STRESS = ("eV/Å^3", 1, "3x3")

VIRTUAL = -1  # type of atoms that fill the mixed form up


def opens(source: object) -> bool:
    return isinstance(source, str | Path) and Path(source).is_dir() and any(_systems(Path(source)))


def read(source: str | Path, selection: Selection = None) -> list[Entry]:
    folder = Path(source)
    entries = []
    for system in _systems(folder):
        name = folder.name if system == folder else f"{folder.name}/{system.relative_to(folder).as_posix()}"
        entries += list(_entries(system, name, selection))
    return entries


def _systems(folder: Path) -> list[Path]:
    """Folders with ``type.raw`` and sets, at most three levels below."""
    patterns = ("", "*/", "*/*/", "*/*/*/")
    files = (file for pattern in patterns for file in folder.glob(f"{pattern}type.raw"))
    return sorted(file.parent for file in files if any(file.parent.glob("set.*/coord.npy")))


def _entries(system: Path, name: str, selection: Selection) -> Iterator[Entry]:
    types, names = _types(system), _names(system)
    periodic = not (system / "nopbc").exists()
    count = 0
    for folder in sorted(system.glob("set.*")):
        frames = _frames(folder, len(types), periodic)
        for k in range(len(frames["coord"])):
            values = {label: array[k] for label, array in frames.items()}
            kinds = np.nan_to_num(values.pop("real_atom_types", types), nan=-2).astype(int)
            real = kinds != VIRTUAL
            positions, box = values.pop("coord").reshape(-1, 3)[real], values.pop("box", None)
            cell = box.reshape(3, 3) if periodic else None
            atoms = ase.Atoms(_numbers(kinds[real], names, system), positions, cell=cell, pbc=periodic)
            check_structure(atoms, f"{folder}: frame {k}")
            if "energy" in values:
                values["energy"] = float(values["energy"].reshape(-1)[0])
            if "force" in values:
                values["force"] = values["force"].reshape(-1, 3)[real]
            virial = values.pop("virial", None)
            if virial is not None and periodic:
                values["stress"] = -virial.reshape(3, 3) / atoms.get_volume()
            yield Entry(f"{name}[{count}]", name, atoms, selected(values, selection))
            count += 1


def _types(system: Path) -> np.ndarray:
    path = system / "type.raw"
    try:
        types = np.array(path.read_text().split(), dtype=int)
    except ValueError as error:
        raise StructureError(f"{path}: holds something else than whole numbers; write it again") from error
    if not len(types):
        raise StructureError(f"{path}: is empty; expected the type of each atom")
    return types


def _names(system: Path) -> list[str]:
    path = system / "type_map.raw"
    if not path.is_file():
        raise StructureError(
            f"{system}: has types and no elements; write the symbols in the order of the types into "
            f"{path.name}, one a line"
        )
    names = path.read_text().split()
    for name in names:
        if not is_symbol(name):
            raise StructureError(f"{path}: {name!r} is no element; write chemical symbols")
    return names


def _numbers(types: np.ndarray, names: list[str], system: Path) -> list[int]:
    wrong = types[(types < 0) | (types >= len(names))]
    if len(wrong):
        raise StructureError(
            f"{system}: an atom has the type {wrong[0]}, but type_map.raw has {len(names)} names"
        )
    return [atomic_numbers[names[k]] for k in types]


def _frames(folder: Path, size: int, periodic: bool) -> dict[str, np.ndarray]:
    """Arrays of a set by name, a row each frame, checked for their numbers of rows and columns."""
    frames = {path.stem: _load(path) for path in sorted(folder.glob("*.npy"))}
    for name in ("coord", "box") if periodic else ("coord",):
        if name not in frames:
            raise StructureError(f"{folder}: has no {name}.npy; expected one row a frame")
    count = len(frames["coord"])
    columns = {"coord": 3 * size, "force": 3 * size, "box": 9, "virial": 9, "energy": 1}
    columns |= {"real_atom_types": size}
    for name, array in frames.items():
        width = int(np.prod(array.shape[1:]))
        if len(array) != count or width != columns.get(name, width):
            raise StructureError(
                f"{folder / name}.npy: has shape {array.shape}, expected {count} rows"
                + (f" of {columns[name]} numbers" if name in columns else "")
            )
    return frames


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StructureError(f"{path}: cannot be read ({error}); the file may be truncated") from error
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        raise StructureError(f"{path}: holds {array.dtype} of shape {array.shape}; expected rows of numbers")
    return array.astype(float)
