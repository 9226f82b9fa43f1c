"""Relaxation: ends where an independent search says, keeps what it is told to keep, survives bad forces."""

import io
import json
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian
from ase.spacegroup.symmetrize import check_symmetry
from ase.units import GPa
from pydantic import ValidationError
from scipy.optimize import minimize_scalar

from nfflr.calculator import NFFLrCalculator
from nfflr.errors import NumericsError, StructureError
from nfflr.models.base import Potential, PotentialConfig
from nfflr.storage.archives import FolderArchive
from nfflr.workflows.relaxation import OPTIMIZERS, RelaxSettings, cell_filter, plot, relax

SHAPE = np.array([0.5**0.5, 0.5**0.5, 1.0])  # of the two-atom fcc cell, in lattice constants


class Morse(Potential):
    """Pairs of depth 1 eV with a minimum near 2.5 Å: a potential whose ground states are known."""

    def energies(self, inputs):
        r = inputs.vectors.square().sum(1).sqrt()
        fade = (1 - (r / self.cutoff).clamp(max=1) ** 2) ** 3
        pair = ((1 - torch.exp(-1.5 * (r - 2.5))) ** 2 - 1) * fade
        return r.new_zeros(inputs.n_atoms).index_add(0, inputs.dst, pair / 2)


def morse() -> NFFLrCalculator:
    return NFFLrCalculator(Morse(PotentialConfig(elements=("Cu",), cutoff=6.0)))


class Springs(Calculator):
    """Every atom on a spring to the origin, until after ``good`` evaluations something else happens."""

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, good, then):
        super().__init__()
        self.good, self.then, self.count = good, then, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions
        self.count += 1
        energy, forces = 0.5 * (x**2).sum(), -x
        if self.count > self.good:
            if isinstance(self.then, Exception):
                raise self.then
            energy, forces = self.then, np.full_like(x, self.then)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def best_lattice_constant(element, calculator, guess) -> float:
    """Minimum of E(a) of the one-atom fcc cell, by a bracketing search that knows no derivative."""

    def energy(a):
        atoms = bulk(element, a=a)
        atoms.calc = calculator
        return atoms.get_potential_energy()

    return minimize_scalar(energy, (0.97 * guess, 1.03 * guess), tol=1e-9).x


def pressure_from_energies(atoms, calculator) -> float:
    """−dE/dV in GPa by central differences."""
    energies, volumes = [], []
    for factor in (0.9995, 1.0005):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * factor, scale_atoms=True)
        scaled.calc = calculator
        energies.append(scaled.get_potential_energy())
        volumes.append(scaled.get_volume())
    return -np.diff(energies)[0] / np.diff(volumes)[0] / GPa


def group(atoms) -> int:
    return check_symmetry(atoms, symprec=1e-3).number  # spglib's


def strained(element, a) -> ase.Atoms:
    """fcc, two atoms in a cell of a/√2, a/√2, a, which is then sheared and stretched; atoms displaced."""
    atoms = bulk(element, a=a, orthorhombic=True)
    strain = np.eye(3) + [[0.02, 0.01, 0], [0, -0.015, 0.005], [0, 0, 0.01]]
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += 0.05 * np.random.default_rng(0).normal(size=(2, 3))
    return atoms


# Where it ends


@pytest.mark.parametrize(
    "optimizer, element, guess", [("bfgs", "Cu", 3.6), ("lbfgs", "Cu", 3.6), ("fire", "Al", 4.0)]
)
def test_cell_and_atoms_reach_the_minimum_of_an_independent_scan(optimizer, element, guess):
    expected = best_lattice_constant(element, EMT(), guess)
    settings = RelaxSettings(cell=True, fmax=1e-4, optimizer=optimizer)
    result = relax(strained(element, guess), EMT(), settings)
    assert result.converged and result.message.startswith("converged after")
    assert result.relaxed.cell.lengths() == pytest.approx(expected * SHAPE, rel=1e-4)
    assert result.relaxed.cell.angles() == pytest.approx([90] * 3, abs=0.02)
    assert group(result.relaxed) == 225
    assert abs(result.pressure) < 0.01 and result.volume == pytest.approx(expected**3 / 2, rel=3e-4)


