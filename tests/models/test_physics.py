"""The physics every interatomic potential must have. A registered architecture enters by itself.

Float64, random weights, evaluation mode, data-dependent constants from a rattled crystal, forces of the
order of 1 eV/Å. Tolerances are those of the design: "numbers that are facts, not tastes".
"""

import copy
from functools import partial
from importlib.metadata import entry_points
from itertools import combinations_with_replacement

import ase
import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from documented import documented_models

from nfflr.atoms import Atoms, batch
from nfflr.compiled.aot_graph import arguments, example_graphs, results, trace
from nfflr.data.graph import periodic_radius_graph
from nfflr.errors import StructureError
from nfflr.models.classical.core_repulsion import zbl_energy
from nfflr.models.registry import architectures
from nfflr.nn.radial import polynomial_cutoff

# Settings beyond the defaults that reach other code of an architecture; absent means defaults only.
SETTINGS = {"moment": [{"layers": 2}], "alignn": [{"alignn_layers": 1, "gcn_layers": 0, "cutoff_onset": 3.5}]}
INSTALLED = entry_points(group="nfflr.models").names
REGISTERED = {  # not the toys that other tests may have registered
    key: cls
    for key, cls in architectures().items()
    if cls.__module__.startswith("nfflr.") or key in INSTALLED
}
CLASSES = REGISTERED | documented_models()
ONE_ELEMENT = {"learned-eam"}
CASES = [
    pytest.param(
        (key, elements, settings), id="-".join([key, *elements, *(f"{k}{v}" for k, v in settings.items())])
    )
    for key in sorted(CLASSES)
    for settings in [{}, *SETTINGS.get(key, [])]
    for elements in [("Si",), ("C", "Si")][: 1 if key in ONE_ELEMENT else 2]
]


@pytest.fixture(scope="module", params=CASES)
def model(request, structures):
    key, elements, settings = request.param
    cls = CLASSES[key]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(11)
        model = cls(cls.Config(elements=elements, **settings)).double().eval()
        for weight in model.parameters():  # a layer that starts at zero would hide what is behind it
            weight.add_(0.05 * torch.randn_like(weight))
        # Like what the tests evaluate, but for the cluster's close pair: that one feels the repulsion.
        builders = (
            structures.crystal,
            structures.triclinic,
            structures.slab,
            partial(structures.cluster, bond=2.3),
        )
        sample = [build(elements, rattle=0.1, seed=seed) for build in builders for seed in range(50, 54)]
        model.calibrate(periodic_radius_graph(sample, model.cutoff))
        model.scale.fill_(1 / model(sample)["forces"].square().mean().sqrt())
        model.reference_energies.copy_(-5.25 * torch.arange(1, 1 + len(elements)))
    return model


@pytest.fixture(scope="module", params=["triclinic", "slab", "cluster"])
def atoms(request, model, structures):
    return getattr(structures, request.param)(model.elements)


def evaluate(model, x):
    return {name: value.numpy() for name, value in model(x).items()}


def total(model, structures):
    """Energies (B,) of many structures in one pass."""
    return model(list(structures), stress=False)["total_energy"].numpy()


def assert_close(found, expected, tolerance):
    """Largest difference against the largest expected value, or against one eV (Å, …) if that is small."""
    scale = max(1.0, np.abs(expected).max(initial=0))
    assert np.shape(found) == np.shape(expected)
    assert np.abs(np.subtract(found, expected)).max(initial=0) <= tolerance * scale


