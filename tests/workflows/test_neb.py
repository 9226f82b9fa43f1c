"""Nudged elastic band: barriers whose saddle symmetry gives, and a potential whose saddle is known."""

import io
import json

import ase
import numpy as np
import pytest
from ase.build import add_adsorbate, bulk, fcc100
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixScaled
from ase.optimize import BFGS
from potentials import Counting, mlearn_si, stillinger_weber
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from nfflr.errors import NumericsError, StructureError
from nfflr.workflows.reaction_path import NebSettings, neb, plot


class Landscape(Calculator):
    """One atom on E(x, y) = (x² − 1)² + (y − x² / 2)² + tilt · x: its saddle lies near x = 0."""

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, tilt=0.1, bad_after=np.inf):
        super().__init__()
        self.tilt, self.calls, self.bad_after = tilt, 0, bad_after

    def energy(self, point):
        x, y = point
        return (x * x - 1) ** 2 + (y - x * x / 2) ** 2 + self.tilt * x

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        x, y, _ = self.atoms.positions[0]
        slope = y - x * x / 2
        force = -np.array([[4 * x * (x * x - 1) - 2 * x * slope + self.tilt, 2 * slope, 0]])
        if self.calls > self.bad_after:
            force *= np.nan
        energy = self.energy((x, y))
        self.results = {"energy": energy, "free_energy": energy, "forces": force}


def ends():
    return ase.Atoms("H", positions=[[-1.0, 0.6, 0]]), ase.Atoms("H", positions=[[1.0, 0.4, 0]])


def exact(tilt=0.1):
    """Energies of both minima and the saddle: on y = x²/2, where E is a function of x alone."""
    roots = np.sort(np.roots([4, 0, -4, tilt]).real)
    return [(x * x - 1) ** 2 + tilt * x for x in (roots[0], roots[2], roots[1])]


def steepest_descent(saddle, side):
    """Points along −∇E from beside the saddle to the minimum."""

    def velocity(_, point):
        return Landscape().get_property("forces", ase.Atoms("H", positions=[point]))[0]

    start = saddle + [0.01 * side, 0, 0]
    return solve_ivp(velocity, (0, 6), start, max_step=0.05).y.T


@pytest.mark.parametrize("optimizer", ["fire", "bfgs"])
def test_the_barrier_of_a_known_landscape(optimizer):
    initial, final = ends()
    settings = NebSettings(images=6, fmax=0.01, optimizer=optimizer, interpolation="linear")
    result = neb(initial, final, Landscape(), settings)
    low, high, saddle = exact()
    assert result.converged and result.fmax <= 0.01
    assert result.barrier == pytest.approx(saddle - low, abs=1e-4)
    assert result.reverse_barrier == pytest.approx(saddle - high, abs=1e-4)
    assert result.reaction_energy == pytest.approx(high - low, abs=1e-4)
    assert result.saddle.positions[0, 0] == pytest.approx(np.sort(np.roots([4, 0, -4, 0.1]))[1], abs=0.01)
    assert len(result.path) == len(result.energies) == 8 and result.saddle_image in range(1, 7)
    # the whole path, not only its top: every image is near a path of steepest descent from the saddle
    descent = np.concatenate([steepest_descent(result.saddle.positions[0], side) for side in (-1, 1)])
    for image in result.path:
        assert np.linalg.norm(descent - image.positions[0], axis=1).min() < 0.06
    assert result.distances[0] == 0 and (np.diff(result.distances) > 0.1).all()


def test_without_climbing_the_curve_gives_the_top():
    initial, final = ends()
    low, _, saddle = exact()
    settings = NebSettings(images=6, fmax=0.005, climb=False, interpolation="linear")
    result = neb(initial, final, Landscape(), settings)
    assert result.converged and result.energies.max() < saddle - low - 1e-3
    assert result.barrier == pytest.approx(saddle - low, abs=5e-3)


def test_the_landscape_is_its_own_derivative():
    landscape = Landscape()
    force = landscape.get_property("forces", ase.Atoms("H", positions=[[0.4, 0.7, 0]]))[0, :2]
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        slope = (landscape.energy([0.4, 0.7] + step) - landscape.energy([0.4, 0.7] - step)) / 2e-5
        assert force[axis] == pytest.approx(-slope, abs=1e-8)
    assert minimize(landscape.energy, (-1, 0.6)).fun == pytest.approx(exact()[0], abs=1e-8)


def hop():
    """A gold atom on Al(100), in a hollow and in the next; the bridge between is the saddle by symmetry."""
    slab = fcc100("Al", (2, 2, 2), vacuum=6)
    add_adsorbate(slab, "Au", 1.7, "hollow")
    slab.center(axis=2, vacuum=6)
    slab.set_constraint(FixAtoms(mask=[atom.tag > 1 for atom in slab]))
    final = slab.copy()
    final.positions[-1, 0] += slab.get_distance(0, 1)
    return slab, final


