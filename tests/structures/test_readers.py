"""Files of structures: what can be read is read exactly, what cannot is refused with file and frame."""

import gzip
import io
import lzma
import pickle
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.db import connect
from builders import copper

from nfflr.errors import ConfigError, StructureError
from nfflr.structures.readers import read_structure, read_structures

CIF = """data_test
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs 0 0 0 1.0
"""


@pytest.fixture(scope="module")
def frames():
    return copper(3)


def xyz(frames) -> bytes:
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue().encode()


def assert_same(read, written, tolerance):
    assert len(read) == len(written)
    for new, old in zip(read, written, strict=True):
        assert new.numbers.tolist() == old.numbers.tolist() and new.pbc.tolist() == old.pbc.tolist()
        assert new.positions == pytest.approx(old.positions, abs=tolerance)
        assert new.cell.array == pytest.approx(old.cell.array, abs=tolerance)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gz", "xz"])
def test_extended_xyz_plain_and_compressed(tmp_path, frames, pack):
    ending = {bytes: "", gzip.compress: ".gz", lzma.compress: ".xz"}[pack]
    path = tmp_path / f"copper.xyz{ending}"
    path.write_bytes(pack(xyz(frames)))
    read = read_structures(path)
    assert_same(read, frames, 1e-7)  # ASE writes eight decimals
    for new, old in zip(read, frames, strict=True):
        assert new.get_potential_energy() == pytest.approx(old.get_potential_energy(), abs=1e-7)
        assert new.get_forces() == pytest.approx(old.get_forces(), abs=1e-7)
        assert new.get_stress() == pytest.approx(old.get_stress(), abs=1e-12)


@pytest.mark.parametrize("name", ["copper.db", "copper.json", "copper.traj"])
def test_ase_databases_and_trajectories_are_read_with_their_labels(tmp_path, frames, name):
    path = tmp_path / name
    if name.endswith(".traj"):
        ase.io.write(path, frames)
    else:
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms)
    read = read_structures(path)
    assert_same(read, frames, 1e-12)
    assert read[2].get_potential_energy() == pytest.approx(frames[2].get_potential_energy(), abs=1e-12)
    assert read[2].get_forces() == pytest.approx(frames[2].get_forces(), abs=1e-12)


def test_cif_and_poscar_are_read(tmp_path, frames):
    atoms = frames[1].copy()
    atoms.positions += 0.5  # inside the cell, where the CIF writer puts atoms anyway
    for name in ("copper.cif", "POSCAR"):
        ase.io.write(tmp_path / name, atoms)
        assert_same([read_structure(tmp_path / name)], [atoms], 1e-6)


def test_read_structure_gives_the_last_of_several_as_ase_does(tmp_path, frames):
    path = tmp_path / "copper.xyz"
    path.write_bytes(xyz(frames))
    assert_same([read_structure(path)], frames[-1:], 1e-7)


@pytest.mark.parametrize("name", ["äöü 銅 x.xyz", "with space.xyz", "cu@300K.xyz", "cu@1.xyz", "[0].xyz"])
def test_unusual_file_names_are_files_not_patterns_or_frame_numbers(tmp_path, frames, name):
    path = tmp_path / name
    path.write_bytes(xyz(frames))
    assert_same(read_structures(path), frames, 1e-7)


def test_a_cut_anywhere_in_the_last_frame_names_that_frame(tmp_path, frames):
    whole, start = xyz(frames), len(xyz(frames[:2]))
    last = len(whole) - 1 - len(whole.split()[-1])  # where the last number begins
    path = tmp_path / "cut.xyz"
    silent = []
    for end in [*range(start + 1, last, 5), *range(last, len(whole) - 1)]:
        path.write_bytes(whole[:end])
        try:
            read_structures(path)
        except StructureError as error:
            assert str(error).startswith(f"{path}: frame 2 ") and "\n" not in str(error)
            assert error.exit_code == 3
        else:
            silent.append(end - len(whole))
    assert silent == []


