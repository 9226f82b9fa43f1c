"""Elastic constants: second derivatives of the energy, matscipy's analytic ones, group theory, averages."""

import io
import json

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.units import GPa
from matscipy.elasticity import cubic_to_Voigt_6x6, full_3x3x3x3_to_Voigt_6x6, rotate_elastic_constants
from potentials import SW_A0, Counting, mlearn_si, stillinger_weber
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation

from nfflr.errors import StructureError
from nfflr.workflows.elasticity import (
    ElasticSettings,
    elastic,
    invariant_stiffness,
    moduli,
    named_constants,
    necessary_strains,
    plot,
)

CUBIC = ((0, 0), (0, 1), (3, 3))  # C11, C12, C44


def cubic(matrix):
    return np.array([matrix[ij] for ij in CUBIC])


class NoisyStress(Calculator):
    """A linear crystal of known stiffness (GPa) and normal noise (GPa) on each stress, without forces."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, cell, stiffness, noise, residual=(0,) * 6):
        super().__init__()
        self.cell, self.stiffness, self.noise, self.residual = np.asarray(cell), stiffness, noise, residual
        self.rng = np.random.default_rng(0)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        strain = np.linalg.solve(self.cell, self.atoms.cell.array) - np.eye(3)
        voigt = np.array([*np.diag(strain), 2 * strain[1, 2], 2 * strain[0, 2], 2 * strain[0, 1]])
        stress = self.stiffness @ voigt + self.noise * self.rng.normal(size=6) + self.residual
        self.results = {"energy": 0.0, "free_energy": 0.0, "stress": stress * GPa}
        self.results["forces"] = np.zeros((len(self.atoms), 3))


def random_stiffness(seed=0):
    factor = np.random.default_rng(seed).normal(size=(6, 6))
    return factor @ factor.T * 10 + 50 * np.eye(6)


# Against independent routes


def energy_derivative(atoms, calculator, patterns, h=1e-3):
    """∂²E/∂ε_a∂ε_b / V in GPa by differences of the energy, for Voigt strains a, b."""

    def energy(*amounts):
        e = sum(x * np.eye(6)[p] for x, p in zip(amounts, patterns, strict=True))
        strain = [[e[0], e[5] / 2, e[4] / 2], [e[5] / 2, e[1], e[3] / 2], [e[4] / 2, e[3] / 2, e[2]]]
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        return calculator.get_property("energy", strained)

    if patterns[0] == patterns[1]:
        values = [energy(x, 0) for x in (-2 * h, -h, 0, h, 2 * h)]
        second = np.dot([-1, 16, -30, 16, -1], values) / (12 * h * h)
    else:
        second = (energy(h, h) - energy(h, -h) - energy(-h, h) + energy(-h, -h)) / (4 * h * h)
    return second / atoms.get_volume() / GPa


def test_copper_agrees_with_second_derivatives_of_the_energy():
    def lattice_energy(a):
        return EMT().get_property("energy", bulk("Cu", a=a))

    a = minimize_scalar(lattice_energy, (3.5, 3.7), tol=1e-10).x
    atoms = bulk("Cu", a=a)
    expected = [energy_derivative(atoms, EMT(), pair) for pair in CUBIC]
    result = elastic(atoms, EMT())
    assert result.converged and result.stable and result.point_group == "m-3m"
    assert cubic(result.clamped) == pytest.approx(expected, rel=5e-4)
    assert cubic(result.stiffness) == pytest.approx(expected, rel=5e-4)  # one atom: nothing to relax
    assert np.abs(result.residual_stress).max() < 1e-3


def test_silicon_agrees_with_the_analytic_constants_of_matscipy():
    atoms = bulk("Si", a=SW_A0)
    atoms.calc = stillinger_weber()
    relaxed, born = (
        full_3x3x3x3_to_Voigt_6x6(atoms.calc.get_property(name, atoms)) / GPa
        for name in ("elastic_constants", "born_constants")
    )
    result = elastic(atoms, stillinger_weber())
    assert result.converged
    np.testing.assert_allclose(result.clamped, born, rtol=2e-4, atol=0.01)
    np.testing.assert_allclose(result.stiffness, relaxed, rtol=1e-3, atol=0.02)
    assert result.clamped[3, 3] - result.stiffness[3, 3] > 50  # the internal strain matters


def test_mlearn_si_agrees_with_second_derivatives_and_with_the_dft_it_learnt():
    atoms = bulk("Si", a=5.46873)
    result = elastic(atoms, mlearn_si())
    expected = [energy_derivative(atoms, mlearn_si(), pair) for pair in CUBIC]
    assert result.converged and result.stable
    assert cubic(result.clamped) == pytest.approx(expected, rel=2e-3)
    # shared/data/mlearn/dft_elastic_reference.json, derived from the DFT stresses
    assert cubic(result.clamped) == pytest.approx([152.73, 56.2, 98.85], rel=0.1)


def test_float32_is_enough():
    double = elastic(bulk("Si", a=5.46873), mlearn_si())
    single = elastic(bulk("Si", a=5.46873), mlearn_si("float32"))
    assert single.converged
    assert cubic(single.stiffness) == pytest.approx(cubic(double.stiffness), rel=2e-3)


# Symmetry


def test_symmetry_gives_what_all_strains_give():
    atoms = bulk("Cu", "hcp", a=2.53, c=4.15)
    with_symmetry, without = (elastic(atoms, EMT(), ElasticSettings(symmetry=s)) for s in (True, False))
    assert (with_symmetry.strained_cells, without.strained_cells) == (18, 36)
    assert (with_symmetry.independent_constants, without.independent_constants) == (5, 21)
    np.testing.assert_allclose(with_symmetry.stiffness, without.stiffness, rtol=2e-3, atol=0.1)
    c = with_symmetry.stiffness
    assert c[5, 5] == pytest.approx((c[0, 0] - c[0, 1]) / 2, rel=1e-9)


def test_a_turned_crystal_has_a_turned_stiffness():
    turn = Rotation.from_rotvec([0.3, -0.5, 0.8]).as_matrix()
    atoms = bulk("Si", a=SW_A0)
    straight = elastic(atoms, stillinger_weber())
    atoms.set_cell(atoms.cell.array @ turn.T, scale_atoms=True)
    turned = elastic(atoms, stillinger_weber())
    expected = rotate_elastic_constants(straight.stiffness, turn)
    np.testing.assert_allclose(turned.stiffness, expected, rtol=0, atol=0.02)
    assert turned.universal_anisotropy == pytest.approx(straight.universal_anisotropy, rel=1e-3)


TURN = {
    "2z": np.diag([-1.0, -1, 1]),
    "2x": np.diag([1.0, -1, -1]),
    "3z": Rotation.from_euler("z", 120, degrees=True).as_matrix(),
    "4z": Rotation.from_euler("z", 90, degrees=True).as_matrix(),
    "6z": Rotation.from_euler("z", 60, degrees=True).as_matrix(),
    "3xyz": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
}


def group(*generators):
    elements = [np.eye(3)]
    for element in elements:
        for name in generators:
            new = TURN[name] @ element
            if not any(np.allclose(new, old) for old in elements):
                elements.append(new)
    return np.array(elements)


@pytest.mark.parametrize(
    ("generators", "constants", "strains"),
    [  # Nye, Physical Properties of Crystals, table 9
        ((), 21, [0, 1, 2, 3, 4, 5]),
        (("2z",), 13, [0, 1, 2, 3, 4, 5]),
        (("2z", "2x"), 9, [0, 1, 2, 3, 4, 5]),
        (("4z",), 7, [0, 2, 3, 5]),
        (("4z", "2x"), 6, [0, 2, 3, 5]),
        (("3z",), 7, [0, 2, 3]),
        (("3z", "2x"), 6, [0, 2, 3]),
        (("6z",), 5, [0, 2, 3]),
        (("2z", "3xyz"), 3, [0, 3]),
    ],
    ids=["triclinic", "monoclinic", "orthorhombic", "4", "422", "3", "32", "6", "23"],
)
def test_each_crystal_class_has_its_number_of_constants(generators, constants, strains):
    basis = invariant_stiffness(group(*generators))
    assert len(basis) == constants
    assert necessary_strains(basis) == strains
    for tensor in basis:
        for name in generators:
            np.testing.assert_allclose(rotate_elastic_constants(tensor, TURN[name]), tensor, atol=1e-9)


def test_the_constants_that_are_told_are_those_of_the_textbooks():
    """Nye, table 9: cubic, hexagonal and tetragonal crystals with a twofold axis across."""
    names = {}
    for key, generators in {"cubic": ("2z", "3xyz"), "6": ("6z",), "422": ("4z", "2x")}.items():
        basis = invariant_stiffness(group(*generators))
        stiffness = np.einsum("p,pij->ij", np.arange(1.0, len(basis) + 1), basis)
        told = dict(item.split() for item in named_constants(stiffness, basis).split(", "))
        names[key] = " ".join(told)
        for name, value in told.items():
            assert float(value) == pytest.approx(stiffness[int(name[1]) - 1, int(name[2]) - 1], rel=1e-3)
    assert names == {
        "cubic": "C11 C12 C44",
        "6": "C11 C12 C13 C33 C44",
        "422": "C11 C12 C13 C33 C44 C66",
    }


# Errors, stress, stability


def test_a_linear_crystal_is_recovered_exactly_with_no_error():
    atoms, c = bulk("Cu", cubic=True), random_stiffness()
    residual = [1.0, -2.0, 0.5, 0.3, -0.4, 0.2]
    calculator = NoisyStress(atoms.cell.array, c, 0.0, residual)
    result = elastic(atoms, calculator, ElasticSettings(symmetry=False, internal=False))
    np.testing.assert_allclose(result.stiffness, c, atol=1e-6)
    assert result.stiffness_error.max() < 1e-6
    assert result.residual_stress == pytest.approx(residual, abs=1e-9)
    assert result.eigenvalues == pytest.approx(np.linalg.eigvalsh(c), abs=1e-6)


def test_standard_errors_are_those_of_the_noise():
    atoms, c = bulk("Cu", cubic=True), random_stiffness()
    settings = ElasticSettings(symmetry=False, internal=False, points=10)
    deviations = []
    for seed in range(20):
        calculator = NoisyStress(atoms.cell.array, c, 0.05)
        calculator.rng = np.random.default_rng(seed)
        result = elastic(atoms, calculator, settings)
        deviations.append((result.stiffness - c) / result.stiffness_error)
    spread = np.std(np.array(deviations)[:, *np.triu_indices(6)])
    assert 0.85 < spread < 1.3  # one but for the nine degrees of freedom of each error


def test_an_unstable_crystal_is_a_result():
    result = elastic(bulk("Cu", "bcc", a=2.86), EMT())  # on the Bain path: C11 < C12
    assert result.converged and not result.stable and "unstable" in result.message
    assert result.eigenvalues[0] == pytest.approx(result.stiffness[0, 0] - result.stiffness[0, 1])
    assert result.bulk_reuss is None and result.universal_anisotropy is None
    assert result.bulk_voigt > 0
    json.loads(result.model_dump_json())
    plot(result).savefig(io.BytesIO())


def test_stress_of_the_start_is_said_and_can_be_relaxed():
    compressed = elastic(bulk("Cu", a=3.5), EMT())
    assert "GPa" in compressed.message and "--relax" in compressed.message
    assert compressed.residual_stress[:3] == pytest.approx([compressed.residual_stress[0]] * 3)
    assert compressed.residual_stress[0] < -5
    cured = elastic(bulk("Cu", a=3.5), EMT(), ElasticSettings(relax=True))
    assert "--relax" not in cured.message and np.abs(cured.residual_stress).max() < 0.05
    free = elastic(bulk("Cu", a=3.5898), EMT())
    assert cubic(cured.stiffness) == pytest.approx(cubic(free.stiffness), rel=2e-3)
    assert compressed.bulk_modulus > 1.2 * free.bulk_modulus


def test_a_relaxation_that_does_not_end_is_not_convergence():
    result = elastic(bulk("Si", a=5.431), stillinger_weber(), ElasticSettings(steps=1))
    assert not result.converged and "strained cell" in result.message


def test_strained_cells_are_one_batch():
    calculator = Counting(EMT())
    elastic(bulk("Cu"), calculator, ElasticSettings(internal=False))
    assert calculator.batches == [13]


def test_a_slab_is_refused():
    with pytest.raises(StructureError, match="three periodic axes"):
        elastic(fcc111("Cu", (1, 1, 3), vacuum=6), EMT())


# Averages


def test_averages_of_a_cubic_crystal_are_the_textbooks():
    c11, c12, c44 = 168.4, 121.4, 75.4  # copper at room temperature, Simmons and Wang
    found = moduli(cubic_to_Voigt_6x6(c11, c12, c44))
    assert found["bulk_voigt"] == pytest.approx((c11 + 2 * c12) / 3)
    assert found["bulk_reuss"] == pytest.approx((c11 + 2 * c12) / 3)
    assert found["shear_voigt"] == pytest.approx((c11 - c12 + 3 * c44) / 5)
    assert found["shear_reuss"] == pytest.approx(5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12)))
    # for cubic crystals A_U = 6/5 (√A − 1/√A)² with Zener's A
    zener = 2 * c44 / (c11 - c12)
    assert found["universal_anisotropy"] == pytest.approx(1.2 * (zener**0.5 - zener**-0.5) ** 2)
    assert found["young_modulus"] == pytest.approx(128, rel=0.02)  # polycrystalline copper, measured
    assert found["poisson_ratio"] == pytest.approx(0.34, abs=0.01)


def test_an_isotropic_solid_has_no_anisotropy():
    found = moduli(cubic_to_Voigt_6x6(100.0, 40.0, 30.0))
    assert found["universal_anisotropy"] == pytest.approx(0, abs=1e-12)
    assert found["shear_modulus"] == pytest.approx(30)
    assert found["young_modulus"] == pytest.approx(2 * 30 * (1 + found["poisson_ratio"]))


def test_averages_do_not_depend_on_the_axes():
    c = random_stiffness(1)
    turned = rotate_elastic_constants(c, Rotation.from_rotvec([1, 2, -0.5]).as_matrix())
    first, second = moduli(c), moduli(turned)
    for name in set(first) - {"eigenvalues", "stable"}:
        assert first[name] == pytest.approx(second[name], rel=1e-9)


def test_the_plot_shows_constants_and_overlays():
    first = elastic(bulk("Cu", a=3.59), EMT())
    second = elastic(bulk("Cu", a=3.5), EMT())
    figure = plot(first, {"compressed": second}, "mine")
    left, right = figure.axes
    assert [t.get_text() for t in left.get_xticklabels()] == ["$C_{11}$", "$C_{12}$", "$C_{44}$"]
    assert {"mine", "compressed"} <= {t.get_text() for t in left.get_legend().get_texts()}
    along_x = right.lines[0].get_ydata()[0]  # E[100] = 1 / S11
    assert along_x == pytest.approx(1 / np.linalg.inv(first.stiffness)[0, 0])
    figure.savefig(io.BytesIO())


def test_a_calculator_without_stress_is_told_as_ase_tells_it():
    class Stressless(EMT):
        implemented_properties = ("energy", "free_energy", "energies", "forces")

    with pytest.raises(PropertyNotImplementedError, match="stress"):
        elastic(bulk("Cu"), Stressless())