def test_an_adatom_hop_agrees_with_the_saddle_that_symmetry_gives():
    initial, final = hop()
    calculator = Counting(EMT())
    result = neb(initial, final, calculator, NebSettings(images=3, fmax=0.01))
    bridge = initial.copy()
    bridge.positions[-1, 0] += initial.get_distance(0, 1) / 2
    bridge.set_constraint([*initial.constraints, FixCartesian([len(bridge) - 1], (True, True, False))])
    energies = []
    for atoms in (initial.copy(), bridge):
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=1e-3)
        energies.append(atoms.get_potential_energy())
    assert result.converged and result.saddle_image == 2
    assert result.barrier == pytest.approx(energies[1] - energies[0], abs=2e-3)
    assert result.reaction_energy == pytest.approx(0, abs=1e-4)
    assert set(calculator.batches) == {3} and len(calculator.batches) <= result.steps + 3
    fixed = initial.constraints[0].index
    for image in result.path:
        np.testing.assert_allclose(image.positions[fixed], initial.positions[fixed], atol=1e-12)


@pytest.mark.parametrize("make", [stillinger_weber, mlearn_si])
def test_a_vacancy_hops_in_silicon(make):
    # By symmetry both ends are equal.
    crystal = bulk("Si", a=5.43, cubic=True)
    initial, final = crystal.copy(), crystal.copy()
    initial.positions[1] = crystal.positions[1]
    del initial[0]
    final.positions[1] = crystal.positions[0]
    del final[0]
    result = neb(initial, final, make(), NebSettings(images=3, fmax=0.05, steps=200))
    assert result.converged and 0 < result.saddle_image < 4
    assert result.reaction_energy == pytest.approx(0, abs=5e-3)
    assert 0.05 < result.barrier < 3
    assert result.barrier == pytest.approx(result.reverse_barrier, abs=5e-3)


def test_a_final_structure_in_the_next_cell_makes_no_difference():
    initial, final = hop()
    shifted = final.copy()
    shifted.positions[-1] += final.cell[0] - 2 * final.cell[1]
    settings = NebSettings(images=1, steps=3)
    near, far = (neb(initial, f, EMT(), settings) for f in (final, shifted))
    assert far.energies == pytest.approx(near.energies, abs=1e-6)
    assert far.distances[-1] < 4


def test_a_path_that_runs_downhill_has_no_barrier():
    initial, final = ase.Atoms("H", positions=[[-0.5, 0.125, 0]]), ends()[0]
    result = neb(initial, final, Landscape(), NebSettings(images=3, relax=False, interpolation="linear"))
    assert "no barrier" in result.message and result.barrier == 0 and result.reaction_energy < 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.__delitem__(0), "final has 8"),
        (lambda a: a.symbols.__setitem__(3, "Cu"), "atom 3"),
        (lambda a: a.set_cell(a.cell * 1.01), "cell"),
        (lambda a: a.set_pbc((1, 1, 1)), "periodicity"),
        (lambda a: a.positions.__setitem__(-1, hop()[0].positions[-1]), "the same"),
    ],
)
def test_ends_that_do_not_match_are_refused(change, words):
    initial, final = hop()
    change(final)
    with pytest.raises(StructureError, match=words) as caught:
        neb(initial, final, EMT())
    assert caught.value.exit_code == 3


def vacancy_hop():
    """Copper with a vacancy, 31 atoms, before and after the first atom has hopped into it."""
    initial = bulk("Cu", a=3.62, cubic=True) * 2
    hole = initial.positions[0].copy()
    del initial[0]
    final = initial.copy()
    final.positions[0] = hole
    return initial, final


def swapped():
    initial, final = vacancy_hop()
    final.positions[[3, 20]] = final.positions[[20, 3]]
    return initial, final


def test_atoms_that_change_places_are_named_before_anything_is_computed():
    calculator = Counting(EMT())
    with pytest.raises(
        StructureError, match="atoms 3 and 20 change places.*--order match.*--order keep"
    ) as caught:
        neb(*swapped(), calculator)
    assert caught.value.exit_code == 3 and calculator.batches == []


def test_the_final_atoms_are_put_in_order_when_asked():
    settings = NebSettings(images=1, steps=3, relax=False)
    expected = neb(*vacancy_hop(), EMT(), settings)
    initial, final = swapped()
    assert neb(
        initial, final, EMT(), settings.model_copy(update={"order": "match"})
    ).energies == pytest.approx(expected.energies, abs=1e-10)
    meant = neb(initial, final, EMT(), settings.model_copy(update={"order": "keep"}))
    assert meant.distances[-1] > expected.distances[-1] + 1