def test_an_nfflr_model_reaches_the_minimum_of_an_independent_scan():
    expected = best_lattice_constant("Cu", morse(), 3.5)
    result = relax(strained("Cu", 3.6), morse(), RelaxSettings(cell=True, fmax=1e-4, optimizer="bfgs"))
    assert result.converged and result.relaxed.cell.lengths() == pytest.approx(expected * SHAPE, rel=1e-4)


def test_atoms_move_and_the_cell_stays_unless_asked():
    atoms = strained("Cu", 3.6)
    result = relax(atoms, EMT(), RelaxSettings(fmax=1e-4))
    assert result.converged and np.array_equal(result.cell, atoms.cell.array)
    result.relaxed.calc = EMT()
    forces = np.linalg.norm(result.relaxed.get_forces(), axis=1)
    assert forces.max() < 1e-4 and result.fmax == pytest.approx(forces.max(), abs=1e-8)


@pytest.mark.parametrize("pressure", [10.0, -5.0])
def test_the_target_pressure_is_that_of_the_energies(pressure):
    settings = RelaxSettings(cell=True, pressure=pressure, fmax=1e-4, optimizer="bfgs")
    result = relax(strained("Cu", 3.6), EMT(), settings)
    assert result.converged and result.pressure == pytest.approx(pressure, abs=0.01)
    assert pressure_from_energies(result.relaxed, EMT()) == pytest.approx(pressure, abs=0.02)


def test_pressure_of_a_fixed_cell_has_the_sign_of_compression():
    result = relax(bulk("Cu", a=3.5), EMT())
    assert result.pressure > 5
    assert result.pressure == pytest.approx(pressure_from_energies(bulk("Cu", a=3.5), EMT()), rel=1e-3)


def test_an_isolated_molecule_relaxes_and_has_no_pressure():
    atoms = molecule("N2")
    result = relax(atoms, EMT(), RelaxSettings(fmax=1e-3))
    assert result.converged and result.pressure is None and result.volume is None

    def energy(d):
        pair = ase.Atoms("N2", positions=[[0, 0, 0], [d, 0, 0]])
        pair.calc = EMT()
        return pair.get_potential_energy()

    expected = minimize_scalar(energy, (0.9, 1.2), tol=1e-9).x
    assert result.relaxed.get_distance(0, 1) == pytest.approx(expected, abs=1e-4)


def test_a_molecule_in_a_box_that_is_not_periodic_has_no_pressure_either():
    atoms = molecule("N2")
    atoms.center(vacuum=4)
    result = relax(atoms, EMT())
    assert result.converged and result.pressure is None


def test_one_atom_alone_is_converged_at_once_and_can_be_plotted():
    result = relax(ase.Atoms("Cu"), morse())
    assert result.converged and result.steps == 0 and result.fmax == 0 and result.energy == 0
    plot(result).savefig(io.BytesIO())


# What is kept


def test_fixed_atoms_stay_and_their_forces_do_not_count():
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6)
    atoms.rattle(0.1, seed=0)
    bottom = [a.index for a in atoms if a.tag == 3]
    atoms.set_constraint(FixAtoms(bottom))
    result = relax(atoms, EMT(), RelaxSettings(fmax=1e-3))
    assert result.converged
    assert np.array_equal(result.relaxed.positions[bottom], atoms.positions[bottom])
    assert np.abs(result.relaxed.positions - atoms.positions).max() > 0.02
    assert [type(c) for c in result.relaxed.constraints] == [FixAtoms]
    free = result.relaxed.copy()
    free.set_constraint()
    free.calc = EMT()
    assert np.linalg.norm(free.get_forces(), axis=1)[bottom].max() > 0.01  # raw, they are not small


