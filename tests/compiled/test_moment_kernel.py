"""The fused kernel gives what the eager moment-tensor network gives, for every structure."""

import copy
import pickle

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from moment_networks import errors, network, random_structure

from nfflr.checkpoint import load_checkpoint
from nfflr.compiled import moment_kernel as moment
from nfflr.compiled.artefacts import compiler
from nfflr.data.graph import Graph, batch_graphs, periodic_radius_graph
from nfflr.data.verlet import VerletList
from nfflr.errors import StructureError

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
ELEMENTS = ("C", "Si", "Ge")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Libraries are built once for this file, into a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def built():
    """Models and their kernels, each built once."""
    made = {}

    def build(elements=("Si",), dtype=torch.float64, **settings):
        key = (elements, dtype, *settings.items())
        if key not in made:
            model = network(elements, dtype, **settings)
            made[key] = model, moment.build(model)
            assert made[key][1] is not None
        return made[key]

    return build


def assert_agree(model, kernel, graph):
    worst = max(errors(kernel(graph), model(graph)).values())
    assert worst < TOLERANCE[model.dtype], f"{worst:.1e}"


CASES = [
    pytest.param(("Si",), torch.float64, {}, id="double"),
    pytest.param(("Si",), torch.float32, {}, id="single"),
    pytest.param(ELEMENTS, torch.float64, {}, id="elements-double"),
    pytest.param(ELEMENTS, torch.float32, {}, id="elements-single"),
    pytest.param(ELEMENTS, torch.float64, {"species_channels": 2}, id="more-elements-than-channels"),
    pytest.param(ELEMENTS, torch.float32, {"species_channels": 2}, id="more-elements-than-channels-single"),
    pytest.param(ELEMENTS, torch.float64, {"species_channels": 1}, id="one-channel"),
    pytest.param(
        ELEMENTS, torch.float64, {"species_channels": 2, "own_weights": False, "n_radial": 10}, id="shared"
    ),
    pytest.param(("Si",), torch.float64, {"zbl": False}, id="no-repulsion"),
    pytest.param(ELEMENTS, torch.float64, {"zbl": False, "envelope": 3}, id="low-envelope"),
    pytest.param(ELEMENTS, torch.float64, {"n_radial": 10, "channels": 20, "hidden": 9}, id="odd-widths"),
]


@pytest.mark.parametrize("elements, dtype, settings", CASES)
def test_random_structures_agree_with_the_eager_model(built, elements, dtype, settings):
    compare(*built(elements, dtype, **settings), elements, dtype, 50)


@pytest.mark.slow
@pytest.mark.parametrize("elements, dtype, settings", CASES)
def test_a_thousand_random_structures_agree_with_the_eager_model(built, elements, dtype, settings):
    compare(*built(elements, dtype, **settings), elements, dtype, 1000)


def compare(model, kernel, elements, dtype, count):
    """With the model in float64; in float32 the model's own rounding is the measure for rare hard cases."""
    exact = copy.deepcopy(model).double()
    rng = np.random.default_rng(1)
    edges, ours, eager = [], [], []
    for _ in range(count):
        graph = periodic_radius_graph(random_structure(rng, elements), r=model.cutoff)
        edges.append(len(graph.src))
        expected = exact(graph)
        ours.append(max(errors(kernel(graph), expected).values()))
        if dtype == torch.float32:
            eager.append(max(errors(model(graph), expected).values()))
    assert min(edges) < 20 and max(edges) > 400  # nearly free atoms, and dense cells
    assert np.median(ours) < TOLERANCE[dtype] / 4
    assert max(ours) < max([TOLERANCE[dtype], *(1.5 * error for error in eager)])


def test_the_shipped_potential_agrees_in_single_precision():
    model, _ = load_checkpoint("mlearn-si-fast")
    model.eval()
    kernel = moment.build(model)
    rng = np.random.default_rng(0)
    for size in ((1, 1, 1), (2, 2, 2), (3, 2, 1)):
        for rattle in (0.0, 0.05, 0.2):
            atoms = bulk("Si", cubic=True).repeat(size)
            atoms.positions += rattle * rng.normal(size=atoms.positions.shape)
            assert_agree(model, kernel, periodic_radius_graph(atoms, r=model.cutoff))