def test_another_order_of_the_elements_can_be_matched_too():
    initial, final = hop()
    other = final[np.r_[8, 0:8]]  # gold first
    with pytest.raises(StructureError, match="atom 0 is Al in initial and Au in final.*--order match"):
        neb(initial, other, EMT())
    settings = NebSettings(images=1, steps=2, order="match")
    matched = neb(initial, other, EMT(), settings)
    assert matched.energies == pytest.approx(neb(initial, final, EMT(), settings).energies, abs=1e-8)


def in_one_end(change):
    initial, final = vacancy_hop()
    change(final)
    return initial, final


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.set_constraint(FixAtoms([1, 2, 5])), "constraints of atoms 1, 2 and 5 differ"),
        (lambda a: a.set_constraint(FixScaled([4], (True, False, False))), "constraints of atom 4 differ"),
        (lambda a: a.set_constraint(FixCom()), "constraints differ"),
        (lambda a: a.set_masses([62.0] + [None] * 30), "masses of atom 0 differ"),
    ],
)
def test_ends_that_carry_unlike_things_are_refused(change, words):
    for ends in (in_one_end(change), in_one_end(change)[::-1]):
        with pytest.raises(StructureError, match=words) as caught:
            neb(*ends, EMT())
        assert caught.value.exit_code == 3


def test_equal_constraints_in_two_spellings_are_equal():
    initial, final = vacancy_hop()
    initial.set_constraint([FixAtoms([7]), FixCartesian([4], (True, False, False))])
    final.set_constraint([FixScaled([4], (True, False, False)), FixCartesian([7])])
    result = neb(initial, final, EMT(), NebSettings(images=1, steps=2, relax=False))
    for image in result.path:
        np.testing.assert_allclose(image.positions[7], initial.positions[7], atol=1e-12)
        assert image.positions[4, 0] == pytest.approx(initial.positions[4, 0], abs=1e-12)


def test_an_atom_that_is_fixed_but_moves_is_refused():
    initial, final = vacancy_hop()
    final.positions[9] += [0.2, 0, 0]
    for atoms in (initial, final):
        atoms.set_constraint(FixAtoms([9, 12]))
    with pytest.raises(StructureError, match="positions of fixed atom 9 differ"):
        neb(initial, final, EMT())
    for atoms in (initial, final):
        atoms.set_constraint(FixCartesian([9, 12], (False, True, True)))
    assert neb(initial, final, EMT(), NebSettings(images=1, steps=1)).path[0].positions[9, 0] > 0


def test_ends_that_relax_to_one_minimum_are_refused():
    initial, final = ase.Atoms("H", positions=[[-0.9, 0.5, 0]]), ase.Atoms("H", positions=[[-1.1, 0.5, 0]])
    with pytest.raises(StructureError, match="the same"):
        neb(initial, final, Landscape(), NebSettings(fmax=1e-3))


def test_too_few_steps_is_a_result():
    initial, final = ends()
    result = neb(initial, final, Landscape(), NebSettings(steps=2, relax=False))
    assert not result.converged and "after 2 steps" in result.message and result.steps == 2
    json.loads(result.model_dump_json(exclude={"saddle", "path"}))


def test_an_explosion_ends_with_the_last_sound_path():
    initial, final = ends()
    settings = NebSettings(images=3, relax=False, interpolation="linear", fmax=1e-4)
    result = neb(initial, final, Landscape(bad_after=12), settings)
    assert not result.converged and "stopped at step" in result.message
    assert np.isfinite(result.energies).all() and np.isfinite(result.barrier)
    with pytest.raises(NumericsError):
        neb(initial, final, Landscape(bad_after=2), settings)


def test_the_input_is_left_as_it_was():
    initial, final = hop()
    kept = initial.copy(), final.copy()
    neb(initial, final, EMT(), NebSettings(images=1, steps=1))
    assert (initial, final) == kept and initial.calc is None and final.calc is None


def test_the_plot_shows_images_and_overlays():
    initial, final = ends()
    settings = NebSettings(images=3, steps=5, interpolation="linear")
    first, second = (neb(initial, final, Landscape(tilt), settings) for tilt in (0.1, 0.3))
    figure = plot(first, {"tilted": second}, "mine")
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert any("mine" in t for t in texts) and any("tilted" in t for t in texts)
    assert "eV" in figure.axes[0].get_ylabel() and "Å" in figure.axes[0].get_xlabel()
    figure.savefig(io.BytesIO())