def test_symmetry_keeps_the_space_group_that_free_relaxation_leaves():
    # bcc copper lies on the Bain path: the least strain sends it to fcc, unless symmetry forbids.
    atoms = bulk("Cu", "bcc", a=2.85, cubic=True)
    assert group(atoms) == 229
    stretched = atoms.copy()
    stretched.set_cell(atoms.cell.array @ np.diag([1, 1, 1.001]), scale_atoms=True)
    settings = {"cell": True, "fmax": 1e-4, "optimizer": "bfgs"}
    free = relax(stretched, EMT(), RelaxSettings(**settings))
    kept = relax(stretched, EMT(), RelaxSettings(**settings, symmetry=True))
    assert free.converged and kept.converged
    assert group(free.relaxed) == 225 and group(kept.relaxed) == 229
    assert free.energy < kept.energy - 0.01


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize("symmetry", [False, True])
def test_the_input_is_left_as_it_was(cell, symmetry):
    atoms = strained("Cu", 3.6)
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc, atoms.info["note"] = EMT(), "mine"
    calculator, kept = atoms.calc, atoms.copy()
    relax(atoms, EMT(), RelaxSettings(cell=cell, symmetry=symmetry, steps=3))
    assert atoms == kept and atoms.info == kept.info and atoms.calc is calculator
    assert [type(c) for c in atoms.constraints] == [FixAtoms]


def test_the_trajectory_holds_every_step_with_its_own_results():
    atoms = strained("Cu", 3.6)
    seen = []
    result = relax(
        atoms, EMT(), RelaxSettings(cell=True, optimizer="bfgs"), lambda *step: seen.append(step[:3])
    )
    assert len(result.trajectory) == result.steps + 1 == len(result.energy_trace) == len(result.fmax_trace)
    assert result.trajectory[0].positions == pytest.approx(atoms.positions, abs=0)
    for k in (0, result.steps // 2, -1):
        frame, check = result.trajectory[k], result.trajectory[k].copy()
        check.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(check.get_potential_energy(), abs=1e-9)
        assert frame.get_forces() == pytest.approx(check.get_forces(), abs=1e-9)
        assert frame.get_stress() == pytest.approx(check.get_stress(), abs=1e-9)
    assert [step for step, _, _ in seen] == list(range(result.steps + 1))
    assert [numbers["fmax (eV/Å)"] for _, _, numbers in seen] == result.fmax_trace.tolist()
    assert result.energy_change == pytest.approx(result.energy_trace[-1] - result.energy_trace[0], abs=1e-12)
    assert result.energy_change < 0 and result.positions == pytest.approx(result.relaxed.positions, abs=0)


# Supercells, and cells of which a part moves


def slab(vacuum=8.0, strain=0.02):
    atoms = fcc111("Cu", (1, 2, 3), a=3.6 * (1 + strain), vacuum=vacuum, orthogonal=True)
    atoms.set_cell(atoms.cell.array @ [[1, 0.02, 0], [0, 1.01, 0], [0, 0, 1]], scale_atoms=True)
    atoms.rattle(0.03, seed=1)
    return atoms


IN_PLANE = RelaxSettings(cell=True, cell_axes="ab", fmax=2e-4, optimizer="bfgs")


@pytest.fixture(scope="module")
def in_plane():
    return relax(slab(), EMT(), IN_PLANE)


def test_a_slab_relaxes_in_its_plane_to_the_minimum_of_a_scan(in_plane):
    """The scan changes one lattice constant and relaxes the atoms: it knows no stress."""

    def energy(a):
        atoms = fcc111("Cu", (1, 2, 3), a=a, vacuum=8.0, orthogonal=True)
        return relax(atoms, EMT(), RelaxSettings(fmax=1e-4, optimizer="bfgs")).energy

    a = minimize_scalar(energy, (3.5, 3.6), tol=1e-4).x
    assert in_plane.converged and in_plane.energy == pytest.approx(energy(a), abs=1e-5)
    assert in_plane.relaxed.cell.lengths()[:2] == pytest.approx(a * np.array([0.5, 1.5]) ** 0.5, rel=1e-3)
    assert in_plane.relaxed.cell.angles() == pytest.approx([90] * 3, abs=0.05)
    assert a < 3.585  # the tension of the surfaces: not the constant of the crystal, 3.590
    np.testing.assert_allclose(in_plane.cell[2], slab().cell[2], atol=1e-9)
    np.testing.assert_allclose(in_plane.cell[:2, 2], 0, atol=1e-9)


def without_vector(atoms):
    atoms.cell[2] = 0


def turned(atoms):
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)