def test_a_missing_final_newline_is_not_damage(tmp_path, frames):
    single = ase.Atoms("Cu", positions=[[0.25, 0.5, 0.125]], cell=[3.123456789012] * 3, pbc=True)
    plain = b"1\nenergy=-3.123456789012\nCu 0.25 0.5 0.125"
    path = tmp_path / "copper.xyz"
    for content, expected in ((xyz(frames)[:-1], frames), (xyz([single])[:-1], [single])):
        path.write_bytes(content)
        assert_same(read_structures(path), expected, 1e-7)
    path.write_bytes(plain)  # written by hand, with numbers of any length
    assert read_structure(path).positions.tolist() == [[0.25, 0.5, 0.125]]


def test_a_cut_in_the_middle_of_the_file_names_the_frame_it_is_in(tmp_path, frames):
    lines = xyz(frames).splitlines(keepends=True)
    del lines[4]  # an atom of frame 0
    path = tmp_path / "copper.xyz"
    path.write_bytes(b"".join(lines))
    with pytest.raises(StructureError, match=r"copper\.xyz: frame 0, line 6: .* 1 line\(s\) less"):
        read_structures(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_a_truncated_archive_is_refused(tmp_path, frames, pack):
    path = tmp_path / ("copper.xyz" + {gzip.compress: ".gz", lzma.compress: ".xz"}[pack])
    packed = pack(xyz(frames))
    for end in (len(packed) // 3, len(packed) - 1):
        path.write_bytes(packed[:end])
        with pytest.raises(StructureError, match="cannot be read"):
            read_structures(path)


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.xyz: no such file") as caught:
        read_structures(tmp_path / "none.xyz")
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="no such file"):
        read_structures(tmp_path)


@pytest.mark.parametrize("name", ["empty.xyz", "empty.cif", "empty.traj", "empty.xyz.gz", "empty.unknown"])
def test_an_empty_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(StructureError, match=name) as caught:
        read_structures(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_format_says_so(tmp_path):
    path = tmp_path / "notes.unknown"
    path.write_text("buy milk\n")
    with pytest.raises(StructureError, match="unknown file format"):
        read_structures(path)


def test_a_parser_that_finds_nothing_without_a_word_is_an_error(tmp_path):
    path = tmp_path / "data.phonon"
    path.write_text("buy milk\n")
    with pytest.raises(StructureError, match=r"frame 0 cannot be read \(no structure found in it\)"):
        read_structures(path)


def test_partial_occupancy_is_refused(tmp_path):
    path = tmp_path / "alloy.cif"
    path.write_text(CIF + "Cl1 Cl 0.5 0.5 0.5 0.7\nBr1 Br 0.5 0.5 0.5 0.3\n")
    with pytest.raises(StructureError, match=r"alloy\.cif: frame 0: sites are partially occupied"):
        read_structure(path)
    path.write_text(CIF + "Cl1 Cl 0.5 0.5 0.5 0.7\n")  # a vacancy
    with pytest.raises(StructureError, match="partially occupied"):
        read_structure(path)


def test_full_occupancy_is_fine(tmp_path):
    path = tmp_path / "ordered.cif"
    path.write_text(CIF + "Cl1 Cl 0.5 0.5 0.5 1.0\n")
    assert sorted(read_structure(path).symbols) == ["Cl", "Cs"]


def test_a_position_that_is_not_a_number_names_frame_and_atom(tmp_path, frames):
    broken = [atoms.copy() for atoms in frames]
    broken[1].positions[3, 2] = np.nan
    path = tmp_path / "copper.xyz"
    path.write_bytes(xyz(broken))
    with pytest.raises(StructureError, match=r"frame 1, line 12: atom 3 has a coordinate that is not finite"):
        read_structures(path)


def test_a_periodic_axis_without_length_names_frame_and_axis(tmp_path, frames):
    broken = frames[0].copy()
    broken.cell[1] = 0
    path = tmp_path / "copper.traj"
    ase.io.write(path, [frames[0], broken])
    with pytest.raises(StructureError, match=r"frame 1: axis b is periodic but its cell vector is zero"):
        read_structures(path)


class Hostile:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


@pytest.mark.parametrize("name", ["data.xyz", "data.db", "data.traj", "data.json", "data.cif", "data.pckl"])
def test_a_pickle_under_any_name_is_never_executed(tmp_path, name):
    canary = tmp_path / "executed"
    (tmp_path / name).write_bytes(pickle.dumps(Hostile(canary)))
    with pytest.raises(StructureError, match="cannot be read"):
        read_structures(tmp_path / name)
    assert not canary.exists()
