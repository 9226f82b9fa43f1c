"""LMDB files, and ASE databases in them: ``.aselmdb``, as Open Catalyst, OMat24 and OMol25 have them.

A row is zlib-compressed JSON under the key of its number, from 1 to below ``nextid``; those in
``deleted_ids`` are left out (fairchem, ``fairchem.core.datasets``). Values are in ASE's units. Nothing is
unpickled, and no class that a row names is made. Needs the extra ``nfflr[lmdb]``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from pydantic_core import from_json

from ...errors import ConfigError, StructureError
from ..checks import check_structure

SUFFIX = ".aselmdb"
LARGEST = 2**28  # bytes of a row: a small file may unpack to more than the memory
ARRAYS = ("momenta", "tags", "initial_charges", "initial_magmoms", "masses")

_environments: dict[str, tuple[tuple, Any]] = {}  # LMDB permits a file to be opened once per process


def opens(path: Path) -> bool:
    """Whether the name ends in ``.aselmdb``."""
    return path.suffix == SUFFIX


def read(path: Path) -> Iterator[ase.Atoms]:
    """Every structure with its results, in the order of the rows.

    Raises:
        StructureError: the file or a row cannot be read; names file and row.
    """
    rows = Rows(path)
    yield from (rows[k] for k in range(len(rows)))


class Rows:
    """Rows of a file; one is read when it is asked for."""

    def __init__(self, path: Path):
        self.file, self.name = LmdbFile(path), str(path)
        limit = self._json(b"nextid", 1)
        deleted = self._json(b"deleted_ids", [])
        if type(limit) is not int or not isinstance(deleted, list):
            raise StructureError(f"{path}: is no ASE database in LMDB (its nextid is no number)")
        missing = {number for number in deleted if type(number) is int}
        self.ids = [number for number in range(1, limit) if number not in missing]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> ase.Atoms:
        number = self.ids[index]
        where = f"{self.name}: row {number}"
        row = self._json(str(number).encode(), None)
        if not isinstance(row, dict):
            raise StructureError(f"{where} is missing; the file is not whole, copy it again")
        try:
            atoms = _atoms(row)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise StructureError(f"{where} holds no structure ({error!r}); write the file again") from error
        check_structure(atoms, where)
        return atoms

    def _json(self, key: bytes, default: Any) -> Any:
        content = self.file.get(key)
        if content is None:
            return default
        try:
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(content, LARGEST)
            if not unpacking.eof:
                raise ValueError(f"it ends early, or is larger than {LARGEST >> 20} MiB")
            return from_json(text)
        except (ValueError, zlib.error) as error:
            raise StructureError(
                f"{self.name}: row {key.decode()} is no compressed JSON ({error}); the file is damaged"
            ) from error


def _atoms(row: dict) -> ase.Atoms:
    values = {key: _decoded(value) for key, value in row.items()}
    atoms = ase.Atoms(
        numbers=np.asarray(values["numbers"], dtype=int),
        positions=np.asarray(values["positions"], dtype=float),
        cell=np.asarray(values.get("cell", np.zeros((3, 3))), dtype=float),
        pbc=np.asarray(values.get("pbc", False), dtype=bool),
    )
    for name in ARRAYS:
        if values.get(name) is not None:
            atoms.set_array(name, np.asarray(values[name]))
    # Other constraints do not matter to labels.
    held = [c["kwargs"]["indices"] for c in values.get("constraints") or [] if c.get("name") == "FixAtoms"]
    if fixed := [index for part in held for index in np.atleast_1d(part).tolist()]:
        atoms.set_constraint(FixAtoms(fixed))
    for part in ("data", "key_value_pairs"):
        if isinstance(values.get(part), dict):
            atoms.info |= values[part]
    labels = [name for name in all_properties if values.get(name) is not None]
    arrays = {name: np.asarray(values[name], float) for name in labels}
    results = {name: value if value.ndim else float(value) for name, value in arrays.items()}
    shape = np.shape(results.get("forces", atoms.positions))
    if shape != (len(atoms), 3):  # SinglePointCalculator asserts it without a word
        raise ValueError(f"forces have shape {shape}, expected {(len(atoms), 3)}")
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _decoded(value: Any) -> Any:
    """A value with arrays made of ``{"__ndarray__": [shape, type, numbers]}``, as ASE writes them.

    Nothing else that ASE's form of JSON may name is made: it stays the dict that it is.
    """
    if isinstance(value, dict) and "__ndarray__" in value:
        shape, kind, numbers = value["__ndarray__"]
        if np.dtype(kind).kind not in "biuf":
            raise ValueError(f"an array of {kind}; expected numbers")
        return np.array(numbers, dtype=kind).reshape(shape)
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value


class LmdbFile:
    """A file that is opened when something of it is asked for. Goes to other processes by its path.

    Attributes:
        path: the file, resolved.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        self.stamp = _stamp(self.path)

    def get(self, key: bytes) -> bytes | None:
        """What is stored by a key, or None.

        Raises:
            ConfigError: lmdb is not installed.
            StructureError: the file is damaged, truncated, of another kind, or was replaced meanwhile.
        """
        lmdb = import_lmdb(self.path)
        try:
            with self._environment().begin() as transaction:
                return transaction.get(key)
        except lmdb.Error as error:
            raise StructureError(
                f"{self.path}: record {key!r} cannot be read ({error}); the file is damaged"
            ) from error

    def entries(self) -> int:
        """How many keys the file holds; raises as ``get``."""
        return int(self._environment().stat()["entries"])

    def _environment(self):
        stamp, environment = _environments.get(str(self.path), (None, None))
        if stamp != self.stamp:
            if environment is not None:
                environment.close()
            if _stamp(self.path) != self.stamp:
                raise StructureError(f"{self.path}: was replaced while in use; start again")
            environment = _environment(self.path)
            _environments[str(self.path)] = (self.stamp, environment)
        return environment


def import_lmdb(path: Path):
    """The package lmdb, or a ConfigError that says how to install it."""
    try:
        import lmdb
    except ImportError as error:
        raise ConfigError(f"{path}: LMDB files need the lmdb package; install nfflr[lmdb]") from error
    return lmdb


def _stamp(path: Path) -> tuple:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _environment(path: Path):
    lmdb = import_lmdb(path)
    try:
        # Nothing is locked, so that any number of processes, forked ones too, can read at once.
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise StructureError(
            f"{path}: record 0 cannot be read: not an LMDB file ({error}); write it again"
        ) from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if path.stat().st_size < needed:  # reading beyond the end of a mapped file kills the process
        environment.close()
        raise StructureError(
            f"{path}: has {path.stat().st_size} of {needed} bytes, its last records are missing; "
            "the file is truncated, copy it again"
        )
    return environment
