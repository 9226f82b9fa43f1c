"""ASE databases in LMDB, as fairchem writes them."""

import json
import pickle
import zlib

import lmdb
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io.jsonio import encode
from builders import copper

from nfflr.data import sources
from nfflr.data.records import read_records
from nfflr.errors import StructureError
from nfflr.structures.formats import aselmdb
from nfflr.structures.readers import read_structures


def row(atoms, arrays) -> dict:
    found = {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        **{name: atoms.calc.results[name] for name in ("energy", "forces", "stress")},
        "calculator": "unknown",
        "ctime": 1.0,
        "data": {"sid": "a1"},
        "constraints": [{"name": "FixAtoms", "kwargs": {"indices": [1]}}],
    }
    if arrays:
        return json.loads(encode(found))  # ASE's own form
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()}


def write(path, structures, deleted=(), arrays=False, **content):
    environment = lmdb.open(str(path), subdir=False, map_size=2**24, lock=False)
    rows = {str(k + 1): row(atoms, arrays) for k, atoms in enumerate(structures)}
    rows = {k: v for k, v in rows.items() if int(k) not in deleted}
    rows |= {"nextid": len(structures) + 1, "deleted_ids": list(deleted), **content}
    with environment.begin(write=True) as transaction:
        for key, value in rows.items():
            packed = value if isinstance(value, bytes) else zlib.compress(json.dumps(value).encode())
            transaction.put(key.encode(), packed)
    environment.close()
    return path


def assert_labels(records, structures):
    assert len(records) == len(structures)
    for record, atoms in zip(records, structures, strict=True):
        assert record.atoms.positions == pytest.approx(atoms.positions, abs=0)
        assert record.labels["total_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        assert record.labels["forces"] == pytest.approx(atoms.get_forces(), abs=1e-12)
        assert record.labels["stress"] == pytest.approx(atoms.get_stress(voigt=False), abs=1e-12)


@pytest.mark.parametrize("arrays", [False, True], ids=["lists", "ase"])
def test_rows_are_read_lazily_without_the_deleted(tmp_path, arrays):
    structures = copper(5)
    path = write(tmp_path / "s.aselmdb", structures, deleted=(2, 5), arrays=arrays)
    records = read_records(path)
    assert not isinstance(records, list)
    assert_labels(records, [structures[k] for k in (0, 2, 3)])
    assert pickle.loads(pickle.dumps(records[1])).labels.keys() == records[1].labels.keys()
    (constraint,) = read_structures(path)[0].constraints
    assert isinstance(constraint, FixAtoms) and constraint.index.tolist() == [1]
    assert read_structures(path)[0].info["sid"] == "a1"


def test_a_folder_of_files_is_one_source(tmp_path):
    structures = copper(5)
    write(tmp_path / "data.0000.aselmdb", structures[:2])
    write(tmp_path / "data.0001.aselmdb", structures[2:])
    records = read_records(tmp_path)
    assert_labels(records, structures)
    assert records[2].id == "data.0001.aselmdb[0]"


def test_damage_is_refused_by_its_row(tmp_path, monkeypatch):
    frames = copper(2)
    path = write(tmp_path / "a.aselmdb", frames, **{"2": b"no zlib"})
    with pytest.raises(StructureError, match=r"a\.aselmdb: row 2 is no compressed JSON"):
        read_records(path)[1]
    path = write(tmp_path / "b.aselmdb", frames, **{"2": {"numbers": [29]}})
    with pytest.raises(StructureError, match=r"b\.aselmdb: row 2 holds no structure"):
        read_records(path)[1]
    path = write(tmp_path / "c.aselmdb", frames, nextid=4)
    with pytest.raises(StructureError, match=r"c\.aselmdb: row 3 is missing"):
        read_records(path)[2]
    monkeypatch.setattr(aselmdb, "LARGEST", 2**20)
    bomb = zlib.compress(b" " * (2**20 + 1))
    path = write(tmp_path / "d.aselmdb", frames, **{"1": bomb})
    with pytest.raises(StructureError, match="larger than 1 MiB"):
        read_records(path)[0]


def test_no_class_that_a_row_names_is_made(tmp_path):
    (atoms,) = copper(1)
    content = row(atoms, False) | {"data": {"x": {"__ase_objtype__": "cell", "array": [1]}, "y": 1.0}}
    path = write(tmp_path / "s.aselmdb", [atoms], **{"1": content})
    entry = sources.find(path).read(path)[0]
    assert entry.values["y"] == 1.0 and entry.values["x"] == {"__ase_objtype__": "cell", "array": [1]}