@pytest.mark.parametrize("elements", [("Si",), ELEMENTS], ids=["one", "several"])
def test_special_structures_agree(built, elements):
    model, kernel = built(elements)
    free = ase.Atoms("Si")
    apart = ase.Atoms("Si2", positions=[[0, 0, 0], [50, 0, 0]])
    close = ase.Atoms(
        "Si2", positions=[[0, 0, 0], [0.4, 0.3, 0]]
    )  # within the fading window: repulsion alone
    tiny = ase.Atoms(
        "Si", cell=[[1.9, 0.1, 0], [0.3, 1.8, 0.2], [0, -0.4, 2.1]], pbc=True
    )  # 9 Å: dozens of images
    wire = ase.Atoms("Si2", positions=[[9, 0, 0], [0, 1.9, 0.5]], cell=[0, 0, 2.3], pbc=(0, 0, 1))
    flat = ase.Atoms("Si", cell=[[2.2, 0, 0], [0, 2.2, 0], [2.2, 2.2, 0]])  # a cell without volume
    for atoms in (free, apart, close, tiny, wire, flat):
        graph = periodic_radius_graph(atoms, r=model.cutoff)
        assert_agree(model, kernel, graph)
        assert torch.isfinite(kernel(graph)["forces"]).all()
    assert len(periodic_radius_graph(tiny, r=model.cutoff).src) > 25
    assert torch.equal(
        kernel(periodic_radius_graph(flat, r=model.cutoff))["stress"], torch.zeros(3, 3).double()
    )


@pytest.mark.parametrize("elements", [("Si",), ELEMENTS], ids=["one", "several"])
def test_batches_give_what_single_structures_give(built, elements):
    model, kernel = built(elements)
    rng = np.random.default_rng(3)
    graphs = [periodic_radius_graph(random_structure(rng, elements), r=model.cutoff) for _ in range(7)]
    batch = batch_graphs(graphs)
    assert_agree(model, kernel, batch)
    together = kernel(batch)
    singles = [kernel(graph) for graph in graphs]
    for name in ("total_energy", "stress"):
        stacked = torch.stack([single[name] for single in singles])
        assert torch.allclose(together[name], stacked, rtol=1e-12, atol=1e-12)
    forces = torch.cat([single["forces"] for single in singles])
    assert torch.allclose(together["forces"], forces, rtol=1e-12, atol=1e-12)


def test_without_stress_the_rest_is_the_same_bits(built):
    _, kernel = built(ELEMENTS)
    graph = periodic_radius_graph(random_structure(np.random.default_rng(5), ELEMENTS), r=4.0)
    full, short = kernel(graph), kernel(graph, stress=False)
    assert full.keys() - short.keys() == {"stress"}
    assert all(torch.equal(full[name], value) for name, value in short.items())


@pytest.mark.parametrize("elements", [("Si",), ELEMENTS], ids=["one", "several"])
def test_bonds_beyond_the_cutoff_count_nothing(built, elements):
    model, kernel = built(elements)
    rng = np.random.default_rng(4)
    for _ in range(10):
        atoms = random_structure(rng, elements)
        near = kernel(periodic_radius_graph(atoms, r=model.cutoff))
        far = kernel(VerletList(model.cutoff, 1.0).candidates(atoms))
        assert max(errors(far, near).values()) < 1e-12


def test_forces_add_up_to_nothing_and_are_minus_the_energy_slope(built):
    _, kernel = built(ELEMENTS)
    rng = np.random.default_rng(6)
    atoms = random_structure(rng, ELEMENTS)
    direction = rng.normal(size=atoms.positions.shape)
    forces = kernel(periodic_radius_graph(atoms, r=4.0))["forces"].numpy()
    assert np.abs(forces.sum(0)).max() < 1e-11 * np.abs(forces).max() * len(atoms)
    energies = []
    for step in np.array([-2, -1, 1, 2]) * 2e-5:
        moved = atoms.copy()
        moved.positions += step * direction
        energies.append(float(kernel(periodic_radius_graph(moved, r=4.0))["total_energy"]))
    slope = np.dot([1, -8, 8, -1], energies) / 24e-5
    assert -np.sum(forces * direction) == pytest.approx(slope, rel=1e-7)


def test_threads_change_rounding_alone_and_the_same_number_gives_the_same_bits(built):
    model, kernel = built(ELEMENTS)
    atoms = bulk("Si", cubic=True).repeat((5, 5, 4))
    atoms.numbers[::3] = 6
    atoms.rattle(0.1, seed=0)
    graph = periodic_radius_graph(atoms, r=model.cutoff)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = kernel(graph)
        torch.set_num_threads(3)
        three, again = kernel(graph), kernel(graph)
    finally:
        torch.set_num_threads(before)
    assert max(errors(three, one).values()) < 1e-12
    assert all(torch.equal(three[name], again[name]) for name in three)