def tilted(atoms):
    atoms.cell[2] += 0.4 * atoms.cell[0]


CHANGES = [lambda atoms: atoms.set_pbc(True), without_vector, turned, tilted]


@pytest.mark.parametrize("change", CHANGES, ids=["vacuum", "no vector", "turned", "tilted"])
def test_the_plane_relaxes_alike_however_the_third_axis_is_given(change, in_plane):
    atoms = slab()
    change(atoms)
    result = relax(atoms, EMT(), IN_PLANE)
    assert result.converged and result.energy == pytest.approx(in_plane.energy, abs=1e-5)
    assert result.relaxed.cell.lengths()[:2] == pytest.approx(in_plane.relaxed.cell.lengths()[:2], rel=1e-3)
    normal = np.cross(*atoms.cell[:2])
    normal /= np.linalg.norm(normal)
    assert result.cell[2] @ normal == pytest.approx(atoms.cell[2] @ normal, abs=1e-8)  # its height stays
    assert (result.pressure is None) == (not atoms.cell[2].any()) == (result.volume is None)
    if not atoms.cell[2].any():
        assert all(not frame.cell[2].any() for frame in result.trajectory)
        assert np.abs(result.relaxed.get_forces()).max() < 1e-3  # its results are still there


@pytest.mark.parametrize("axes", ["ab", "ac", "c", "abc"])
def test_forces_on_the_strain_are_derivatives_of_the_enthalpy(axes):
    atoms = strained("Cu", 3.6)
    atoms.rotate(25, (1, 1, 3), rotate_cell=True)
    atoms.calc = EMT()
    moving = cell_filter(atoms, RelaxSettings(cell=True, cell_axes=axes, pressure=5.0))
    vectors = atoms.cell.array[["abc".index(axis) for axis in axes]]
    projector = vectors.T @ np.linalg.solve(vectors @ vectors.T, vectors)
    strain = projector @ np.array([[2, 1, 0], [0, -3, 2], [1, 0, 1]]) @ projector
    start = moving.get_positions()
    start[-3:] += 0.02 * strain  # away from the cell of the start
    moving.set_positions(start)
    forces = moving.get_forces()
    np.testing.assert_allclose(forces[-3:], projector @ forces[-3:] @ projector, atol=1e-12)
    energies = []
    for step in (-1e-4, 1e-4):
        shifted = start.copy()
        shifted[-3:] += step * strain
        moving.set_positions(shifted)
        energies.append(moving.get_potential_energy())
    assert -np.diff(energies)[0] / 2e-4 == pytest.approx((forces[-3:] * strain).sum(), rel=1e-5)


def test_one_axis_under_pressure_has_its_stress_and_the_others_keep_their_lengths():
    atoms = strained("Cu", 3.6)
    settings = RelaxSettings(cell=True, cell_axes="c", pressure=4.0, fmax=1e-4, optimizer="bfgs")
    result = relax(atoms, EMT(), settings)
    along = atoms.cell[2] / np.linalg.norm(atoms.cell[2])
    assert result.converged
    assert along @ result.relaxed.get_stress(voigt=False) @ along / GPa == pytest.approx(-4.0, abs=0.01)
    across = np.eye(3) - np.outer(along, along)
    np.testing.assert_allclose(result.cell @ across, atoms.cell.array @ across, atol=1e-8)
    assert result.enthalpy == pytest.approx(result.energy + 4.0 * GPa * result.volume)


@pytest.mark.parametrize(
    ("axes", "pbc", "words"),
    [
        ("abc", (1, 1, 0), "--cell-axes ab"),
        ("bc", (1, 1, 0), "axis c is not periodic.*--cell-axes ab"),
        ("ab", (0, 0, 0), "axis a is not periodic.*--no-cell"),
    ],
)
def test_axes_that_are_not_periodic_are_refused_with_what_to_write(axes, pbc, words):
    atoms = slab()
    atoms.pbc = pbc
    with pytest.raises(StructureError, match=words) as caught:
        relax(atoms, EMT(), RelaxSettings(cell=True, cell_axes=axes))
    assert caught.value.exit_code == 3


