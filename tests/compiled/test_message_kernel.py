"""The fused kernel of several layers gives what the eager network gives, for every structure."""

import copy
import pickle
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from moment_networks import errors, network, random_structure

from nfflr import NFFLrCalculator
from nfflr.compiled import build, kernel, kernels_are_ready, message_kernel, moment_kernel
from nfflr.compiled.artefacts import compiler
from nfflr.data.graph import Graph, batch_graphs, periodic_radius_graph
from nfflr.data.verlet import VerletList
from nfflr.errors import StructureError
from nfflr.models.moment import MomentConfig, MomentNetwork

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
ELEMENTS = ("C", "Si", "Ge")
MANY = ("H", "C", "N", "O", "Al", "Si", "P", "S", "Ge", "Sn")


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

    def make(elements=("Si",), dtype=torch.float64, layers=2, **settings):
        key = (elements, dtype, layers, *settings.items())
        if key not in made:
            model = network(elements, dtype, layers=layers, **{"message_channels": 16, **settings})
            made[key] = model, message_kernel.build(model)
            assert made[key][1] is not None
        return made[key]

    return make


def structures(elements, count, seed=1):
    rng = np.random.default_rng(seed)
    return [random_structure(rng, elements) for _ in range(count)]


def graph_of(atoms, model) -> Graph:
    return periodic_radius_graph(atoms, r=model.cutoff)


def part_of(graph, keep) -> Graph:
    """Some of its bonds."""
    return replace(graph, src=graph.src[keep], dst=graph.dst[keep], shift=graph.shift[keep])


def assert_agree(model, form, graph):
    worst = max(errors(form(graph), model(graph)).values())
    assert worst < TOLERANCE[model.dtype], f"{worst:.1e}"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


CASES = [
    pytest.param(("Si",), {}, id="one"),
    pytest.param(ELEMENTS, {}, id="own weights"),
    pytest.param(MANY, {"own_weights": False}, id="shared weights"),
    pytest.param(("Si",), {"layers": 3, "message_limit": 0.3}, id="three layers, low limit"),
    pytest.param(ELEMENTS, {"layers": 3, "own_weights": False}, id="three layers, shared weights"),
    pytest.param(ELEMENTS, {"zbl": False, "envelope": 3, "message_limit": 0}, id="no repulsion, no limit"),
    pytest.param(
        ELEMENTS, {"n_radial": 10, "channels": 20, "hidden": 9, "message_channels": 7}, id="odd widths"
    ),
    pytest.param(("Si",), {"channels": 8, "message_channels": 32}, id="wide messages"),
]


@pytest.mark.parametrize("elements, settings", CASES)
def test_random_structures_agree_with_the_eager_model(built, elements, settings):
    model, form = built(elements, **settings)
    graphs = [graph_of(atoms, model) for atoms in structures(elements, 25)]
    sizes = [len(graph.src) for graph in graphs]
    assert min(sizes) < 20 and max(sizes) > 250  # nearly free atoms, and dense cells
    for graph in graphs:
        assert_agree(model, form, graph)


@pytest.mark.parametrize("elements, settings", CASES[:4])
def test_single_precision_is_as_good_as_the_eager_models(built, elements, settings):
    model, form = built(elements, torch.float32, **settings)
    exact = copy.deepcopy(model).double()
    ours, eager = [], []
    for atoms in structures(elements, 25):
        graph = graph_of(atoms, model)
        expected = exact(graph)
        ours.append(max(errors(form(graph), expected).values()))
        eager.append(max(errors(model(graph), expected).values()))
    # The rounding of some networks is larger than that of others, and differs between processors.
    assert np.median(ours) < max(TOLERANCE[torch.float32] / 2, 1.5 * np.median(eager))
    assert max(ours) < max([TOLERANCE[torch.float32], *(3 * error for error in eager)])