class Driven(Calculator):
    """ASE calculator on any callable, with a kept list; or with a new search in every step."""

    implemented_properties = ("energy", "forces")

    def __init__(self, evaluate, cutoff, skin):
        super().__init__()
        self.evaluate, self.neighbours = evaluate, VerletList(cutoff, skin)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        output = self.evaluate(self.neighbours.candidates(self.atoms))
        self.results = {"energy": float(output["total_energy"]), "forces": output["forces"].numpy()}


def follow(steps, every):
    """Molecular dynamics with the kernel under a skin; the eager model looks at it now and then."""
    model, _ = load_checkpoint("mlearn-si-fast")
    model = model.double().eval()
    kernel = moment.build(model)
    atoms = bulk("Si", cubic=True)
    atoms.calc = Driven(kernel, model.cutoff, 0.5)
    thermalize_momenta(atoms, 2500, rng=np.random.default_rng(0))
    start = atoms.get_total_energy()
    worst = []

    def compare():
        eager = model(periodic_radius_graph(atoms, r=model.cutoff))
        worst.append(np.abs(atoms.get_forces() - eager["forces"].numpy()).max())
        worst.append(abs(atoms.get_potential_energy() - float(eager["total_energy"])))

    dynamics = VelocityVerlet(atoms, timestep=1.0 * fs)
    dynamics.attach(compare, interval=every)
    dynamics.run(steps)
    assert max(worst) < 1e-10
    assert abs(atoms.get_total_energy() - start) < 2e-3 * len(atoms)  # eV
    assert 1 < atoms.calc.neighbours.builds < steps / 4


def test_molecular_dynamics_under_a_skin_follows_the_eager_model():
    follow(300, every=10)


@pytest.mark.slow
def test_long_molecular_dynamics_under_a_skin_follows_the_eager_model():
    follow(5000, every=1)


def test_what_no_kernel_can_do_is_declined_or_refused(built, monkeypatch):
    model, kernel = built(ELEMENTS)
    assert moment.build(network(layers=2)) is None
    with pytest.raises(StructureError, match="element O is not covered"):
        kernel(periodic_radius_graph(ase.Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.2]]), r=4.0))
    twice = VerletList(4.0, 0.5).candidates(ase.Atoms("CSiC", positions=[[0, 0, 0], [0, 0, 2], [0, 0, 2]]))
    with pytest.raises(StructureError, match=r"atoms (1 and 2|2 and 1) coincide"):
        kernel(twice)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert moment.build(model) is None


def test_a_kernel_keeps_the_weights_it_was_built_with(built):
    model, _ = built()
    model = copy.deepcopy(model)
    kernel = moment.build(model)
    graph = periodic_radius_graph(random_structure(np.random.default_rng(8), ("Si",)), r=4.0)
    before = kernel(graph)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(kernel(graph)["forces"], before["forces"])
    assert kernel.deviation() > 1e-3


def test_a_kernel_that_disagrees_is_not_used(built, monkeypatch, caplog):
    model, _ = built()
    fold = moment._fold

    def wrong(model):
        weights = fold(model)
        weights.mix[0, 0, 3, 2, 1] += 1e-3
        return weights

    monkeypatch.setattr(moment, "_fold", wrong)
    assert moment.build(model) is None
    assert "differs from the model" in caplog.text


def test_kernels_copy_and_pickle(built):
    _, kernel = built(ELEMENTS)
    graph = periodic_radius_graph(random_structure(np.random.default_rng(9), ELEMENTS), r=4.0)
    for other in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert torch.equal(other(graph)["forces"], kernel(graph)["forces"])


def test_inputs_are_neither_changed_nor_kept(built):
    _, kernel = built()
    graph = periodic_radius_graph(random_structure(np.random.default_rng(10), ("Si",)), r=4.0)
    tensors = (graph.atoms.positions, graph.src, graph.dst, graph.shift, graph.atoms.cell)
    copies = [t.clone() for t in tensors]
    first = kernel(graph)
    kept = first["forces"].clone()
    strided = Graph(graph.atoms, graph.src, graph.dst, graph.shift.T.contiguous().T)
    assert torch.equal(kernel(strided)["forces"], kept)
    assert torch.equal(first["forces"], kept)  # not a buffer that the next call fills
    assert all(torch.equal(t, c) for t, c in zip(tensors, copies, strict=True))
