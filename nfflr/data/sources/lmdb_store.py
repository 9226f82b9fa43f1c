"""LMDB as this project writes it, for sets larger than memory: a record is read when it is asked for.

Values are sealed bytes (safetensors, JSON, a digest; see ``nfflr.storage.sealed``), never pickles. Needs the
extra ``nfflr[lmdb]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

import ase
import numpy as np
import torch

from ...errors import ConfigError, ResourceError, StructureError
from ...storage.files import replacing
from ...storage.sealed import Damaged, Foreign, seal, unseal
from ...structures.checks import check_structure
from ...structures.formats.aselmdb import LmdbFile, import_lmdb
from . import Entry, LazyEntries, Selection, ase_files, selected

KEYS = {"total_energy": ("total_energy",), "forces": ("forces",), "stress": ("stress",)}
ENERGY_UNITS = "eV"
STRESS = ("eV/Å^3", 1, "3x3")

KIND, INDEX_KIND, INDEX = "nfflr-record", "nfflr-records", b"nfflr"
CHUNK = 200  # records per transaction, which are held
ATOMS = ("numbers", "positions", "cell", "pbc")


def opens(source: object) -> bool:
    return isinstance(source, str | Path) and Path(source).suffix == ".lmdb" and Path(source).exists()


def read(source: str | Path, selection: Selection = None) -> LmdbEntries:
    return LmdbEntries(Path(source), selection)


class LmdbEntries(LazyEntries):
    """The records of a file, read when they are asked for. It goes to other processes by its path."""

    def __init__(self, path: Path, selection: Selection = None):
        self.file, self.selection = LmdbFile(path), selection
        self.path = self.file.path
        index = _unsealed(self.file.get(INDEX), INDEX_KIND, f"{path}: index")[1]
        size = index.get("count")
        if type(size) is not int:  # True is an int too
            raise StructureError(f"{path}: index lacks the number of records; write it again")
        if self.file.entries() != size + 1:
            raise StructureError(f"{path}: does not hold the {size} records it promises; write it again")
        self.size: int = size

    def __len__(self) -> int:
        return self.size

    def entry(self, k: int) -> Entry:
        where = f"{self.path}: record {k}"
        tensors, head = _unsealed(self.file.get(_key(k)), KIND, where)
        try:
            arrays = {name: value.numpy() for name, value in tensors.items()}
            values = {**head["values"], **{n[1:]: v for n, v in arrays.items() if n.startswith("=")}}
            with np.errstate(invalid="ignore"):  # NaN, which the check below refuses
                atoms = ase.Atoms(**{name: arrays[name] for name in ATOMS})
            ident, group = head["id"], str(head["group"])
            check_structure(atoms, where)
        except StructureError:
            raise
        except (KeyError, TypeError, ValueError) as error:  # whole, but not of our making
            raise StructureError(f"{where} holds no structure ({error}); write the file again") from error
        return Entry(f"{self.path.name}[{ident}]", group, atoms, selected(values, self.selection))


def _unsealed(content: bytes | None, kind: str, where: str) -> tuple[dict, dict]:
    if content is None:
        raise StructureError(f"{where} is missing; expected a file made by nfflr's write_lmdb")
    try:
        return unseal(content, kind)
    except Foreign as error:
        raise StructureError(
            f"{where} is of another kind; expected a file made by nfflr's write_lmdb"
        ) from error
    except Damaged as error:
        raise StructureError(f"{where}: {error}") from error


def write_lmdb(path: str | Path, records: Iterable) -> int:
    """Write records to a file that is whole or absent; return how many.

    Args:
        path: the file; its name ends in .lmdb.
        records: any iterable, read once and never held: ``AtomsDataset.records``, or ``ase.Atoms`` with
            results in ASE's units (``ase.io.iread(...)``), of which ``info`` is kept too.

    Raises:
        ConfigError: the name does not end in .lmdb, or lmdb is not installed.
        StructureError: a structure cannot be used, or a value cannot be stored; names it.
        ResourceError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".lmdb":
        raise ConfigError(f"{path}: expected a file name that ends in .lmdb")
    lmdb = import_lmdb(path)
    try:
        with replacing(path) as temporary:
            environment = lmdb.open(str(temporary), subdir=False, lock=False, map_size=2**28, meminit=False)
            with closing(environment):
                count, items = 0, (_sealed_record(record, k) for k, record in enumerate(records))
                while chunk := list(islice(items, CHUNK)):
                    _put(environment, chunk)
                    count += len(chunk)
                if not count:
                    raise StructureError(f"{path}: no records to write; expected at least one")
                _put(environment, [(INDEX, seal({}, {"count": count}, INDEX_KIND))])
                environment.sync(True)
    except ResourceError:
        raise
    except (lmdb.Error, OSError) as error:
        raise ResourceError(f"{path}: cannot be written ({error}); check the folder and the disk") from error
    return count


def _put(environment, items: list[tuple[bytes, bytes]]) -> None:
    """Store items in one transaction, with more room if they do not fit."""
    import lmdb

    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, content in items:
                    transaction.put(key, content)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _sealed_record(record, k: int) -> tuple[bytes, bytes]:
    if isinstance(record, ase.Atoms):
        record = _from_ase(record, k)
    values = record.values if isinstance(record, Entry) else record.labels
    arrays, plain = {}, {}
    for name, value in values.items():
        array = np.asarray(value)
        if array.dtype.kind in "fiub":
            arrays[f"={name}"] = _tensor(array)
        elif array.dtype.kind == "U" and array.ndim == 0:
            plain[name] = str(value)
        elif isinstance(record, Entry):
            continue  # a value of a file's comment line need not be a label
        else:
            raise StructureError(f"{record.id}: {name} is {value!r}; expected numbers or text")
    atoms = record.atoms
    for name, value in zip(ATOMS, (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc), strict=True):
        arrays[name] = _tensor(np.asarray(value))
    head = {"id": _inner(record.id), "group": record.group, "values": plain}
    return _key(k), seal(arrays, head, KIND)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A copy in C order and the machine's byte order, which is all that torch and safetensors take."""
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:  # no tensor has longdouble
        native = native.astype(np.float64)
    return torch.from_numpy(native)


def _from_ase(atoms: ase.Atoms, k: int) -> Entry:
    """An entry whose labels have this format's names."""
    (entry,) = ase_files.read([atoms])
    ident = str(atoms.info.get("config_id", k))
    values = {n: v for n, v in entry.values.items() if n not in ("config_id", "group")}
    if "energy" in values:
        values["total_energy"] = values.pop("energy")
    return Entry(ident, entry.group, entry.atoms, values)


def _inner(ident: str) -> str:
    """``k`` of ``file.xyz[k]``."""
    return ident.partition("[")[2][:-1] if ident.endswith("]") else ident


def _key(k: int) -> bytes:
    return k.to_bytes(8, "big")
