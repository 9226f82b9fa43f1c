"""Every setting of the space groups by its name alone gives the crystal that spglib's operations give."""

import gemmi
import numpy as np
import pytest
from ase.spacegroup import Spacegroup
from crystals import cif, drawn, kind_of, same_crystal

from nfflr.errors import StructureError
from nfflr.structures.readers import read_structure

SETTINGS = list(gemmi.spacegroup_table_itb())  # 530, in the order of spglib's Hall numbers


def read_named(tmp_path, cell, sites, *lines):
    path = tmp_path / "crystal.cif"
    path.write_text(cif([f"{x:.8f}" for x in cell.cellpar()], sites, lines))
    return read_structure(path)


@pytest.mark.parametrize("part", range(10))
def test_every_setting_by_its_name(tmp_path, part):
    for hall_number in range(1 + part, 531, 10):
        setting = SETTINGS[hall_number - 1]
        assert kind_of(hall_number).number == setting.number
        cell, sites, numbers, positions = drawn(hall_number)
        atoms = read_named(tmp_path, cell, sites, f"_space_group_name_H-M_alt '{setting.xhm()}'")
        assert same_crystal(atoms, numbers, positions), setting.xhm()


def test_hall_symbols(tmp_path):
    for hall_number in range(3, 531, 7):
        symbol = kind_of(hall_number).hall_symbol.replace("=", '"')
        cell, sites, numbers, positions = drawn(hall_number)
        line = f"_space_group_name_Hall\n;{symbol}\n;"
        assert same_crystal(read_named(tmp_path, cell, sites, line), numbers, positions), symbol


def test_rounded_special_positions_are_put_on_their_symmetry_elements(tmp_path):
    for hall_number in range(5, 531, 6):
        cell, sites, numbers, positions = drawn(hall_number, digits=3)
        name = SETTINGS[hall_number - 1].xhm()
        atoms = read_named(tmp_path, cell, sites, f"_symmetry_space_group_name_H-M '{name}'")
        assert same_crystal(atoms, numbers, positions, 2e-3), name


def test_atoms_have_the_order_of_ase_where_ase_has_the_setting(tmp_path):
    compared = 0
    for number in range(2, 231, 3):
        setting = next(entry for entry in SETTINGS if entry.number == number)
        cell, sites, _, _ = drawn(SETTINGS.index(setting) + 1)
        expected, kinds = Spacegroup(number).equivalent_sites(
            [[float(x) for x in site[2:]] for site in sites]
        )
        atoms = read_named(tmp_path, cell, sites, f"_space_group_name_H-M_alt '{setting.xhm()}'")
        offsets = np.linalg.solve(cell.array.T, atoms.positions.T).T - expected
        assert np.abs(offsets - np.rint(offsets)).max() < 1e-6, setting.xhm()
        assert [atoms.symbols[k] for k in range(len(atoms))] == [sites[kind][1] for kind in kinds]
        compared += 1
    assert compared == 77


