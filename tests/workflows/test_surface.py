"""Surface energies: counted bonds, slabs built by hand, any cell of the crystal."""

import io
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100, fcc110, fcc111, graphene
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from ase.units import J, m
from potentials import CRYSTALS, SW_A0, SW_BOND, Counting, Volumetric, stillinger_weber
from pydantic import ValidationError

from nfflr.errors import StructureError
from nfflr.workflows.surfaces import SurfaceSettings, oriented, plot, surface

A = 3.59
CLAMPED = {"relax": False, "slabs": 3}


@pytest.mark.parametrize(
    ("miller", "termination", "bonds", "area"),
    [  # broken bonds on each side of the surface cell, and its area in a²
        ((1, 1, 1), 0, 1, 3**0.5 / 4),
        ((1, 1, 1), 1, 3, 3**0.5 / 4),
        ((1, 0, 0), 0, 2, 1 / 2),
        ((1, 1, 0), 0, 2, 2**0.5 / 2),
    ],
)
def test_stillinger_weber_silicon_counts_its_broken_bonds(miller, termination, bonds, area):
    settings = SurfaceSettings(miller=miller, termination=termination, **CLAMPED)
    result = surface(bulk("Si", a=SW_A0), stillinger_weber(), settings)
    assert result.area == pytest.approx(area * SW_A0**2)
    assert result.surface_energy_per_area == pytest.approx(bonds * SW_BOND / (2 * result.area), rel=1e-4)
    assert result.surface_energy == pytest.approx(16.0217663 * result.surface_energy_per_area, rel=1e-6)
    assert result.symmetric and result.surface_energy_error < 1e-6


def by_hand(build, relax):
    """(E(slab) − N e)/2A in J/m² of a thick slab made by ASE's own builder for the face."""
    e = EMT().get_property("energy", bulk("Cu", a=A))
    slab = build("Cu", (1, 1, 9), a=A, vacuum=8)
    slab.calc = EMT()
    if relax:
        BFGS(slab, logfile=None).run(fmax=1e-3)
    area = np.linalg.norm(np.cross(*slab.cell[:2]))
    return (slab.get_potential_energy() - len(slab) * e) / (2 * area) / (J / m**2)


@pytest.mark.parametrize(
    ("build", "miller"), [(fcc111, (1, 1, 1)), (fcc100, (0, 0, 1)), (fcc110, (1, -1, 0))]
)
def test_copper_agrees_with_slabs_built_by_hand(build, miller):
    result = surface(bulk("Cu", a=A), EMT(), SurfaceSettings(miller=miller, fmax=0.001))
    assert result.converged and result.symmetric and len(result.atoms_per_slab) == 4
    assert result.surface_energy_unrelaxed == pytest.approx(by_hand(build, False), rel=1e-6)
    assert result.surface_energy == pytest.approx(by_hand(build, True), rel=1e-4)
    assert result.surface_energy <= result.surface_energy_unrelaxed
    assert result.bulk_energy_fitted == pytest.approx(result.bulk_energy, abs=1e-6)


@pytest.mark.parametrize("kind", CRYSTALS)
def test_every_calculator_gives_a_surface_energy(kind):
    make, crystal = CRYSTALS[kind]
    result = surface(crystal(), make(), SurfaceSettings(slabs=3))
    assert result.converged and 0.5 < result.surface_energy <= result.surface_energy_unrelaxed + 1e-6 < 3
    assert result.surface_energy_error < 0.01


def test_any_cell_of_the_crystal_gives_the_same_face():
    cells = [bulk("Cu", a=A), bulk("Cu", a=A, cubic=True), bulk("Cu", a=A, orthorhombic=True)]
    cells[2].rotate(33, (1, 2, 3), rotate_cell=True)
    found = [surface(c, EMT(), SurfaceSettings(miller=(2, 1, 0), **CLAMPED)) for c in cells]
    assert len({tuple(f.atoms_per_slab) for f in found}) == 1
    for one in found[1:]:
        assert one.surface_energy == pytest.approx(found[0].surface_energy, rel=1e-6)
    opposite = surface(cells[0], EMT(), SurfaceSettings(miller=(-2, -1, 0), **CLAMPED))
    multiple = surface(cells[0], EMT(), SurfaceSettings(miller=(4, 2, 0), **CLAMPED))
    assert opposite.surface_energy == pytest.approx(found[0].surface_energy, rel=1e-6)
    assert multiple.surface_energy == pytest.approx(found[0].surface_energy, rel=1e-6)


