"""Models from elsewhere: derivatives against differences, representations, units, files, refusals."""

import copy
import functools
import logging
import pickle

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.units import Bohr, GPa, Hartree, kcal, mol
from torch import nn

from nfflr import Atoms, Graph, NFFLrCalculator, periodic_radius_graph
from nfflr.adapters.wrapped import Wrapped
from nfflr.data.inputs import GhostAtoms, as_graph, from_ghosts
from nfflr.errors import CheckpointError, ConfigError, NumericsError, StructureError
from nfflr.models.committee import Committee
from nfflr.workflows.relaxation import RelaxSettings, relax
from nfflr.workflows.single_point import energy as energy_workflow

CUTOFF = 4.0


def pair_energy(vectors):
    """Σ ½ φ(r) with φ = (ρ⁻⁶ − 2ρ⁻³)·(1 − (r/4)²)³, ρ = r/2.3 and so a minimum near 2.3 Å; (E,) eV."""
    r = vectors.square().sum(1).sqrt()
    inverse = (2.3 / r) ** 3
    return 0.5 * (inverse**2 - 2 * inverse) * (1 - (r / CUTOFF) ** 2).clamp(min=0) ** 3


class Net(nn.Module):
    """A pair potential of one weight; subclasses say what they are given, with bond vectors from it."""

    cutoff = CUTOFF

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def answer(self, vectors, **extra):
        return {"total_energy": self.weight * pair_energy(vectors).sum(), **extra}


class OnGraph(Net):
    def forward(self, x: Graph):
        return self.answer(x.vectors())


class OnAtoms(Net):
    def forward(self, x: Atoms):
        return self.answer(periodic_radius_graph(x, CUTOFF).vectors())


class OnGhosts(Net):
    def forward(self, x: GhostAtoms):
        return self.answer(from_ghosts(x, CUTOFF).vectors())


class OnTensors(Net):
    def forward(self, pos: torch.Tensor, edge_index: torch.Tensor, shifts: torch.Tensor):
        return self.answer(pos[edge_index[0]] - pos[edge_index[1]] + shifts)


class OnVectors(Net):
    def forward(self, z, *, vectors):
        return self.answer(vectors)


class OnDict(Net):
    def forward(self, x: dict[str, torch.Tensor]):
        src, dst = x["edge_index"]
        return self.answer(x["positions"][src] - x["positions"][dst] + x["shifts"])


class OnImages(Net):
    """Writes out 27 cells itself, as a model that wants nothing but positions and cell does."""

    cutoff = None

    def forward(self, positions: torch.Tensor, cell: torch.Tensor) -> dict[str, torch.Tensor]:
        n = torch.arange(-1, 2, dtype=cell.dtype)
        images = torch.cartesian_prod(n, n, n) @ cell  # (27, 3)
        r = positions[None, None] + images[:, None, None] - positions[None, :, None]  # (27, N, N, 3)
        r = r.reshape(-1, 3)
        far = r.square().sum(1) < 1e-6
        r = torch.where(far[:, None], torch.full_like(r, 10.0), r)
        return {"energy": (self.weight * pair_energy(r)).sum()}


class OnAse(Net):
    def forward(self, x: ase.Atoms):
        graph = periodic_radius_graph(x, CUTOFF)
        vectors = graph.vectors().requires_grad_()
        slopes = torch.autograd.grad(self.answer(vectors)["total_energy"], vectors)[0]
        forces = torch.zeros(len(x), 3, dtype=torch.float64).index_add(0, graph.dst, slopes)
        return self.answer(vectors, forces=forces.index_add(0, graph.src, -slopes))


def on_dgl():
    dgl = pytest.importorskip("dgl")

    class OnDgl(Net):
        def forward(self, x: dgl.DGLGraph):
            return self.answer(x.edata["r"])

    return OnDgl()


def on_pyg():
    data = pytest.importorskip("torch_geometric.data")

    class OnPyg(Net):
        def forward(self, x: data.Data):
            src, dst = x.edge_index
            return self.answer(x.pos[src] - x.pos[dst] + x.edge_shift)

    return OnPyg()