SPELLINGS = {
    "P 1 21/n 1": ["P21/n", "P 21/n", "P2_1/n", "p 21/n", "P_1_21/n_1", "P2~1~/n", "P2₁/n"],
    "P b n m": ["Pbnm", "PBNM", "P b n m (62)"],
    "I 1 2/m 1": ["I2/m", "I 2/m"],
    "I 41/a m d:2": ["I41/amd:2", "I 41/a m d Z", "I41/amdZ", "I 41/a m d (origin choice 2)", "I41/amd :o2"],
    "F d -3 m:2": ["F d -3 m :2", "F d -3 m Z", "Fd-3m:2", "Fd3m:2", "F d 3 m Z", "Fd3̅m:2", "FD-3MZ"],
    "F d -3 m:1": ["F d -3 m S", "Fd-3m :1", "Fd-3mS"],
    "R -3 c:R": ["R -3 c RS", "R -3 c :R", "R-3cR", "R-3c r", "R -3 c (rhombohedral axes)"],
    "R -3 m:H": ["R -3 m :H", "R-3mH", "R -3 m HR", "H -3 m", "R -3 m"],
    "R -3 m:R": ["R -3 m", "R-3m", "R3̄m"],
    "P 63/m m c": ["P63/mmc", "P 6_3/m m c", "P6<sub>3</sub>/mmc"],
    "C m c a": ["Cmce", "C m c e"],
    "P a -3": ["Pa3", "P a 3"],
    "P n m a": ["Pnma:1", "Pnma #62", "P n m a (a,b,c)"],
    "B 1 1 2/m": ["B 2/m", "B2/m"],
    "P 1 1 21": ["P 21", "P21"],
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_that_programs_write(tmp_path, name):
    hall_number = [entry.xhm() for entry in SETTINGS].index(name) + 1
    cell, sites, numbers, positions = drawn(hall_number)
    number = SETTINGS[hall_number - 1].number
    for spelling in SPELLINGS[name]:
        for line in (
            f"_symmetry_space_group_name_H-M '{spelling}'",
            f"_space_group_name_H-M_alt '{spelling}'\n_space_group_IT_number {number}",
            f"_space_group.name_H-M_alt '{spelling}'\n_space_group.IT_number ?",
        ):
            atoms = read_named(tmp_path, cell, sites, line)
            assert same_crystal(atoms, numbers, positions), line


def test_a_hall_symbol_in_place_of_the_name(tmp_path):
    cell, sites, numbers, positions = drawn([entry.hall for entry in SETTINGS].index("-P 2yn") + 1)
    atoms = read_named(tmp_path, cell, sites, "_symmetry_space_group_name_H-M '-P 2yn'")
    assert same_crystal(atoms, numbers, positions)


@pytest.mark.parametrize(
    "lines, words",
    [
        (["_symmetry_space_group_name_H-M 'Q 1 2 3'"], "space group 'Q 1 2 3' is not known"),
        (["_symmetry_space_group_name_H-M 'P n m a'", "_space_group_IT_number 63"], "is not number 63"),
        (["_space_group_IT_number 231"], "expected 1 to 230"),
        (["_space_group_name_Hall '-P 2ac 2n'", "_space_group_IT_number 63"], "different space groups"),
        (["_symmetry_space_group_name_H-M 'F m -3 m'"], "does not have the symmetry"),
    ],
    ids=str,
)
def test_symmetries_that_are_unknown_or_exclude_each_other_are_refused(tmp_path, lines, words):
    path = tmp_path / "x.cif"
    path.write_text(cif((5, 6, 7, 90, 90, 90), [("C1", "C", 0.1, 0.2, 0.3)], lines))
    with pytest.raises(StructureError, match=words) as caught:
        read_structure(path)
    assert str(caught.value).startswith(f"{path}: frame 0: ")


def test_a_suffix_that_does_not_fit_the_cell_gives_way_to_the_cell(tmp_path, caplog):
    cell, sites, numbers, positions = drawn([entry.xhm() for entry in SETTINGS].index("R -3 m:R") + 1)
    atoms = read_named(tmp_path, cell, sites, "_symmetry_space_group_name_H-M 'R -3 m :H'")
    assert same_crystal(atoms, numbers, positions) and "'R -3 m:R'" in caplog.text


def test_two_origins_are_said_where_the_name_leaves_them_open(tmp_path, caplog):
    path = tmp_path / "x.cif"
    name = "_symmetry_space_group_name_H-M 'F d -3 m'"
    path.write_text(cif((5.43, 5.43, 5.43, 90, 90, 90), [("Si1", "Si", 0, 0, 0)], [name]))
    assert len(read_structure(path)) == 8
    assert "'F d -3 m:1' or 'F d -3 m:2'" in caplog.text
    caplog.clear()
    rows = [("Si1", "Si", 0.125, 0.125, 0.125, 8)]  # the multiplicity decides
    columns = "label type_symbol fract_x fract_y fract_z symmetry_multiplicity"
    path.write_text(cif((5.43, 5.43, 5.43, 90, 90, 90), rows, [name], columns))
    assert len(read_structure(path)) == 8
