"""What happens before the first step of md."""

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixCom
from lennard_jones import LennardJones, argon

from nfflr.errors import StructureError
from nfflr.storage.archives import FolderArchive
from nfflr.workflows.dynamics.preparation import supercell_of
from nfflr.workflows.molecular_dynamics import MdSettings, md, plot


def heavy_argon():
    atoms = bulk("Ar", a=5.3, cubic=True)
    atoms.set_masses([40, 36, 38, 40])
    atoms.set_velocities(np.random.default_rng(0).normal(scale=0.001, size=(4, 3)))
    atoms.set_constraint([FixAtoms([1]), FixCartesian([2], (False, False, True)), FixCom()])
    return atoms


def test_a_supercell_repeats_masses_velocities_and_constraints():
    atoms = heavy_argon()
    cell = supercell_of(atoms, (2, 1, 3))
    assert len(cell) == 24 and cell.cell.lengths() == pytest.approx([10.6, 5.3, 15.9])
    assert np.array_equal(cell.get_masses(), np.tile(atoms.get_masses(), 6))
    assert cell.get_velocities() == pytest.approx(np.tile(atoms.get_velocities(), (6, 1)))
    kinds = {type(c): c for c in cell.constraints}
    assert sorted(kinds[FixAtoms].index) == [*range(1, 24, 4)]
    assert sorted(kinds[FixCartesian].index) == [*range(2, 24, 4)] and FixCom in kinds
    assert len(atoms.constraints) == 3 and len(atoms) == 4  # left as it was


def test_md_of_a_supercell_is_md_of_the_repeated_structure():
    settings = {"temperature": 30, "timestep": 5, "steps": 20, "interval": 5, "rdf_cutoff": 1}
    cell = md(bulk("Ar", a=5.3, cubic=True), LennardJones(), MdSettings(**settings, supercell=(2, 2, 2)))
    whole = md(bulk("Ar", a=5.3, cubic=True) * 2, LennardJones(), MdSettings(**settings))
    assert np.array_equal(cell.final.positions, whole.final.positions) and len(cell.symbols) == 32


@pytest.mark.parametrize(
    "atoms, supercell, reason",
    [
        (fcc111("Cu", (2, 2, 2), vacuum=5), (2, 2, 2), "axis c is not periodic"),
        (bulk("Ar", a=5.3, cubic=True), (2, 1, 1), "its constraints .FixBondLengths. cannot be repeated"),
    ],
    ids=["open axis", "bond"],
)
def test_what_cannot_be_repeated_is_refused(atoms, supercell, reason):
    if "bond" in reason.lower():
        atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(StructureError, match=reason):
        md(atoms, EMT(), MdSettings(supercell=supercell, steps=1))


def test_minimise_starts_from_rest_and_keeps_fixed_atoms_and_a_broken_run(tmp_path):
    atoms = argon()
    atoms.rattle(0.1, seed=3)
    atoms.set_constraint(FixAtoms([0]))
    settings = MdSettings(
        temperature=20, timestep=5, steps=60, interval=5, checkpoint=20, minimise=True, rdf_cutoff=1
    )
    whole = md(atoms, LennardJones(), settings)
    start = whole.trajectory[0]
    assert np.linalg.norm(start.get_forces(), axis=1).max() < 0.05
    assert np.array_equal(start.positions[0], atoms.positions[0])
    atoms.calc = LennardJones()
    assert start.get_potential_energy() < atoms.get_potential_energy() - 0.02
    archive = FolderArchive(tmp_path)
    md(atoms, LennardJones(), settings.model_copy(update={"steps": 30}), archive=archive)
    archive.close()
    archive = FolderArchive(tmp_path)
    longer = md(atoms, LennardJones(), settings, archive=archive)
    assert np.array_equal(longer.final.positions, whole.final.positions)
    archive.close()


@pytest.mark.parametrize(
    "atoms, expected",
    [
        (bulk("Cu"), "1 atom and is 2.1 Å thick"),
        (bulk("Cu", cubic=True) * (8, 2, 1), "is 3.6 Å thick"),
        (bulk("Cu", cubic=True) * 3, None),
    ],
    ids=["primitive", "flat", "large"],
)
def test_a_small_cell_gets_a_note_with_a_supercell_that_suffices(atoms, expected, caplog):
    settings = MdSettings(ensemble="nve", timestep=1, steps=1, rdf_cutoff=1)
    md(atoms, EMT(), settings)
    notes = [record.getMessage() for record in caplog.records if record.name == "nfflr"]
    if expected is None:
        assert notes == []
        return
    assert len(notes) == 1 and expected in notes[0]
    caplog.clear()
    counts = tuple(map(int, notes[0].split("--supercell ")[1].split()))
    md(atoms, EMT(), settings.model_copy(update={"supercell": counts}))
    assert not [record for record in caplog.records if record.name == "nfflr"]


def test_the_figure_shows_what_was_set():
    more = {"timestep": 5, "steps": 100, "interval": 5, "rdf_cutoff": 3}
    result = md(argon(), LennardJones(), MdSettings(temperature=30, temperature_end=60, **more))
    assert result.temperature_target == (30, 60) and result.pressure_target is None
    lines = [line.get_ydata() for line in plot(result).axes[0].lines]
    assert any(np.array_equal(y, [30, 60]) for y in lines)
    held = md(argon(), LennardJones(), MdSettings(ensemble="npt", temperature=30, pressure=0.2, **more))
    figure = plot(held)
    assert len(figure.axes) == 8 and held.pressure_target == (0.2, 0.2)
    assert any(np.array_equal(line.get_ydata(), [0.2, 0.2]) for line in figure.axes[6].lines)
    free = md(argon(), LennardJones(), MdSettings(ensemble="nve", temperature=30, **more))
    assert free.temperature_target is None and len(plot(free).axes) == 6