DIFFERENTIABLE = {
    "graph": OnGraph,
    "atoms": OnAtoms,
    "ghosts": OnGhosts,
    "tensors": OnTensors,
    "vectors": OnVectors,
    "dict": OnDict,
    "dgl": on_dgl,
    "pyg": on_pyg,
}


def five_points(function, h):
    low2, low, high, high2 = (function(k * h) for k in (-2, -1, 1, 2))
    return (low2 - 8 * low + 8 * high - high2) / (12 * h)


def check_derivatives(calc, atoms):
    """Forces and, with a cell, stress against five-point differences of the energy, to 1e-7."""
    atoms = atoms.copy()
    atoms.calc = calc
    forces, start = atoms.get_forces(), atoms.copy()
    for index in [(0, 0), (1, 2), (len(atoms) - 1, 1)]:

        def moved(step, index=index):
            atoms.positions = start.positions
            atoms.positions[index] += step
            return atoms.get_potential_energy()

        assert -five_points(moved, 1e-3) == pytest.approx(forces[index], abs=1e-7 * np.abs(forces).max())
    atoms.positions = start.positions
    if "stress" not in calc.implemented_properties or not (atoms.pbc.any() and atoms.cell.rank == 3):
        return
    stress = atoms.get_stress(voigt=False)
    for i, j in [(0, 0), (2, 2), (0, 1), (1, 2)]:

        def strained(step, i=i, j=j):
            deform = np.eye(3)
            deform[i, j] += step / 2
            deform[j, i] += step / 2
            atoms.set_cell(start.cell @ deform, scale_atoms=False)
            atoms.positions = start.positions @ deform
            return atoms.get_potential_energy()

        slope = five_points(strained, 1e-4) / start.get_volume()
        assert slope == pytest.approx(stress[i, j], abs=1e-7 * np.abs(stress).max())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forces_and_stress_that_a_model_does_not_return_are_derived(name, structures):
    calc = NFFLrCalculator(DIFFERENTIABLE[name]())
    assert calc.implemented_properties == ["energy", "free_energy", "forces", "stress"]
    reference = NFFLrCalculator(OnGraph())
    for atoms in (structures.triclinic(), structures.slab(), structures.cluster(bond=2.0)):
        check_derivatives(calc, atoms)
        calc.calculate(atoms)
        reference.calculate(atoms)
        assert calc.results.keys() == reference.results.keys()
        for key, value in reference.results.items():
            assert calc.results[key] == pytest.approx(value, abs=1e-10)


def test_a_model_that_wants_no_neighbours_from_us(structures):
    atoms = structures.crystal()
    calc = NFFLrCalculator(OnImages())
    assert calc.model.cutoff is None
    check_derivatives(calc, atoms)
    calc.calculate(atoms)
    expected = NFFLrCalculator(OnGraph())
    expected.calculate(atoms)
    for key, value in expected.results.items():
        assert calc.results[key] == pytest.approx(value, abs=1e-10)


def test_forces_that_a_model_returns_are_taken_and_nothing_is_made_up(structures):
    calc = NFFLrCalculator(OnAse())
    assert calc.implemented_properties == ["energy", "free_energy", "forces"]  # nothing to differentiate
    check_derivatives(calc, structures.triclinic())
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("stress", structures.triclinic())


def test_an_energy_independent_of_positions_gives_no_forces(structures):
    table = nn.Embedding(100, 1).double()

    def model(numbers: torch.Tensor, positions: torch.Tensor):
        return {"energy": table(numbers).sum()}

    calc = NFFLrCalculator(model, input=("numbers", "positions", "cell")[:2])
    assert calc.implemented_properties == ["energy", "free_energy"]
    atoms = structures.cluster()
    atoms.calc = calc
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_forces()
    result = energy_workflow(structures.cluster(), calc)
    assert result.forces is None and result.energy == pytest.approx(float(5 * table.weight[14].detach()))


