"""Compiled potentials are the potentials: same numbers, any size, and nothing trusted that should not be."""

import copy
import json
import multiprocessing
import pickle
import shutil
import stat
import warnings
from pathlib import Path

import ase
import ase.io
import ase.units
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from builders import tiny

import nfflr.compiled
import nfflr.compiled.aot_graph as graphs
from nfflr.calculator import NFFLrCalculator
from nfflr.checkpoint import save_checkpoint
from nfflr.cli.main import run
from nfflr.compiled import KERNELS, NotCompiled, build, compile_potential
from nfflr.compiled.aot_graph import deviations, example_graphs, tolerance
from nfflr.compiled.artefacts import Artefacts, compiler, identity
from nfflr.data.graph import batch_graphs
from nfflr.models.committee import Committee
from nfflr.models.registry import architectures

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")
CHEAPEST = "lennard-jones"  # to compile, which takes half a minute
MODELS = {  # small ones
    "moment": {"channels": 4, "hidden": 4, "n_radial": 3, "cutoff": 4.0},
    CHEAPEST: {},
    "alignn": {"alignn_layers": 1, "gcn_layers": 1, "hidden_features": 8, "embedding_features": 8},
    "painn": {"channels": 8, "layers": 2},
    "schnet": {"channels": 8, "layers": 2},
    "moment-2": {"channels": 4, "hidden": 4, "n_radial": 3, "layers": 2},
    "stillinger-weber": {},
    "tersoff": {},
    "eam": {},
}


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def user_cache(cache_home, monkeypatch):
    """What tests build is theirs, and there for all of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    monkeypatch.setattr("nfflr.compiled.KERNELS", {})  # graphs are what is tested here


def make_model(name, dtype=torch.float64, elements=("C", "Si")):
    cls = architectures()[name.partition("-2")[0]]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        model = cls(cls.Config(elements=elements, **MODELS[name])).to(dtype).eval()
        for weight in model.parameters():
            weight.mul_(1 + 0.05 * torch.randn_like(weight))
        model.reference_energies.fill_(-5.25)
    return model


def random_structure(rng, elements=("C", "Si")) -> ase.Atoms:
    """One to sixty atoms, of any density and in any cell, periodic along any axes, none coincident."""
    n = int(rng.choice([1, 2, 3, 5, 8, 13, 30, 60]))
    side = (n * rng.uniform(9, 30)) ** (1 / 3)
    cell = side * (np.eye(3) + 0.3 * rng.normal(size=(3, 3)))
    while abs(np.linalg.det(cell)) < 0.4 * side**3:
        cell = side * (np.eye(3) + 0.3 * rng.normal(size=(3, 3)))
    atoms = ase.Atoms(rng.choice(elements, n), scaled_positions=rng.random((n, 3)), cell=cell)
    atoms.pbc = rng.random(3) < 0.7
    return atoms if n == 1 or spread_out(atoms) else random_structure(rng, elements)


def spread_out(atoms, least=1.0):
    distances = atoms.get_all_distances(mic=True)
    return distances[np.triu_indices(len(atoms), 1)].min() > least


def agree(compiled, model, x):
    graph = model.graph(x)
    found, expected = compiled(graph), model(graph)
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype and found[name].shape == expected[name].shape
    worst = deviations(found, expected)
    # Large terms cancel in some random structures, where float32 is itself 4e-5 away from float64.
    limit = tolerance(model.dtype) * (10 if model.dtype == torch.float32 else 1)
    assert max(worst.values()) <= limit, worst


def compare_on_random_structures(model, count):
    compiled = build(model)
    rng = np.random.default_rng(0)
    structures = [random_structure(rng, model.elements) for _ in range(count)]
    for atoms in structures:
        agree(compiled, model, atoms)
    agree(compiled, model, structures[:7])
    return compiled


@needs_compiler
def test_compiled_is_eager():
    assert compare_on_random_structures(make_model(CHEAPEST), 40).kind == "graph"


class Traced(graphs.CompiledGraph):
    """The graph before it is compiled, which takes a tenth of the time."""

    def __init__(self, model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example, *_ = example_graphs(model)
            model(example)
            self.model, self._covered, self._loader = model, None, self
            frozen = copy.deepcopy(model).requires_grad_(False)
            self.program = graphs.trace(frozen, graphs.arguments(model, example))

    def boxed_run(self, inputs):
        return self.program(*inputs)


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_one_graph(name):
    model = make_model(name)
    traced, rng = Traced(model), np.random.default_rng(1)
    structures = [random_structure(rng) for _ in range(12)]
    for atoms in structures:
        agree(traced, model, atoms)
    agree(traced, model, structures[:5])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_compiled_is_eager_for_every_architecture(name, dtype):
    compare_on_random_structures(make_model(name, dtype), 1000)


@needs_compiler
def test_one_artefact_serves_every_size(monkeypatch):
    model = make_model(CHEAPEST)
    compiled = build(model)
    monkeypatch.setattr(graphs, "_compile", None)  # a further compilation would fail
    crystal = bulk("Si", cubic=True)
    lone = ase.Atoms("Si", cell=[20] * 3, pbc=True)
    primitive = bulk("Si", "fcc", a=3.9)  # one atom with neighbours
    pair = ase.Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.3]])
    for atoms in (lone, primitive, pair, crystal, crystal.repeat((6, 5, 5))):
        atoms.rattle(0.05, seed=1)
        agree(compiled, model, atoms)
    agree(compiled, model, [lone, pair])
    agree(compiled, model, batch_graphs([model.graph(a) for a in (crystal, lone, pair, crystal)]))


@needs_compiler
def test_dynamics_is_the_same():
    model = make_model(CHEAPEST)
    runs = []
    for compile in (False, True):
        atoms = bulk("Si", cubic=True).repeat((2, 1, 1))
        atoms.calc = NFFLrCalculator(model, compile=compile)
        atoms.set_momenta(np.random.default_rng(0).normal(0, 2.5, (len(atoms), 3)))
        VelocityVerlet(atoms, 1.0 * ase.units.fs).run(50)
        runs.append(np.concatenate([atoms.positions, atoms.get_forces(), [atoms.get_stress()[:3]]]))
    assert np.abs(runs[0] - runs[1]).max() < 1e-9
    assert np.abs(runs[0][: len(atoms)] - bulk("Si", cubic=True).repeat((2, 1, 1)).positions).max() > 0.05


@needs_compiler
def test_calculators_say_so_copy_and_pickle():
    calculator = NFFLrCalculator(make_model(CHEAPEST), compile=True)
    assert calculator.todict()["compiled"] == "graph"
    assert NFFLrCalculator(make_model(CHEAPEST)).todict()["compiled"] is False
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=3)
    expected = NFFLrCalculator(make_model(CHEAPEST)).evaluate([atoms])[0]
    pickled = pickle.loads(pickle.dumps(calculator))
    assert "_compiled" in vars(pickled) and vars(pickled)["_compiled"] is None
    for twin in (calculator, copy.deepcopy(calculator), pickled):
        found = twin.evaluate([atoms, atoms])[1]
        assert found["forces"] == pytest.approx(expected["forces"], abs=1e-10)
        assert twin.compiled.kind == "graph"


@needs_compiler
def test_ensembles_are_compiled_member_by_member():
    model = make_model(CHEAPEST)
    ensemble = Committee([model, copy.deepcopy(model)])
    compiled = build(ensemble)
    assert compiled.kind == "graph"
    for x in (random_structure(np.random.default_rng(4)), [bulk("Si", cubic=True)] * 2):
        graph = ensemble.graph(x)
        found, expected = compiled(graph), ensemble(graph)
        assert list(found) == list(expected) and "forces_std" in found
        assert max(deviations(found, expected).values()) <= 1e-10


@needs_compiler
def test_elements_are_still_checked():
    compiled = build(make_model(CHEAPEST))
    silicon = bulk("Si", cubic=True)
    for numbers in ([14] * 8, [14] * 7 + [32]):
        silicon.numbers = numbers
        if 32 in numbers:
            with pytest.raises(Exception, match="Ge"):
                compiled(compiled.model.graph(silicon))
        else:
            compiled(compiled.model.graph(silicon))


def folder_of(model) -> Path:
    return Artefacts(model).folder


@pytest.fixture
def rebuilt(monkeypatch):
    """Counts builds; what is built is a copy of what the cache holds already, which takes no compiler."""
    model = make_model(CHEAPEST)
    build(model)
    original = (folder_of(model) / "graph.pt2").read_bytes()
    built = []

    def copied(model, example, path):
        built.append(path)
        path.write_bytes(original)

    monkeypatch.setattr(graphs, "_compile", copied)
    monkeypatch.setattr(graphs, "compiler", lambda: "c++")
    return model, built


@needs_compiler
@pytest.mark.parametrize("harm", ["cut", "flipped", "foreign", "unnamed", "writable", "linked", "absent"])
def test_a_damaged_artefact_is_rebuilt(rebuilt, harm, tmp_path):
    model, built = rebuilt
    build(model)
    assert built == []  # it was whole
    folder = folder_of(model)
    path = folder / "graph.pt2"
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[:1000])
    elif harm == "flipped":
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif harm == "foreign":  # a whole one, but of another model
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["identity"]["model"] = "0" * 64
        (folder / "manifest.json").write_text(json.dumps(manifest))
    elif harm == "unnamed":
        (folder / "manifest.json").unlink()
    elif harm == "writable":
        path.chmod(0o666)
    elif harm == "linked":
        path.rename(tmp_path / "elsewhere.pt2")
        path.symlink_to(tmp_path / "elsewhere.pt2")
    else:
        shutil.rmtree(folder)
    assert build(model).origin.startswith("built")
    assert len(built) == 1
    assert build(model).origin.startswith("from the cache")
    assert len(built) == 1
    assert not list(folder.parent.glob(".build-*"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700


@needs_compiler
def test_a_graph_that_computes_something_else_is_not_used(rebuilt):
    model, built = rebuilt
    with torch.no_grad():
        model.epsilon.mul_(1.001)  # the copy that is "built" has the old weights
    told = []
    assert compile_potential(model, told.append) is None
    assert len(built) == 1 and len(told) == 1 and "disagrees" in told[0]
    assert not folder_of(model).exists()


@needs_compiler
def test_a_cache_that_cannot_be_written(rebuilt, monkeypatch, tmp_path):
    model, _ = rebuilt
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    found = build(model)
    assert "for this process alone" in found.origin
    agree(found, model, bulk("Si", cubic=True))


@needs_compiler
def test_a_cache_that_others_can_write_is_not_read(rebuilt, monkeypatch, tmp_path):
    model, built = rebuilt
    shutil.copytree(folder_of(model).parent, tmp_path / "nfflr" / "compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tmp_path / "nfflr" / "compiled"
    root.chmod(0o777)
    assert "for this process alone" in build(model).origin
    root.chmod(0o700)
    assert build(model).origin.startswith("from the cache")
    assert len(built) == 1


@needs_compiler
def test_nothing_beside_a_checkpoint_or_in_the_working_folder_is_read(rebuilt, monkeypatch, tmp_path):
    model, built = rebuilt
    shutil.copytree(folder_of(model).parent, tmp_path / "nfflr" / "compiled")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", ".")  # not absolute, so it does not count
    build(model)
    assert len(built) == 1
    assert (tmp_path / "home" / ".cache" / "nfflr" / "compiled").is_dir()


def build_and_report(home, content, barrier, queue):
    import os

    os.environ["XDG_CACHE_HOME"] = home
    torch.set_num_threads(1)
    nfflr.compiled.KERNELS = {}

    def copied(model, example, path):
        barrier.wait(60)  # both are building now
        path.write_bytes(content)

    graphs._compile, graphs.compiler = copied, lambda: "c++"
    model = make_model(CHEAPEST)
    found = build(model)
    agree(found, model, bulk("Si", cubic=True))
    queue.put(found.origin)


@needs_compiler
def test_two_processes_build_at_once(tmp_path):
    model = make_model(CHEAPEST)
    build(model)
    content = (folder_of(model) / "graph.pt2").read_bytes()
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    arguments = (str(tmp_path), content, barrier, queue)
    processes = [context.Process(target=build_and_report, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    origins = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
    assert all("built" in origin and "alone" not in origin for origin in origins), origins
    left = sorted(path.name for path in (tmp_path / "nfflr" / "compiled").iterdir())
    assert left == [folder_of(model).name]


def test_no_compiler_is_told_in_one_line(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    model = make_model(CHEAPEST)
    calculator = NFFLrCalculator(model, compile=True)
    assert calculator.todict()["compiled"] is False
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert "g++" in caplog.text
    atoms = bulk("Si", cubic=True)
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(float(model(atoms)["total_energy"]), abs=1e-12)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, make_model(CHEAPEST))
    return path


@needs_compiler
def test_commands_evaluate_the_compiled_form(checkpoint, tmp_path, capsys):
    assert run(["compile", "--model", str(checkpoint)]) == 0
    assert f"{CHEAPEST}, float64" in capsys.readouterr().out
    ase.io.write(tmp_path / "si.cif", bulk("Si", cubic=True))
    energies = []
    for name, options in {"compiled": ["--compile"], "plain": []}.items():
        out = ["--out", str(tmp_path / name), *options]
        assert run(["energy", str(tmp_path / "si.cif"), "--model", str(checkpoint), *out]) == 0
        assert ("compiled graph" in capsys.readouterr().out) == bool(options)
        record = json.loads((tmp_path / name / "si-energy.json").read_text())
        assert record["calculator"]["compiled"] == ("graph" if options else False)
        energies.append(record["result"]["energy"])
    assert energies[0] == pytest.approx(energies[1], abs=1e-10)


def test_nff_compile_without_a_compiler(checkpoint, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert run(["compile", "--model", str(checkpoint)]) == 6
    assert "no C++ compiler here; install g++" in capsys.readouterr().err


class Stubborn(type(tiny())):
    """Energies whose form depends on data, which no graph can hold."""

    def energies(self, inputs):
        energies = super().energies(inputs)
        return 2 * energies if float(energies.detach().sum()) > 0 else energies


@needs_compiler
def test_what_cannot_be_traced_is_evaluated_as_before():
    model = Stubborn(tiny().config).double().eval()
    with pytest.raises(NotCompiled, match="Stubborn cannot be compiled"):
        build(model)
    told = []
    assert compile_potential(model, told.append) is None
    assert len(told) == 1 and "\n" not in told[0]


def test_what_the_name_of_an_artefact_depends_on():
    first = identity(make_model(CHEAPEST))
    assert first == identity(make_model(CHEAPEST))
    other = make_model(CHEAPEST)
    with torch.no_grad():
        other.epsilon.add_(1e-12)
    assert identity(other)["model"] != first["model"]
    assert identity(make_model(CHEAPEST, torch.float32)) != first
    assert identity(tiny())["code"] != first["code"]


def test_kernels_are_offered_by_architecture():
    assert set(KERNELS) <= set(architectures())