def silicon_network(layers=2, dtype=torch.float32) -> MomentNetwork:
    """As wide as by default, calibrated on rattled crystals, not trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MomentNetwork(MomentConfig(elements=("Si",), layers=layers))
    rng = np.random.default_rng(0)
    crystals = [bulk("Si", cubic=True) for _ in range(10)]
    for atoms in crystals:
        atoms.set_cell(atoms.cell * (1 + 0.03 * rng.normal()), scale_atoms=True)
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    model.calibrate(graph_of(crystals, model))
    return model.to(dtype).eval()


def test_a_crystal_agrees_in_single_precision():
    model = silicon_network()
    form = message_kernel.build(model)
    exact = copy.deepcopy(model).double()
    for rattle in (0.0, 0.05, 0.2):
        atoms = bulk("Si", cubic=True).repeat((2, 2, 1))
        atoms.rattle(rattle, seed=1)
        graph = graph_of(atoms, model)
        assert max(errors(form(graph), exact(graph)).values()) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("elements", [("Si",), ELEMENTS], ids=["one", "several"])
@pytest.mark.parametrize("layers", [2, 3])
def test_special_structures_agree(built, elements, layers):
    model, form = built(elements, layers=layers)
    free = ase.Atoms("Si")
    apart = ase.Atoms("Si2", positions=[[0, 0, 0], [50, 0, 0]])
    pair = ase.Atoms("Si2", positions=[[0, 0, 0], [2.3, 0, 0]])
    close = ase.Atoms("Si2", positions=[[0, 0, 0], [0.4, 0.3, 0]])  # within the fading window: repulsion
    images = ase.Atoms("Si", cell=[[2.4, 0.1, 0], [0.3, 2.3, 0.2], [0, -0.4, 2.5]], pbc=True)
    wire = ase.Atoms("Si2", positions=[[9, 0, 0], [0, 1.9, 0.5]], cell=[0, 0, 2.3], pbc=(0, 0, 1))
    molecule = ase.Atoms("Si5", positions=2.4 * np.array([[0, 0, 0], *np.eye(3), [0.6, 0.7, 0.5]]))
    for atoms in (free, apart, pair, close, images, wire, molecule):
        graph = graph_of(atoms, model)
        assert_agree(model, form, graph)
        assert torch.isfinite(form(graph)["forces"]).all()


@pytest.mark.parametrize("elements", [("Si",), ELEMENTS], ids=["one", "several"])
def test_batches_give_what_single_structures_give(built, elements):
    model, form = built(elements)
    graphs = [graph_of(atoms, model) for atoms in structures(elements, 7, seed=3)]
    batch = batch_graphs(graphs)
    assert_agree(model, form, batch)
    together, singles = form(batch), [form(graph) for graph in graphs]
    for name in ("total_energy", "stress"):
        expected = torch.stack([single[name] for single in singles])
        assert torch.allclose(together[name], expected, rtol=1e-12, atol=1e-12)
    forces = torch.cat([single["forces"] for single in singles])
    assert torch.allclose(together["forces"], forces, rtol=1e-11, atol=1e-11)


def test_without_stress_the_others_are_the_same_bits(built):
    model, form = built(ELEMENTS)
    (atoms,) = structures(ELEMENTS, 1, seed=5)
    graph = graph_of(atoms, model)
    full, short = form(graph), form(graph, stress=False)
    assert full.keys() - short.keys() == {"stress"}
    assert all(torch.equal(full[name], value) for name, value in short.items())


@pytest.mark.parametrize("elements", [("Si",), ELEMENTS], ids=["one", "several"])
def test_bonds_beyond_the_cutoff_count_nothing(built, elements):
    model, form = built(elements)
    for atoms in structures(elements, 10, seed=4):
        near = form(graph_of(atoms, model))
        far = form(VerletList(model.cutoff, 1.0).candidates(atoms))
        assert max(errors(far, near).values()) < 1e-12


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("skin", [0.0, 0.7])
def test_energies_of_the_first_atoms_are_a_part(built, layers, skin):
    model, form = built(ELEMENTS, layers=layers)
    atoms = bulk("Si", cubic=True).repeat((3, 2, 2))
    atoms.numbers[::3] = 6
    atoms.rattle(0.1, seed=2)
    graph = VerletList(model.cutoff, skin).candidates(atoms)
    for n in (1, 37, len(atoms)):
        part = replace(graph, n_local=n)
        assert_agree(model, form, part)
        assert torch.allclose(form(part)["energies"], form(graph)["energies"][:n], rtol=1e-12)


def halo(atoms, model, reach):
    """A periodic structure as an open one with ghosts out to ``reach``, which have no neighbours beyond."""
    graph = periodic_radius_graph(atoms, r=reach)
    images = {}
    for src, shift in zip(graph.src.tolist(), graph.shift.tolist(), strict=True):
        if any(shift):
            images.setdefault((src, *np.round(shift, 6)), np.array(shift))
    owners = [key[0] for key in images]
    everything = ase.Atoms(
        np.concatenate([atoms.numbers, atoms.numbers[owners]]),
        np.concatenate([atoms.positions, atoms.positions[owners] + np.array(list(images.values()))]),
    )
    return replace(graph_of(everything, model), n_local=len(atoms)), np.array([*range(len(atoms)), *owners])


@pytest.mark.parametrize("layers", [2, 3])
def test_ghosts_stand_for_images(built, layers):
    model, form = built(ELEMENTS, layers=layers)
    atoms = bulk("Si", cubic=True)
    atoms.numbers[::3] = 6
    atoms.rattle(0.1, seed=2)
    whole = form(graph_of(atoms, model))
    graph, owners = halo(atoms, model, layers * model.cutoff + 0.1)
    part = form(graph)
    assert_agree(model, form, graph)
    assert len(owners) > 20 * len(atoms)
    assert torch.allclose(part["energies"], whole["energies"], rtol=1e-12)
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, owners, part["forces"].numpy())
    np.testing.assert_allclose(forces, whole["forces"], atol=1e-10 * np.abs(forces).max())
    # The outermost ghosts send nothing that counts, and need no neighbours.
    near = torch.unique(graph.src[graph.dst < graph.n_local])
    for _ in range(layers - 2):
        near = torch.unique(graph.src[torch.isin(graph.dst, near)])
    keep = torch.isin(graph.dst, near) | (graph.dst < graph.n_local)
    fewer = part_of(graph, keep)
    assert len(fewer.src) < 0.8 * len(graph.src)
    assert max(errors(form(fewer), part).values()) < 1e-12


def test_bonds_in_one_direction_alone_are_left_to_the_model(built):
    model, form = built(ELEMENTS)
    (atoms,) = structures(ELEMENTS, 1, seed=8)
    graph = graph_of(atoms, model)
    keep = torch.arange(len(graph.src)) != 3
    assert_agree(
        model, form, replace(graph, src=graph.src[keep], dst=graph.dst[keep], shift=graph.shift[keep])
    )


@pytest.mark.parametrize("layers", [2, 3])
def test_forces_add_up_to_nothing_and_are_minus_the_energy_slope(built, layers):
    model, form = built(ELEMENTS, layers=layers)
    rng = np.random.default_rng(6)
    atoms = random_structure(rng, ELEMENTS)
    direction = rng.normal(size=atoms.positions.shape)
    forces = form(graph_of(atoms, model))["forces"].numpy()
    assert np.abs(forces.sum(0)).max() < 1e-11 * np.abs(forces).max() * len(atoms)
    energies = []
    for step in np.array([-2, -1, 1, 2]) * 1e-5:
        moved = atoms.copy()
        moved.positions += step * direction
        energies.append(float(form(graph_of(moved, model))["total_energy"]))
    slope = np.dot([1, -8, 8, -1], energies) / 12e-5
    assert -np.sum(forces * direction) == pytest.approx(slope, rel=1e-7)


def test_threads_change_rounding_alone_and_the_same_number_gives_the_same_bits(built, threads):
    model, form = built(ELEMENTS)
    atoms = bulk("Si", cubic=True).repeat((3, 3, 3))
    atoms.numbers[::3] = 6
    atoms.rattle(0.1, seed=0)
    graph = graph_of(atoms, model)
    threads(1)
    one = form(graph)
    for n in (2, 3):
        threads(n)
        several, again = form(graph), form(graph)
        assert max(errors(several, one).values()) < 1e-12
        assert all(torch.equal(several[name], again[name]) for name in several)


def test_calculators_and_batches_use_the_kernel():
    model = silicon_network()
    exact = copy.deepcopy(model).double()
    calculator = NFFLrCalculator(model, compile=True)
    assert type(calculator.compiled) is message_kernel.MessageKernel
    assert calculator.kernel_is_ready() and kernels_are_ready(model)
    crystals = [bulk("Si", cubic=True).repeat((1, 1, k)) for k in (1, 2)]
    for atoms in crystals:
        atoms.rattle(0.1, seed=3)
    evaluated = calculator.evaluate(crystals)
    for atoms, results in zip(crystals, evaluated, strict=True):
        expected = exact(graph_of(atoms, model))
        np.testing.assert_allclose(results["forces"], expected["forces"], atol=1e-4)
        atoms.calc = calculator
        np.testing.assert_allclose(atoms.get_forces(), expected["forces"], atol=1e-4)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), expected["stress"], atol=1e-4)


def test_every_number_of_layers_has_its_kernel(built):
    model, form = built()
    assert form.kind == "kernel" and form.takes_candidates and form.takes_parts
    assert type(build(model)) is type(kernel(model)) is message_kernel.MessageKernel
    assert moment_kernel.build(model) is None
    assert message_kernel.build(network()) is None and message_kernel.is_ready(network()) is None


def test_what_no_kernel_can_do_is_refused(built, monkeypatch):
    model, form = built(ELEMENTS)
    with pytest.raises(StructureError, match="element O is not covered"):
        form(periodic_radius_graph(ase.Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.2]]), r=4.0))
    twice = VerletList(4.0, 0.5).candidates(ase.Atoms("CSiC", positions=[[0, 0, 0], [0, 0, 2], [0, 0, 2]]))
    with pytest.raises(StructureError, match=r"atoms (1 and 2|2 and 1) coincide"):
        form(twice)
    virials = form(graph_of(structures(ELEMENTS, 1)[0], model), virials=True)
    assert "virials" in virials
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert message_kernel.build(model) is None


def test_a_kernel_keeps_the_weights_it_was_built_with(built):
    model, _ = built()
    model = copy.deepcopy(model)
    form = message_kernel.build(model)
    (atoms,) = structures(("Si",), 1, seed=8)
    graph = graph_of(atoms, model)
    before = form(graph)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(form(graph)["forces"], before["forces"])
    assert form.deviation() > 1e-3


@pytest.mark.parametrize("name", ["_fold_layer", "_fold_sender"])
def test_a_kernel_that_disagrees_is_not_used(built, monkeypatch, caplog, name):
    model, _ = built()
    fold = getattr(message_kernel, name)

    def wrong(model, part):
        arrays = fold(model, part)
        arrays["bias"][0, 1] += 1e-3
        return arrays

    monkeypatch.setattr(message_kernel, name, wrong)
    assert message_kernel.build(model) is None
    assert "differs from the model" in caplog.text


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_network_that_is_not_calibrated_has_a_kernel(built, dtype):
    built(dtype=dtype, channels=32, message_channels=32, hidden=32, cutoff=5.0)  # the library
    config = MomentConfig(elements=("Si",), layers=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MomentNetwork(config).to(dtype).eval()
    assert message_kernel.build(model) is not None


def test_kernels_copy_and_pickle(built):
    model, form = built(ELEMENTS)
    (atoms,) = structures(ELEMENTS, 1, seed=9)
    graph = graph_of(atoms, model)
    for other in (copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
        assert torch.equal(other(graph)["forces"], form(graph)["forces"])


def test_inputs_are_neither_changed_nor_kept(built):
    model, form = built()
    (atoms,) = structures(("Si",), 1, seed=10)
    graph = graph_of(atoms, model)
    tensors = (graph.atoms.positions, graph.src, graph.dst, graph.shift, graph.atoms.cell)
    copies = [t.clone() for t in tensors]
    first = form(graph)
    kept = first["forces"].clone()
    strided = Graph(graph.atoms, graph.src, graph.dst, graph.shift.T.contiguous().T)
    assert torch.equal(form(strided)["forces"], kept)
    assert torch.equal(first["forces"], kept)  # not a buffer that the next call fills
    assert all(torch.equal(t, c) for t, c in zip(tensors, copies, strict=True))
