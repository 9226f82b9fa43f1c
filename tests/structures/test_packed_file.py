"""Databases and trajectories that are compressed."""

import bz2
import gzip
import lzma

import ase.io
import pytest
from ase.db import connect
from builders import copper

from nfflr.data.records import read_records
from nfflr.errors import StructureError

PACKERS = {"gz": gzip, "bz2": bz2, "xz": lzma}


def plain_file(folder, ending, structures):
    path = folder / f"copper.{ending}"
    if ending == "traj":
        ase.io.write(path, structures)
        return path
    with connect(path) as database:
        for k, atoms in enumerate(structures):
            database.write(atoms, gap=0.5 * k)
    return path


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("ending", ["db", "json", "traj"])
def test_compressed_files_hold_what_plain_ones_do(tmp_path, ending, packer):
    structures = copper(3)
    plain = plain_file(tmp_path, ending, structures)
    packed = plain.with_name(f"{plain.name}.{packer}")
    packed.write_bytes(PACKERS[packer].compress(plain.read_bytes()))
    records = read_records(packed)
    assert len(records) == 3 and records[0].id == f"{packed.name}[0]"
    for record, atoms in zip(records, structures, strict=True):
        assert record.labels["total_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        assert record.labels["forces"] == pytest.approx(atoms.get_forces(), abs=1e-12)
        assert record.labels["stress"] == pytest.approx(atoms.get_stress(voigt=False), abs=1e-12)


def test_a_cut_archive_is_refused(tmp_path):
    plain = plain_file(tmp_path, "db", copper(1))
    packed = tmp_path / "copper.db.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes())[:-100])
    with pytest.raises(StructureError, match=r"copper\.db\.gz: cannot be unpacked"):
        read_records(packed)