def test_a_derivative_that_is_not_the_slope_is_left_out_and_said(caplog):
    def half_detached(x: Graph):  # bonds that do not follow the cell, a classic mistake
        position = x.atoms.positions
        return {"energy": pair_energy(position[x.src] - position[x.dst] + x.shift.detach()).sum()}

    with caplog.at_level(logging.WARNING, logger="nfflr"):
        calc = NFFLrCalculator(half_detached, cutoff=CUTOFF)
    assert calc.implemented_properties == ["energy", "free_energy", "forces"]
    assert "no derivative that could be its stress" in caplog.text


def test_keys_units_and_signs(structures):
    """A model that speaks Hartree, Bohr and GPa gives the numbers of the one that speaks eV and Å."""

    def foreign(pos: torch.Tensor, edge_index: torch.Tensor, shifts: torch.Tensor, cell: torch.Tensor):
        pos, shifts, cell = (t.detach() * Bohr for t in (pos, shifts, cell))
        vectors = (pos[edge_index[0]] - pos[edge_index[1]] + shifts).requires_grad_()
        total = pair_energy(vectors).sum()
        slopes = torch.autograd.grad(total, vectors)[0]
        forces = (
            torch.zeros_like(pos).index_add(0, edge_index[1], slopes).index_add(0, edge_index[0], -slopes)
        )
        virial = vectors.detach().T @ slopes
        sigma = virial / torch.linalg.det(cell).abs()
        parts = {"E": total / len(pos) / Hartree, "f": forces / (Hartree / Bohr), "W": -virial / Hartree}
        return parts | {"p": -sigma / GPa}

    keys, units = {"energy": "E", "forces": "f"}, {"energy": "Hartree/atom", "length": "Bohr"}
    calcs = [
        NFFLrCalculator(
            foreign, cutoff=CUTOFF, keys={**keys, "virial": "W"}, units=units, signs={"virial": -1}
        ),
        NFFLrCalculator(
            foreign,
            cutoff=CUTOFF,
            keys={**keys, "stress": "p"},
            units={**units, "stress": "GPa"},
            signs={"stress": -1},
        ),
    ]
    expected = NFFLrCalculator(OnGraph())
    for calc in calcs:
        for atoms in (structures.triclinic(), structures.crystal()):
            calc.calculate(atoms)
            expected.calculate(atoms)
            for key, value in expected.results.items():
                assert calc.results[key] == pytest.approx(value, rel=1e-10, abs=1e-12)


def test_derivatives_are_in_our_units(structures):
    def molecular(R: torch.Tensor, Z: torch.Tensor):  # in nm and kcal/mol, without periodicity
        i, j = torch.triu_indices(len(R), len(R), 1)
        return {"energy": 2 * pair_energy(10 * (R[j] - R[i])).sum() / (kcal / mol)}

    calc = NFFLrCalculator(molecular, units={"energy": "kcal/mol", "length": "nm"})
    assert "stress" not in calc.implemented_properties
    check_derivatives(calc, structures.cluster(bond=2.0))
    reference = NFFLrCalculator(OnGraph())
    atoms = structures.cluster(bond=2.0)
    assert calc.get_potential_energy(atoms) == pytest.approx(reference.get_potential_energy(atoms), rel=1e-12)
    with pytest.raises(StructureError, match="is periodic, and molecular takes neither a cell nor bonds"):
        calc.get_potential_energy(structures.crystal())


def test_tuples_and_tensors_by_index(structures):
    def one(x: Graph):
        return pair_energy(x.vectors()).sum()[None, None]

    def two(x: Graph):
        return pair_energy(x.vectors()).sum(), torch.zeros(len(x.atoms), dtype=torch.float64)

    atoms = structures.triclinic()
    expected = NFFLrCalculator(OnGraph()).get_potential_energy(atoms)
    calc = NFFLrCalculator(one, cutoff=CUTOFF, keys={"energy": 0})
    assert calc.get_potential_energy(atoms) == expected
    calc = NFFLrCalculator(two, cutoff=CUTOFF, keys={"energy": 0, "energies": 1})
    assert "energies" in calc.implemented_properties and not calc.get_property("energies", atoms).any()
    with pytest.raises(ConfigError, match="returned a Tensor; expected a dict with 'energy'"):
        NFFLrCalculator(one, cutoff=CUTOFF)