def test_a_pressure_on_a_plane_is_refused():
    with pytest.raises(StructureError, match="--pressure 0"):
        relax(slab(), EMT(), RelaxSettings(cell=True, cell_axes="ab", pressure=1.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cell_axes": "ab"},
        {"cell_axes": "ba", "cell": True},
        {"cell_axes": "ab", "cell": True, "symmetry": True},
        {"supercell": (0, 1, 1)},
        {"supercell": (2, 2)},
    ],
    ids=str,
)
def test_axes_and_supercells_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValidationError):
        RelaxSettings(**wrong)


def test_a_supercell_relaxes_as_one_and_its_copies_are_fixed_as_the_atoms_are():
    atoms = bulk("Cu", a=3.6, cubic=True)
    atoms.positions[1] += [0.1, 0.05, 0.08]
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1], (True, False, False))])
    settings = RelaxSettings(fmax=1e-3, optimizer="bfgs")
    one = relax(atoms, EMT(), settings)
    two = relax(atoms, EMT(), settings.model_copy(update={"supercell": (1, 1, 2)}))
    assert len(two.symbols) == 8 and two.energy == pytest.approx(2 * one.energy, abs=1e-4)
    np.testing.assert_allclose(two.relaxed.cell.lengths(), [3.6, 3.6, 7.2])
    start = atoms.repeat((1, 1, 2)).positions
    assert np.array_equal(two.positions[[0, 4]], start[[0, 4]])
    assert np.array_equal(two.positions[[1, 5], 0], start[[1, 5], 0])
    assert np.abs(two.positions[[1, 5], 1] - start[[1, 5], 1]).min() > 0.01
    assert len(two.relaxed.constraints) == 2


def test_a_relaxation_in_the_plane_continues_to_the_same_bits(tmp_path):
    atoms = slab()
    atoms.cell[2] = 0
    settings = RelaxSettings(cell=True, cell_axes="ab", supercell=(2, 1, 1), steps=8)
    whole = relax(atoms, EMT(), settings)
    archive = FolderArchive(tmp_path / "state")
    relax(atoms, EMT(), settings.model_copy(update={"steps": 4}), archive=archive)
    resumed = relax(atoms, EMT(), settings, archive=archive)
    archive.close()
    assert np.array_equal(resumed.positions, whole.positions) and np.array_equal(resumed.cell, whole.cell)


# What goes wrong


def test_not_converged_is_a_result_with_the_last_frame():
    result = relax(strained("Cu", 3.6), EMT(), RelaxSettings(fmax=1e-6, steps=4))
    assert not result.converged and result.steps == 4 and len(result.trajectory) == 5
    assert "after 4 steps" in result.message and result.fmax > 1e-6
    assert result.energy < result.energy_trace[0]


def test_no_steps_evaluates_the_start():
    atoms = strained("Cu", 3.6)
    result = relax(atoms, EMT(), RelaxSettings(steps=0))
    assert not result.converged and result.steps == 0
    assert np.array_equal(result.positions, atoms.positions)


def finite(result) -> bool:
    frames = [f.positions for f in result.trajectory] + [f.get_forces() for f in result.trajectory]
    return all(np.isfinite(a).all() for a in (*frames, result.energy_trace, result.fmax_trace))


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("then", [np.nan, np.inf, 1e8, NumericsError("structure: not finite")], ids=str)
def test_an_explosion_is_a_result_that_ends_with_the_last_sound_frame(then, optimizer):
    atoms = ase.Atoms("Cu2", positions=[[1.0, 0, 0], [0, 0.7, -0.9]])
    result = relax(atoms, Springs(3, then), RelaxSettings(fmax=1e-9, optimizer=optimizer))
    assert not result.converged and "stopped at step 3" in result.message
    assert len(result.trajectory) == 3 and finite(result)
    json.loads(result.model_dump_json(exclude={"relaxed", "trajectory"}))