def orthogonal(determinant, seed=0):
    """A random rotation (determinant 1) or reflection (−1)."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * determinant * np.linalg.det(q)  # in three dimensions −q flips the determinant


def five_point(values, h):
    """df/dx from f at −2h, −h, h, 2h along the last axis; the error is of order h⁴."""
    return (values[..., 0] - 8 * values[..., 1] + 8 * values[..., 2] - values[..., 3]) / (12 * h)


STEPS = np.array([-2, -1, 1, 2])


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_rotations_and_reflections(model, atoms, determinant):
    q = orthogonal(determinant)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = atoms.positions @ q.T
    before, after = evaluate(model, atoms), evaluate(model, turned)
    assert_close(after["total_energy"], before["total_energy"], 1e-10)
    assert_close(after["energies"], before["energies"], 1e-10)
    assert_close(after["forces"], before["forces"] @ q.T, 1e-8)
    assert_close(after["stress"], q @ before["stress"] @ q.T, 1e-8)
    assert np.abs(before["forces"]).max() > 1e-2  # else this test says nothing


def test_permutations(model, atoms):
    order = np.random.default_rng(1).permutation(len(atoms))
    before, after = evaluate(model, atoms), evaluate(model, atoms[order])
    for name in ("total_energy", "stress"):
        assert_close(after[name], before[name], 1e-12)
    for name in ("energies", "forces"):
        assert_close(after[name], before[name][order], 1e-12)


def test_translations(model, atoms):
    moved = atoms.copy()
    moved.positions += [3.7, -21.1, 8.3]
    before, after = evaluate(model, atoms), evaluate(model, moved)
    for name in before:
        assert_close(after[name], before[name], 1e-10)


def test_atoms_moved_by_lattice_vectors(model, atoms):
    steps = np.random.default_rng(2).integers(-4, 5, size=(len(atoms), 3)) * atoms.pbc
    moved = atoms.copy()
    moved.positions += steps @ atoms.cell.array
    before, after = evaluate(model, atoms), evaluate(model, moved)
    for name in before:
        assert_close(after[name], before[name], 1e-10)


@pytest.mark.parametrize("repeat", [(2, 2, 2), (3, 1, 1)], ids=str)
def test_extensivity(model, repeat, structures):
    cell = structures.triclinic(model.elements)
    n = int(np.prod(repeat))
    one, many = evaluate(model, cell), evaluate(model, cell.repeat(repeat))
    assert_close(many["total_energy"] / n, one["total_energy"], 1e-10)
    assert_close(many["energies"], np.tile(one["energies"], n), 1e-10)
    assert_close(many["forces"], np.tile(one["forces"], (n, 1)), 1e-10)
    assert_close(many["stress"], one["stress"], 1e-10)


def test_forces_are_minus_the_gradient_of_the_energy(model, atoms):
    h = 2e-4
    displaced = []
    for atom in range(len(atoms)):
        for axis in range(3):
            for step in STEPS:
                moved = atoms.copy()
                moved.positions[atom, axis] += step * h
                displaced.append(moved)
    differences = -five_point(total(model, displaced).reshape(len(atoms), 3, 4), h)
    forces = evaluate(model, atoms)["forces"]
    assert np.abs(differences - forces).max() <= 1e-7 * np.abs(forces).max()


@pytest.mark.parametrize("name", ["triclinic", "slab"])
def test_stress_is_the_strain_derivative_of_the_energy(model, structures, name):
    atoms, h = getattr(structures, name)(model.elements), 1e-4
    components = list(combinations_with_replacement(range(3), 2))
    strained = []
    for a, b in components:
        for step in STEPS:
            strain = np.zeros((3, 3))
            strain[a, b] += step * h / 2  # ε_ab = ε_ba = h/2 off the diagonal, ε_aa = h on it
            strain[b, a] += step * h / 2
            changed = atoms.copy()
            changed.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
            changed.positions = atoms.positions @ (np.eye(3) + strain)
            strained.append(changed)
    slopes = five_point(total(model, strained).reshape(6, 4), h) / atoms.get_volume()
    stress = evaluate(model, atoms)["stress"]
    found = np.array([stress[a, b] for a, b in components])
    assert np.abs(found - slopes).max() <= 1e-7 * np.abs(stress).max()
    assert np.array_equal(stress, stress.T)


def test_energy_and_forces_are_continuous_where_a_pair_crosses_the_cutoff(model):
    # A third atom near the first makes angles and, with messages, longer paths pass through the pair.
    results = []
    for distance in (model.cutoff - 1e-12, model.cutoff + 1e-12):
        positions = [[0, 0, 0], [distance, 0, 0], [1.1, 2.1, 0.4]]
        symbols = [model.elements[0], model.elements[-1], model.elements[0]]
        graph = periodic_radius_graph(ase.Atoms(symbols, positions), model.cutoff)
        results.append((len(graph.src), evaluate(model, graph)))
    (n_inside, inside), (n_outside, outside) = results
    assert n_inside == n_outside + 2
    for name in ("total_energy", "energies", "forces"):
        assert np.abs(inside[name] - outside[name]).max() < 1e-9


def test_the_work_along_a_dimer_curve_is_the_difference_in_energy(model):
    # From strong overlap to beyond the cutoff: a jump of the energy anywhere between would show, be it
    # at the cutoff or where a short-range term hands over.
    ends = np.linspace(0.8, model.cutoff + 0.2, 100)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = np.diff(ends)[:, None] / 2
    inside = (ends[:-1, None] + half * (1 + nodes)).ravel()
    symbols = [model.elements[0], model.elements[-1]]
    dimers = [ase.Atoms(symbols, [[0, 0, 0], [r, 0, 0]]) for r in [*ends, *inside]]
    result = evaluate(model, dimers)
    pull = -result["forces"][1::2, 0][len(ends) :].reshape(-1, 8)  # dE/dr at the nodes of each interval
    rise = np.diff(result["total_energy"][: len(ends)])
    work = (pull * weights * half).sum(1)
    # Random weights can turn sharply within an interval: the quadrature errs by a part of the variation.
    allowed = (1e-2 * np.abs(pull).max(1) + 0.1 * np.ptp(pull, axis=1)) * np.diff(ends)
    assert (np.abs(rise - work) <= allowed + 1e-9).all()
    assert np.abs(rise[:30]).min() > 0  # the curve is not flat where the pair is well within reach


def test_bonds_longer_than_the_cutoff_change_nothing(model, atoms):
    # A graph may come prebuilt and reach farther than the model does.
    graph, long = (periodic_radius_graph(atoms, model.cutoff + extra) for extra in (0.0, 1.0))
    expected, found = evaluate(model, graph), evaluate(model, long)
    for name in expected:
        assert_close(found[name], expected[name], 1e-10)


def test_a_batch_equals_its_members(model, structures):
    lonely = ase.Atoms(model.elements[-1], cell=3 * model.cutoff * np.eye(3), pbc=True)
    members = [getattr(structures, name)(model.elements) for name in ("triclinic", "slab", "cluster")]
    members.insert(1, lonely)
    together = evaluate(model, members)
    singles = [evaluate(model, member) for member in members]
    for name in ("total_energy", "stress"):
        assert_close(together[name], np.stack([single[name] for single in singles]), 1e-10)
    for name in ("energies", "forces"):
        assert_close(together[name], np.concatenate([single[name] for single in singles]), 1e-10)


def test_an_isolated_atom_has_its_reference_energy_and_a_constant_of_the_model(model):
    plain = copy.deepcopy(model)
    plain.reference_energies.zero_()
    box = 3 * model.cutoff * np.eye(3)
    for element, reference in zip(model.elements, model.reference_energies.tolist(), strict=True):
        places = [
            ase.Atoms(element),
            ase.Atoms(element, [[7.0, -3.0, 900.0]]),
            ase.Atoms(element, [[1.0, 2.0, 3.0]], cell=box, pbc=True),
        ]
        results = [evaluate(model, place) for place in places]
        constant = evaluate(plain, places[0])["total_energy"]
        assert np.isfinite(constant)
        for result in results:
            assert_close(result["total_energy"], reference + constant, 1e-14)
            assert not result["forces"].any() and not result["stress"].any()


def test_reference_energies_shift_the_energy_per_atom_and_nothing_else(model, atoms):
    plain = copy.deepcopy(model)
    plain.reference_energies.zero_()
    shift = dict(zip(model.elements, model.reference_energies.tolist(), strict=True))
    expected, found = evaluate(plain, atoms), evaluate(model, atoms)
    shifts = np.array([shift[symbol] for symbol in atoms.symbols])
    assert_close(found["total_energy"], expected["total_energy"] + shifts.sum(), 1e-12)
    assert_close(found["energies"], expected["energies"] + shifts, 1e-12)
    assert np.array_equal(found["forces"], expected["forces"])
    assert np.array_equal(found["stress"], expected["stress"])


def test_two_distant_molecules_are_additive(model, structures):
    near, far = structures.cluster(model.elements), structures.cluster(model.elements[::-1], seed=8)
    far.positions += [4 * model.cutoff + 10, 0, 0]
    parts = [evaluate(model, near), evaluate(model, far)]
    whole = evaluate(model, near + far)
    assert_close(whole["total_energy"], sum(part["total_energy"] for part in parts), 1e-10)
    for name in ("energies", "forces"):
        assert_close(whole[name], np.concatenate([part[name] for part in parts]), 1e-10)


def test_energies_sum_to_the_total_and_forces_to_zero(model, atoms):
    result = evaluate(model, atoms)
    assert_close(result["energies"].sum(), result["total_energy"], 1e-12)
    assert_close(result["forces"].sum(0), np.zeros(3), 1e-12 * np.abs(result["forces"]).max())


def test_atomic_virials_add_up_to_the_stress_and_turn_with_the_structure(model, atoms):
    result = {name: value.numpy() for name, value in model(atoms, virials=True).items()}
    q = orthogonal(1)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = atoms.positions @ q.T
    after = model(turned, virials=True)["virials"].numpy()
    assert_close(after, q @ result["virials"] @ q.T, 1e-8)
    if atoms.cell.rank == 3:
        assert_close(result["virials"].sum(0), result["stress"] * atoms.get_volume(), 1e-10)
    plain = evaluate(model, atoms)
    assert "virials" not in plain and np.abs(result["virials"]).max() > 1e-2
    for name in plain:
        assert_close(result[name], plain[name], 1e-12)
    together = model([atoms, turned], virials=True)
    assert_close(together["virials"].numpy(), np.concatenate([result["virials"], after]), 1e-10)


def test_the_traced_graph_of_the_model_gives_the_same(model, structures):
    # The graph that is compiled, of which tests/test_compiled.py compiles one for every architecture.
    example, *_ = example_graphs(model)
    others = [structures.crystal(model.elements), structures.cluster(model.elements)]
    model(example)  # constants that are kept once made must not be made while tracing
    graph = trace(copy.deepcopy(model).requires_grad_(False), arguments(model, example))
    for members in (others, others[0]):
        bonds = model.graph(members)
        found = results(model, bonds, graph(*arguments(model, bonds)), stress=True, virials=True)
        expected = model(bonds, virials=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name].detach().numpy(), value.numpy(), 1e-10)


def test_stress_is_zero_without_a_cell_volume(model, structures):
    flat = structures.slab(model.elements)
    flat.cell[2] = 0.0
    for atoms in (structures.cluster(model.elements), flat):
        result = evaluate(model, atoms)
        assert result["stress"].shape == (3, 3) and not result["stress"].any()
        assert np.abs(result["forces"]).max() > 1e-2
    stress = evaluate(model, [structures.cluster(model.elements), structures.triclinic(model.elements)])[
        "stress"
    ]
    assert not stress[0].any() and stress[1].any()


def test_shapes_and_dtypes_of_the_outputs(model, structures):
    n, members = 9, [structures.triclinic(model.elements), structures.cluster(model.elements)]
    for x, lead in ((members[0] + members[1], ()), (members, (2,))):
        result = model(x)
        shapes = {name: tuple(value.shape) for name, value in result.items()}
        assert shapes == {
            "total_energy": lead,
            "energies": (n,),
            "forces": (n, 3),
            "stress": (*lead, 3, 3),
        }
        assert not any(value.requires_grad for value in result.values())
    assert "stress" not in model(members, stress=False)


def test_float32_is_close_to_float64(model, atoms):
    single = copy.deepcopy(model).float()
    assert single.reference_energies.dtype == torch.float64
    assert torch.equal(single.reference_energies, model.reference_energies)
    exact, result = evaluate(model, atoms), evaluate(single, atoms)
    assert result["total_energy"].dtype == np.float64
    for name in ("total_energy", "energies", "forces"):
        assert_close(result[name], exact[name], 1e-4)
    assert np.abs(result["stress"] - exact["stress"]).max() <= 1e-4 * max(np.abs(exact["stress"]).max(), 1e-3)


def test_reference_energies_lose_no_digit_in_a_float32_model(model, structures):
    single = copy.deepcopy(model).float()
    single.reference_energies.fill_(-12345.6789)
    atoms = structures.triclinic(model.elements)
    shift = evaluate(single, atoms)["total_energy"]
    single.reference_energies.zero_()
    assert shift - evaluate(single, atoms)["total_energy"] == pytest.approx(-4 * 12345.6789, abs=1e-9)


def test_an_unknown_element_is_refused_by_name(model, structures):
    bad = structures.triclinic(model.elements)
    bad.numbers[2] = atomic_numbers["Ge"]
    for x in (bad, [structures.triclinic(model.elements), bad]):
        with pytest.raises(StructureError, match="element Ge is not covered by this model; it knows"):
            model(x)


def test_every_kind_of_input_gives_the_same(model, atoms):
    expected = evaluate(model, atoms)
    for x in (Atoms.from_ase(atoms), periodic_radius_graph(atoms, model.cutoff)):
        for name, value in evaluate(model, x).items():
            assert np.array_equal(value, expected[name])
    lists = ([atoms], (Atoms.from_ase(atoms),), batch([atoms]), periodic_radius_graph([atoms], model.cutoff))
    for x in lists:
        found = evaluate(model, x)
        for name in ("total_energy", "stress"):
            assert_close(found[name], expected[name][None], 1e-12)
        for name in ("energies", "forces"):
            assert_close(found[name], expected[name], 1e-12)


def test_the_structure_that_is_given_stays_as_it_is(model, atoms):
    given, kept = atoms.copy(), atoms.copy()
    tensors = Atoms.from_ase(given)
    model(given)
    model(tensors)
    for after in (given, tensors.to_ase()):
        for name in ("positions", "numbers", "pbc"):
            assert np.array_equal(getattr(after, name), getattr(kept, name)), name
        assert np.array_equal(after.cell.array, kept.cell.array)


def test_no_global_state_of_torch_is_touched(model, atoms, structures):
    def state():
        flags = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
        return *flags, torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist()

    before = state()
    with torch.random.fork_rng(devices=[]):
        made = type(model)(model.config)  # making weights draws numbers; that is all it may do
    made.calibrate(periodic_radius_graph(structures.crystal(model.elements), made.cutoff))
    made(atoms)
    model(atoms)
    assert state() == before


def test_the_gradient_of_a_force_and_stress_loss_is_right_for_every_weight(model, structures):
    training = copy.deepcopy(model).train()
    structures = [structures.triclinic(model.elements), structures.cluster(model.elements)]
    graph = periodic_radius_graph(structures, model.cutoff)
    expected = evaluate(model, graph)
    for name, value in training(graph).items():
        assert_close(value.detach().numpy(), expected[name], 1e-12)

    # Targets near the outputs, so that no large sum hides the change that a weight makes; uneven, since
    # forces sum to zero whatever the weights are.
    shifts = {"total_energy": 0.3, "forces": 0.3, "stress": 0.03}
    uneven = {name: np.cos(np.arange(expected[name].size)).reshape(expected[name].shape) for name in shifts}
    targets = {name: torch.from_numpy(expected[name] + shifts[name] * uneven[name]) for name in shifts}

    def loss():
        result = training(graph)
        return sum(((result[name] - targets[name]) / shifts[name]).square().sum() for name in shifts)

    weights = dict(training.named_parameters())
    gradients = torch.autograd.grad(loss(), list(weights.values())) if weights else ()
    rng = np.random.default_rng(3)
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        flat, slope = weight.data.view(-1), gradient.reshape(-1)
        largest = slope.abs().max().item()
        assert largest > 0, name
        for k in {int(slope.abs().argmax()), int(rng.integers(len(flat)))}:
            kept, h, values = flat[k].item(), 2e-4 * max(0.1, abs(flat[k].item())), []
            for step in STEPS:
                flat[k] = kept + step * h
                values.append(loss().item())
            flat[k] = kept
            assert five_point(np.array(values), h) == pytest.approx(slope[k].item(), abs=1e-6 * largest), name


def test_a_dimer_is_repelled_ever_more_strongly_at_short_distance(model):
    if not hasattr(model, "zbl_outer"):
        pytest.skip("this architecture has no short-range repulsion")
    for a, first in enumerate(model.elements):
        for b, second in enumerate(model.elements):
            r = np.linspace(0.3, model.zbl_inner[a, b].item(), 40)
            energy = total(model, [ase.Atoms([first, second], [[0, 0, 0], [d, 0, 0]]) for d in r])
            assert (np.diff(energy) < 0).all()
            # There the network sees no bond at all: two isolated atoms and the universal repulsion, which
            # goes smoothly to zero at the cutoff.
            apart = total(model, [ase.Atoms(first), ase.Atoms(second)]).sum()
            z = [torch.tensor(atomic_numbers[element]) for element in (first, second)]
            r = torch.tensor(r)
            envelope, _ = polynomial_cutoff(r / model.cutoff, model.config.envelope)
            assert_close(energy - apart, (zbl_energy(r, *z) * envelope).numpy(), 1e-12)