def exported(example: ase.Atoms):
    n = torch.export.Dim("n", min=2)
    graph = as_graph(example, CUTOFF)
    shapes = {"positions": {0: n}, "cell": None}
    return torch.export.export(
        OnImages(), (graph.atoms.positions, graph.atoms.cell), dynamic_shapes=shapes, strict=False
    )


@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's advice to export instead
@pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")  # within torch, where it copies
@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_files_of_programs(kind, tmp_path, structures):
    path = tmp_path / "model.pt"
    with torch.random.fork_rng(devices=[]):
        if kind == "TorchScript":
            torch.jit.script(Scripted()).save(path)
        else:
            path = path.with_suffix(".pt2")
            torch.export.save(exported(structures.crystal()), path)
    with pytest.raises(CheckpointError, match=f"holds a program \\({kind}\\).*give trust=True"):
        NFFLrCalculator.load(path)
    calc = NFFLrCalculator.load(path, trust=True)
    assert calc.implemented_properties == ["energy", "free_energy", "forces", "stress"]
    assert len(calc.todict()["digest"]) == 64 and calc.todict()["source"] == str(path)
    atoms = structures.crystal()
    check_derivatives(calc, atoms)
    expected = NFFLrCalculator(OnImages()).get_potential_energy(atoms)
    assert calc.get_potential_energy(atoms) == pytest.approx(expected, abs=1e-10)
    assert copy.deepcopy(calc).get_potential_energy(atoms) == calc.get_potential_energy(atoms)
    other = NFFLrCalculator.load(path, trust=True, units={"energy": "kcal/mol"})
    assert other.todict()["digest"] != calc.todict()["digest"]
    assert other.get_potential_energy(atoms) == pytest.approx(expected * kcal / mol, rel=1e-12)
    with pytest.raises(TypeError, match="no option 'units' here"):
        NFFLrCalculator.load("mlearn-si-fast", units={})
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises((CheckpointError, ConfigError)):
        NFFLrCalculator.load(path, trust=True)