@pytest.mark.parametrize("then", [np.nan, NumericsError("structure: not finite")], ids=str)
def test_forces_that_are_nan_from_the_start_are_an_error_since_there_is_no_sound_frame(then):
    with pytest.raises(NumericsError) as caught:
        relax(ase.Atoms("Cu2", positions=[[1.0, 0, 0], [0, 0.7, -0.9]]), Springs(0, then))
    assert caught.value.exit_code == 5


def test_a_cell_relaxation_needs_three_periodic_axes():
    slab = fcc111("Cu", (1, 1, 3), vacuum=6)
    for atoms in (slab, molecule("N2")):
        with pytest.raises(StructureError, match="three periodic axes") as caught:
            relax(atoms, EMT(), RelaxSettings(cell=True))
        assert caught.value.exit_code == 3
    assert relax(slab, EMT()).converged  # its atoms may relax


def test_symmetry_of_a_molecule_is_refused_in_words():
    with pytest.raises(StructureError, match="symmetry"):
        relax(molecule("N2"), EMT(), RelaxSettings(symmetry=True))


# Settings and output


@pytest.mark.parametrize(
    "wrong",
    [
        {"fmax": 0},
        {"fmax": -0.01},
        {"fmax": float("nan")},
        {"steps": -1},
        {"steps": 2.5},
        {"optimizer": "newton"},
        {"pressure": float("nan")},
        {"pressure": float("inf")},
        {"force": 0.1},
    ],
    ids=str,
)
def test_settings_refuse_what_is_unknown_or_impossible(wrong):
    with pytest.raises(ValidationError) as caught:
        RelaxSettings(**wrong)
    assert caught.value.errors()[0]["loc"] == tuple(wrong)


def test_settings_are_frozen_and_every_field_is_explained():
    with pytest.raises(ValidationError, match="frozen"):
        RelaxSettings().fmax = 0.1
    assert all(field.description for field in RelaxSettings.model_fields.values())


def test_the_result_is_json():
    result = relax(strained("Cu", 3.6), EMT(), RelaxSettings(cell=True, steps=2))
    record = json.loads(result.model_dump_json(exclude={"relaxed", "trajectory"}))
    assert record["converged"] is False and record["symbols"] == ["Cu"] * 2
    assert np.array(record["positions"]) == pytest.approx(result.positions, abs=0)
    assert record["energy_trace"] == result.energy_trace.tolist()
    assert record["pressure"] == result.pressure


def test_the_plot_labels_both_axes_and_shows_every_step():
    result = relax(strained("Cu", 3.6), EMT(), RelaxSettings(steps=5))
    figure = plot(result)
    upper, lower = figure.axes
    assert "eV" in upper.get_ylabel() and "eV/Å" in lower.get_ylabel() and "step" in lower.get_xlabel()
    assert lower.get_yscale() == "log"
    assert lower.lines[0].get_ydata() == pytest.approx(result.fmax_trace, abs=0)
    assert upper.lines[0].get_ydata() == pytest.approx(result.energy_trace - result.energy, abs=0)
    figure.savefig(io.BytesIO())


def test_a_structure_relaxed_with_its_symmetry_can_be_repeated():
    # The constraint that keeps a symmetry belongs to the cell it was made for; the caller's own stay.
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    found = relax(atoms, EMT(), RelaxSettings(symmetry=True, cell=True, steps=3))
    assert [type(one) for one in found.relaxed.constraints] == [FixAtoms]
    assert len(found.relaxed.repeat(2)) == 32


def test_the_cell_of_a_defect_relaxes_without_a_warning():
    """scipy's logarithm of the deformation told of relative errors of 7e-13 on every step."""
    atoms = ase.io.read(Path(__file__).parents[2] / "tutorials/structures/si-interstitial.cif")
    result = relax(atoms, NFFLrCalculator.load("mlearn-si-fast"), RelaxSettings(cell=True, fmax=0.05))
    assert result.converged and result.steps > 5