@pytest.mark.parametrize("miller", [(1, 1, 1), (2, 1, 0), (3, -1, 1)])
def test_planes_lie_as_in_the_conventional_cell(miller):
    for primitive, conventional in (
        (bulk("Cu", a=A), bulk("Cu", a=A, cubic=True)),
        (bulk("W", a=3.16), bulk("W", a=3.16, cubic=True)),
    ):
        cell, indices, spacing = oriented(primitive, miller, 1e-3)
        expected = 1 / np.linalg.norm(np.array(miller) @ conventional.cell.reciprocal())
        ratio = expected / spacing  # centring puts lattice planes between those of the conventional cell
        assert ratio == pytest.approx(round(ratio)) and round(ratio) in (1, 2)
        assert np.gcd.reduce(indices) == 1 and len(cell) == 1


def test_two_different_sides_are_said():
    zincblende = bulk("CuAu", "zincblende", a=5.6)
    result = surface(zincblende, EMT(), SurfaceSettings(miller=(1, 1, 1), **CLAMPED))
    assert not result.symmetric and "two different sides" in result.message
    assert surface(zincblende, EMT(), SurfaceSettings(miller=(1, 1, 0), **CLAMPED)).symmetric


def test_a_rhombohedral_lattice_has_thirds():
    # As in the hexagonal setting of a rhombohedral lattice: a simple cubic one along its diagonal.
    a = 2.6
    cubic = Atoms("Cu", cell=[a, a, a], pbc=True)
    cubic.set_cell(cubic.cell.array @ (np.eye(3) + 0.02 * (np.ones((3, 3)) - np.eye(3))), scale_atoms=True)
    _, indices, spacing = oriented(cubic, (0, 0, 1), 1e-3)
    assert sorted(abs(indices)) == [1, 1, 1]
    assert spacing == pytest.approx(np.linalg.norm(cubic.cell.array.sum(axis=0)) / 3)


def test_slabs_are_one_batch_and_as_thick_as_asked():
    calculator = Counting(EMT())
    settings = SurfaceSettings(thickness=10, step=4, slabs=4, relax=False, vacuum=14)
    result = surface(bulk("Cu", a=A), calculator, settings)
    assert calculator.batches == [5]
    spacing = A / 3**0.5
    assert result.thicknesses[0] + spacing >= 10 > result.thicknesses[0]
    assert (np.diff(result.thicknesses) >= 4).all()
    slab = result.slab
    assert slab.cell.lengths()[2] - np.ptp(slab.positions[:, 2]) == pytest.approx(14)
    assert result.relaxed is None
    json.loads(result.model_dump_json(exclude={"slab"}))


def test_the_error_is_that_of_a_straight_line():
    rng = np.random.default_rng(1)
    noisy = Volumetric(lambda v: 0.01 * rng.normal())
    result = surface(bulk("Cu", a=A), noisy, SurfaceSettings(slabs=6, relax=False))
    counts, y = np.array(result.atoms_per_slab), result.unrelaxed  # residuals do not care for a slope
    y = y * 2 * result.area + counts * result.bulk_energy_fitted / (J / m**2)
    (_, intercept), covariance = np.polyfit(counts, y, 1, cov=True)
    assert result.surface_energy == pytest.approx(intercept / (2 * result.area), rel=1e-6)
    assert result.surface_energy_error == pytest.approx(covariance[1, 1] ** 0.5 / (2 * result.area), rel=1e-6)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(StructureError, match="--termination"):
        surface(bulk("Cu"), EMT(), SurfaceSettings(termination=1))
    with pytest.raises(StructureError, match="three periodic axes"):
        surface(graphene(vacuum=5), EMT())
    with pytest.raises(ValidationError, match="not a plane"):
        SurfaceSettings(miller=(0, 0, 0))


def test_not_converged_and_stressed_are_said():
    result = surface(bulk("Si", a=5.0), stillinger_weber(), SurfaceSettings(steps=1))
    assert not result.converged and "slab of" in result.message
    assert "GPa" in surface(bulk("Cu", a=3.5), EMT(), SurfaceSettings(**CLAMPED)).message


def test_the_plot_overlays():
    result = surface(bulk("Cu", a=A), EMT(), SurfaceSettings(slabs=3))
    figure = plot(result, {"other": result}, "mine")
    assert "J/m" in figure.axes[0].get_ylabel() and "Å" in figure.axes[0].get_xlabel()
    figure.savefig(io.BytesIO())