class Scripted(nn.Module):
    """As ``OnImages``, in the subset of Python that TorchScript has."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, positions: torch.Tensor, cell: torch.Tensor) -> dict[str, torch.Tensor]:
        n = torch.arange(-1, 2, device=cell.device).to(cell.dtype)
        images = torch.cartesian_prod([n, n, n]) @ cell
        r = positions[None, None] + images[:, None, None] - positions[None, :, None]
        r = r.reshape(-1, 3)
        r = r[r.square().sum(1) > 1e-6]
        d = r.square().sum(1).sqrt()
        inverse = (2.3 / d) ** 3
        smooth = (1 - (d / 4.0) ** 2).clamp(min=0.0) ** 3
        return {"energy": self.weight * (0.5 * (inverse**2 - 2 * inverse) * smooth).sum()}


def test_the_ase_contract(structures):
    net = OnGraph()
    calc = NFFLrCalculator(net)
    atoms = structures.slab()
    atoms.calc = calc
    assert type(atoms.get_potential_energy()) is float
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    for array, shape in ((atoms.get_forces(), (4, 3)), (atoms.get_stress(), (6,))):
        assert array.dtype == np.float64 and array.shape == shape and array.flags.c_contiguous
    open_space = structures.slab()
    open_space.pbc = False
    periodic = calc.get_potential_energy(structures.slab())
    assert calc.get_potential_energy(open_space) != periodic and "stress" not in calc.results
    with pytest.raises(PropertyNotImplementedError, match="stress needs a periodic structure"):
        calc.get_property("stress", structures.cluster())
    with torch.no_grad():  # theirs to set; the forces need a gradient all the same
        assert calc.get_forces(structures.slab()) == pytest.approx(atoms.get_forces(), abs=1e-12)
    before = calc.get_potential_energy(structures.slab())
    with torch.no_grad():
        net.weight.mul_(2)  # the caller's: the calculator has a copy
    calc.reset()
    assert calc.get_potential_energy(structures.slab()) == before
    assert calc.todict()["architecture"] == "wrapped(OnGraph)"
    assert NFFLrCalculator(net).todict()["digest"] != calc.todict()["digest"]
    for twin in (copy.deepcopy(calc), pickle.loads(pickle.dumps(calc))):
        assert twin.get_potential_energy(structures.slab()) == before
    many = [structures.slab(), structures.cluster(bond=2.0), structures.crystal()]
    many += [ase.Atoms("Si"), ase.Atoms("C")]  # which have no bonds
    for found, one in zip(calc.evaluate(many), many, strict=True):
        calc.calculate(one)
        assert found.keys() == calc.results.keys()
        for key, value in calc.results.items():
            assert found[key] == pytest.approx(value, abs=1e-12)


def test_the_callers_model_is_left_as_it_is():
    class Counting(OnGraph):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1).double()

        def forward(self, x: Graph):
            self.norm(torch.ones(4, 1, dtype=torch.float64))
            return super().forward(x)

    net = Counting().train()
    NFFLrCalculator(net)
    assert net.training and int(net.norm.num_batches_tracked) == 0


def test_single_precision_models(structures):
    atoms, exact = structures.triclinic(), NFFLrCalculator(OnTensors())
    calc = NFFLrCalculator(OnTensors().float())
    assert calc.todict()["dtype"] == "float32"
    for key in ("forces", "stress"):
        expected = exact.get_property(key, atoms)
        assert calc.get_property(key, atoms) == pytest.approx(expected, abs=1e-5 * np.abs(expected).max())
    double = NFFLrCalculator(OnTensors().float(), dtype="float64")
    assert double.get_forces(atoms) == pytest.approx(exact.get_forces(atoms), abs=1e-7)


def test_wrapped_members_of_an_ensemble(structures):
    members = []
    for weight in (1.0, 1.1, 1.3):
        net = OnTensors()
        nn.init.constant_(net.weight, weight)
        members.append(Wrapped(net))
    calc, atoms = NFFLrCalculator(Committee(members)), structures.triclinic()
    single = NFFLrCalculator(OnTensors()).get_potential_energy(atoms)
    std = np.std([1.0, 1.1, 1.3], ddof=1)
    assert calc.get_potential_energy(atoms) == pytest.approx(single * 3.4 / 3, rel=1e-10)
    assert calc.results["energy_std"] == pytest.approx(abs(single) * std, rel=1e-9)
    forces = NFFLrCalculator(OnTensors()).get_forces(atoms)
    assert calc.results["forces_std"] == pytest.approx(np.linalg.norm(forces, axis=1) * std, rel=1e-9)


def test_it_relaxes_a_crystal_to_where_its_own_energy_is_lowest():
    atoms = bulk("Ar", "fcc", a=3.6, cubic=True)
    atoms.rattle(0.05, seed=0)
    calc = NFFLrCalculator(OnTensors())
    result = relax(atoms, calc, RelaxSettings(cell=True, fmax=1e-4, optimizer="bfgs"))
    assert result.converged and abs(result.pressure) < 0.01
    lengths = np.linspace(0.99, 1.01, 21) * result.volume ** (1 / 3)
    energies = [calc.get_potential_energy(bulk("Ar", "fcc", a=a, cubic=True)) for a in lengths]
    assert int(np.argmin(energies)) == 10 and result.energy == pytest.approx(min(energies), abs=1e-6)


class Unannotated(nn.Module):
    """As the overview has it: ``forward(x: Atoms)``, the annotation left out."""

    def forward(self, x, scale=1.0, *others, **more):
        assert isinstance(x, Atoms)
        return {"total_energy": scale * pair_energy(torch.pdist(x.positions)[:, None]).sum()}


class Graphless(nn.Module):
    def forward(self, g):
        return {"total_energy": g.ndata["x"].sum()}


class TwoThings(nn.Module):
    def forward(self, x, y):
        return {}


def test_a_module_that_does_not_say_what_it_takes_is_given_atoms():
    atoms = molecule("CH4")
    atoms.calc = NFFLrCalculator(Unannotated())
    distances = atoms.get_all_distances()[np.triu_indices(5, 1)]
    expected = float(pair_energy(torch.tensor(distances)[:, None]).sum())
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-12)
    assert np.abs(atoms.get_forces()).max() > 1e-3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Graphless(), r"Graphless: failed when it was tried on Si2 \(AttributeError.*or input="),
        (TwoThings(), r"TwoThings\(x, y\): the signature does not say"),
        (torch.jit.script(nn.Identity()), "the signature does not say"),  # it takes a tensor, not said which
    ],
)
def test_a_module_for_which_atoms_are_wrong_is_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        NFFLrCalculator(model)


def wrong(**output):
    return lambda: NFFLrCalculator(lambda positions, cell: output)


def failing(positions):
    raise KeyError("Si")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NFFLrCalculator(3), "a int cannot be called"),
        (lambda: NFFLrCalculator(lambda x: {}), r"<lambda>\(x\): the signature does not say"),
        (lambda: NFFLrCalculator(lambda x: {}, input="grahp"), "got 'grahp'.*did you mean 'graph'"),
        (lambda: NFFLrCalculator(lambda x: {}, input=("position",)), "did you mean 'positions'"),
        (lambda: NFFLrCalculator(lambda x: {}, input="graph"), "give cutoff= in Å"),
        (lambda: NFFLrCalculator(OnGraph(), cutoff=-1), "got -1; expected a length"),
        (lambda: NFFLrCalculator(OnGraph(), units={"energy": "kcal/mo"}), "'mo' is no known.*'mol'"),
        (lambda: NFFLrCalculator(OnGraph(), units={"energy": "Å"}), "'Å' is no unit of energy"),
        (lambda: NFFLrCalculator(OnGraph(), units={"lenght": "Å"}), "did you mean 'length'"),
        (lambda: NFFLrCalculator(OnGraph(), keys={"force": "f"}), "did you mean 'forces'"),
        (lambda: NFFLrCalculator(OnGraph(), keys={"forces": "f"}), "returned no 'f' for the forces; it ret"),
        (lambda: NFFLrCalculator(OnGraph(), signs={"stress": 2}), "expected 1 or -1"),
        (lambda: NFFLrCalculator(OnGraph(), elements=["Xy"]), "expected chemical symbols"),
        (lambda: NFFLrCalculator(failing), r"tried on Si2 \(KeyError: 'Si'\); give elements="),
        (wrong(density=torch.ones(3)), r"returned \['density'\], no energy"),
        (wrong(energy=torch.tensor(1.0), virial=torch.eye(3)), "two signs; give signs=.*−V σ"),
    ],
)
def test_what_cannot_be_is_refused_at_once(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_wrong_results_are_named(structures):
    with pytest.raises(NumericsError, match=r"'forces' has the shape \(3, 2\); expected \(2, 3\)"):
        wrong(energy=torch.tensor(1.0), forces=torch.ones(3, 2))()
    with pytest.raises(NumericsError, match=r"'energy' has the shape \(2,\); expected \(\)"):
        wrong(energy=torch.ones(2))()
    with pytest.raises(TypeError, match="no option 'unit' here; did you mean 'units'"):
        NFFLrCalculator(OnGraph(), unit={})

    def blows_up(x: Graph):
        return {"energy": pair_energy(x.vectors()).sum() + (torch.nan if len(x.atoms) > 4 else 0.0)}

    calc = NFFLrCalculator(blows_up, cutoff=CUTOFF)
    with pytest.raises(NumericsError, match="the model's energy is not finite"):
        calc.get_potential_energy(structures.crystal())
    calc = NFFLrCalculator(OnGraph(), elements=["Si", "C"])
    with pytest.raises(StructureError, match="element Ge is not covered by this model; it knows Si, C"):
        structures.crystal(("Ge",)).calc = calc


def test_partial_functions_and_optional_parameters(structures):
    def model(scale, positions, edge_index, shifts, extra=None, charge=0):
        vectors = positions[edge_index[0]] - positions[edge_index[1]] + shifts
        return {"energy": scale * pair_energy(vectors).sum()}

    atoms = structures.triclinic()
    calc = NFFLrCalculator(functools.partial(model, 2.0), cutoff=CUTOFF)
    assert calc.get_potential_energy(atoms) == pytest.approx(
        2 * NFFLrCalculator(OnGraph()).get_potential_energy(atoms), rel=1e-12
    )
