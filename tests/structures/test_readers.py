"""Files of structures: what can be read is read exactly, what cannot is refused with file and frame."""

import gzip
import io
import lzma
import os
import pickle
import re
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.db import connect
from builders import copper

from nfflr.errors import ConfigError, StructureError
from nfflr.structures.readers import REFUSED, file_and_frame, read_structure, read_structures

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
    with pytest.raises(
        StructureError, match=r"frame 0 cannot be read as castep-phonon \(.* no structure found in it\)"
    ):
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


def test_of_several_structures_the_last_is_taken_and_said_or_the_one_asked_for(tmp_path, frames, caplog):
    path = tmp_path / "copper.xyz"
    path.write_bytes(xyz(frames))
    read_structure(path)
    assert "copper.xyz: holds 3 structures; the last is used (copper.xyz@0 would be the first)" in caplog.text
    caplog.clear()
    for index, expected in ((0, 0), (2, 2), (-1, 2), (-3, 0)):
        assert_same([read_structure(f"{path}@{index}")], [frames[expected]], 1e-7)
    assert caplog.text == ""
    for index in (3, -4):
        with pytest.raises(ConfigError, match=r"no such frame; the file holds 3, from 0 to 2"):
            read_structure(f"{path}@{index}")
    with pytest.raises(ConfigError, match=r"none\.xyz: no such file"):
        read_structure(tmp_path / "none.xyz@1")
    assert file_and_frame(f"{path}@1") == (path, 1)
    other = tmp_path / "copper.xyz@1"
    other.write_bytes(xyz(frames[:1]))  # a file of that name counts more
    assert file_and_frame(other) == (other, None)


def test_atoms_closer_than_a_third_of_an_angstrom_are_refused_in_a_structure_but_not_in_data(tmp_path):
    path = tmp_path / "dimer.xyz"
    path.write_bytes(xyz([ase.Atoms("Si2", [[0, 0, 0], [0.2, 0, 0]]), bulk("Si")]))
    assert len(read_structures(path)) == 2
    read_structure(path)
    with pytest.raises(StructureError, match=r"frame 0: atoms 0 and 1 \(Si, Si\) are 0.2 Å apart"):
        read_structure(f"{path}@0")


# --- what a file may not do ------------------------------------------------------------------------------


@pytest.fixture
def program_castep(tmp_path, monkeypatch):
    """A program ``castep`` on the PATH that leaves a file when it runs."""
    folder, canary = tmp_path / "bin", tmp_path / "ran"
    folder.mkdir()
    program = folder / "castep"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return canary


CELL_FILE = """%block lattice_cart
5 0 0
0 5 0
0 0 5
%endblock lattice_cart
%block positions_frac
Si 0 0 0
%endblock positions_frac
"""


@pytest.mark.parametrize("name", ["x.cell", "x.cell.gz", "x.castep-cell"])
def test_no_file_starts_a_program(tmp_path, program_castep, name):
    content = CELL_FILE.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(StructureError, match="castep-cell is not read, its parser starts the CASTEP program"):
        read_structure(tmp_path / name)
    assert not program_castep.exists()


def test_no_suite_starts_a_program(tmp_path, program_castep):
    from nfflr.validation.reading import read_suite

    (tmp_path / "x.cell").write_text(CELL_FILE)
    (tmp_path / "suite.yaml").write_text("tasks: [{name: a, workflow: relax, structure: x.cell}]")
    with pytest.raises(StructureError, match="task a: .*castep-cell is not read"):
        read_suite(tmp_path)
    assert not program_castep.exists()


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_parsers_that_run_programs_read_other_files_or_never_end_are_refused(tmp_path, kind):
    path = tmp_path / f"x.{kind}"  # ASE takes an ending that is no other for the name of a format
    path.write_text("x\n")
    with pytest.raises(StructureError, match=f"{kind} is not read, "):
        read_structure(path)


@pytest.mark.parametrize("name", ["postgresql.db", "mysql.xyz", "mariadb.json", "postgres.cif"])
def test_no_name_of_a_file_stands_for_a_server(tmp_path, monkeypatch, frames, name):
    monkeypatch.chdir(tmp_path)
    if name.endswith((".db", ".json")):
        with connect(tmp_path / name) as database:
            database.write(frames[0])
    else:
        ase.io.write(tmp_path / name, frames[0], format="extxyz" if name.endswith("xyz") else "cif")
    assert len(read_structure(name)) == len(frames[0])


# --- what is said where reading fails --------------------------------------------------------------------


def test_no_file_of_which_no_byte_is_missing_is_called_truncated_or_damaged(tmp_path, frames):
    atoms = frames[0].copy()
    formats = {"x.xyz": "extxyz", "x.cif": "cif", "POSCAR": "vasp", "x.gen": "gen", "x.xsf": "xsf"}
    formats |= {
        "x.traj": "traj",
        "x.res": "res",
        "x.json": "json",
        "x.pdb": "proteindatabank",
    }
    rng = np.random.default_rng(5)
    refusals = 0
    for name, form in formats.items():
        path = tmp_path / name
        ase.io.write(path, atoms, format=form)
        content = path.read_bytes()
        for _ in range(12):
            broken = bytearray(content)
            place = int(rng.integers(len(broken)))
            letter = rng.choice([b"x", b"0", b" ", b"\n", b"'", b"-"], 1)[0]
            broken[place : place + 1] = letter * int(rng.integers(1, 4))
            path.write_bytes(bytes(broken))
            try:
                read_structures(path)
            except StructureError as error:
                refusals += 1
                message = str(error)
                assert message.startswith(f"{path}: ") and "\n" not in message
                assert not re.search("truncated|damaged|internal", message), (name, message)
                # A bare word of Python's says nothing alone.
                assert len(message.removeprefix(str(path)).split()) > 6, message
    assert refusals > 20


def test_what_stopped_the_reader_of_ase_stands_in_a_sentence(tmp_path):
    path = tmp_path / "x.gen"
    path.write_text("two C\nSi\n1 1 0 0 0\n")
    expected = r"frame 0 cannot be read as gen \(ASE's reader stopped at: .*'two'\); check the file"
    with pytest.raises(StructureError, match=expected):
        read_structures(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_an_archive_that_ends_early_is_called_truncated(tmp_path, frames, pack):
    path = tmp_path / ("x.cif" + {gzip.compress: ".gz", lzma.compress: ".xz"}[pack])
    ase.io.write(tmp_path / "x.cif", frames[0])
    path.write_bytes(pack((tmp_path / "x.cif").read_bytes())[:-20])
    with pytest.raises(StructureError, match="ends too early.*truncated"):
        read_structures(path)
