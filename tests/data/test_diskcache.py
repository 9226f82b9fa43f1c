"""The disk cache: keyed by content and settings, whole or absent, made again if damaged, never unpickled."""

import dataclasses
import multiprocessing
import pickle
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from builders import CUTOFF, copper, radius_graph, tiny
from torch.utils.data import DataLoader

import nfflr
from nfflr.data import diskcache
from nfflr.data.dataset import AtomsDataset, collate
from nfflr.data.diskcache import DiskCache, identity, portable
from nfflr.data.graph import Graph, periodic_radius_graph
from nfflr.data.inputs import GhostAtoms, as_graph, with_ghosts
from nfflr.errors import ConfigError, ResourceError, StructureError

pytest.importorskip("dgl")
pytest.importorskip("torch_geometric")

built = []


@portable
@dataclass(frozen=True)
class Mine:
    """A representation of a user's own."""

    numbers: torch.Tensor
    graph: Graph
    notes: dict
    weight: float


@as_graph.register
def _(x: Mine, r):
    return x.graph


def to_graph(atoms):
    built.append(len(atoms))
    return periodic_radius_graph(atoms, CUTOFF)


def to_dgl(atoms, r=CUTOFF):
    return nfflr.data.to_dgl(periodic_radius_graph(atoms, r))


def to_pyg(atoms):
    return nfflr.data.to_pyg(periodic_radius_graph(atoms, CUTOFF))


def to_ghosts(atoms):
    return with_ghosts(nfflr.Atoms.from_ase(atoms), CUTOFF)


def to_atoms(atoms):
    return nfflr.Atoms.from_ase(atoms)


def to_ase(atoms):
    return atoms


def to_mine(atoms):
    graph = periodic_radius_graph(atoms, CUTOFF)
    return Mine(graph.atoms.numbers, graph, {"list": [1, None, True], "pair": (2.5, "x")}, float("inf"))


TRANSFORMS = [radius_graph, to_dgl, to_pyg, to_ghosts, to_atoms, to_ase, to_mine]


def equal(a, b) -> bool:
    """Exact equality of whatever a transform returns."""
    if type(a).__name__ == "DGLGraph":
        frames = [(a.ndata, b.ndata), (a.edata, b.edata)]
        ends = zip(a.edges(), b.edges(), strict=True)
        return all(equal(x, y) for x, y in ends) and all(equal(dict(x), dict(y)) for x, y in frames)
    if type(a).__name__ == "Data":
        return equal(a.to_dict(), b.to_dict())
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and equal(vars(a), vars(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda f: f.__name__)
def test_what_comes_back_is_exactly_what_was_made(tmp_path, transform):
    cache = DiskCache(tmp_path, transform)
    for atoms in copper(3):
        atoms.calc = None
        made, found = cache(atoms), cache(atoms)
        assert found is not made and equal(found, made) and equal(found, transform(atoms))
    assert len(entries(tmp_path)) == 3


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda f: f.__name__)
def test_every_representation_is_loaded_by_workers_and_cached(tmp_path, transform):
    model = tiny()
    with torch.no_grad():
        model.scale.fill_(2.0)
    structures = copper(8)
    expected = model(periodic_radius_graph(structures, CUTOFF))
    options = {"n_train": 6, "n_val": 2, "transform": transform, "diskcache": tmp_path}
    for _ in range(2):  # once to make, once to read
        data = AtomsDataset(structures, **options)
        found = []
        for inputs, labels in DataLoader(data, 4, collate_fn=collate, num_workers=2):
            output = model(inputs)
            assert len(labels["total_energy"]) == 4 and len(labels["forces"]) == int(labels["n_atoms"].sum())
            found.append(output)
        for name in ("total_energy", "forces"):
            torch.testing.assert_close(
                torch.cat([f[name] for f in found]), expected[name], rtol=1e-10, atol=1e-10
            )
    assert len(entries(tmp_path)) == 8


def test_collate_gives_each_representation_its_own_batch():
    structures = copper(3)
    kinds = {}
    for transform in TRANSFORMS:
        data = AtomsDataset(structures, n_train=2, n_val=1, transform=transform)
        kinds[transform.__name__] = type(collate([data[k] for k in range(3)])[0]).__name__
    assert kinds == {
        "radius_graph": "Graph", "to_dgl": "DGLGraph", "to_pyg": "DataBatch", "to_atoms": "Atoms",
        "to_ghosts": "list", "to_ase": "list", "to_mine": "list",
    }  # fmt: skip


def test_graphs_are_made_once_for_all_runs_and_read_afterwards(tmp_path):
    for run in range(2):
        built.clear()
        data = AtomsDataset(copper(6), transform=to_graph, diskcache=tmp_path)
        graphs = [data[k][0] for k in range(6)] + [data[k][0] for k in range(6)]
        assert len(built) == (6 if run == 0 else 0)
        assert equal(graphs[0], graphs[6]) and graphs[0] is not graphs[6]  # not held in memory


def test_true_means_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = AtomsDataset(copper(4), diskcache=True)
    assert entries(tmp_path) == []  # nothing before it is needed
    data[0], data.within(3.0)[0], data.within(4.0)[0]
    assert len(entries(tmp_path / "nfflr" / "graphs")) == 3
    assert data.within(3.0)[0][0].cutoff == 3.0 and data.within(4.0)[0][0].cutoff == 4.0


def test_no_cache_is_kept_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    AtomsDataset(copper(4))[0]
    assert entries(tmp_path) == []


def shift(atoms):
    atoms.positions[0, 0] = np.nextafter(atoms.positions[0, 0], 9.0)


def open_axis(atoms):
    atoms.pbc[1] = False


def strain(atoms):
    atoms.cell[2, 2] += 1e-14


def transmute(atoms):
    atoms.numbers[1] = 47


@pytest.mark.parametrize("change", [shift, open_axis, strain, transmute], ids=lambda f: f.__name__)
def test_the_key_changes_with_any_bit_of_the_structure(tmp_path, change):
    cache = DiskCache(tmp_path, radius_graph)
    (atoms,) = copper(1)
    before = cache.path(atoms)
    assert cache.path(atoms.copy()) == before
    change(atoms)
    assert cache.path(atoms) != before


def test_the_key_changes_with_the_transform_its_arguments_and_the_version(monkeypatch):
    (atoms,) = copper(1)

    def path():
        return DiskCache("x", partial(periodic_radius_graph, r=4.0)).path(atoms)

    transforms = [radius_graph, to_graph, to_dgl, partial(to_dgl, r=4.0), partial(to_dgl, r=4.0 + 1e-15)]
    transforms += [
        partial(periodic_radius_graph, r=r, backend=b) for r in (4.0, 5) for b in ("auto", "vesin")
    ]
    assert len({identity(t) for t in transforms}) == len(transforms)
    assert identity(partial(to_dgl, r=4.0)) == identity(partial(to_dgl, r=4.0))
    before = path()
    assert path() == before
    monkeypatch.setattr(diskcache, "__version__", "99")
    assert path() != before


MODULE = """
from nfflr.data.graph import periodic_radius_graph
RADIUS = {radius}
def helper(atoms):
    return periodic_radius_graph(atoms, RADIUS)
def transform(atoms{default}):
    {comment}return helper(atoms)
"""


def test_the_key_changes_with_source_helpers_constants_and_defaults(tmp_path):
    found = {}
    plain = {"radius": 4.0, "default": "", "comment": ""}
    variants = {
        "plain": plain,
        "again": plain,
        "constant": {**plain, "radius": 4.5},
        "default": {**plain, "default": ", scale=2"},
        "source": {**plain, "comment": "x = 1; "},
    }
    for name, fields in variants.items():
        path = tmp_path / name / "mine.py"
        path.parent.mkdir()
        path.write_text(MODULE.format(**fields))
        names = {"__name__": "mine"}
        exec(compile(path.read_text(), str(path), "exec"), names)
        found[name] = identity(names["transform"])
    path.write_text(MODULE.format(**plain).replace("return periodic", "return  periodic"))
    names = {"__name__": "mine"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    found["helper"] = identity(names["transform"])
    assert found["plain"] == found["again"]
    assert len(set(found.values())) == len(found) - 1


def make_closure(radius):
    def inner(atoms):
        return periodic_radius_graph(atoms, radius)

    return inner


class Callable:
    def __call__(self, atoms):
        return periodic_radius_graph(atoms, 4.0)


@pytest.mark.parametrize(
    "transform",
    [lambda a: periodic_radius_graph(a, 4.0), make_closure(4.0), Callable(), partial(lambda a, r: a, r=1),
     partial(to_dgl, r=object()), partial(to_dgl, r=make_closure(1.0))],
    ids=["lambda", "closure", "instance", "partial of a lambda", "odd argument", "closure as argument"],
)  # fmt: skip
def test_what_has_no_identity_is_refused_at_once(tmp_path, transform):
    with pytest.raises(ConfigError, match=r"use functools\.partial of a named function") as caught:
        AtomsDataset(copper(4), transform=transform, diskcache=tmp_path / "cache")
    assert caught.value.exit_code == 2 and not (tmp_path / "cache").exists()


def test_a_result_that_cannot_be_stored_is_refused(tmp_path):
    data = AtomsDataset(copper(4), transform=opaque, diskcache=tmp_path)
    with pytest.raises(ConfigError, match="returns a object, which cannot be stored; mark it with"):
        data[0]
    assert entries(tmp_path) == []


def opaque(atoms):
    return object()


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "header", "pickle", "other", "unknown class"])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    cache = DiskCache(tmp_path / "cache", to_mine)
    first, second = copper(2)
    expected, _ = cache(first), cache(second)
    path, whole = cache.path(first), cache.path(first).read_bytes()
    canary = tmp_path / "executed"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (canary,))

    from nfflr.storage.sealed import seal

    unknown = seal({}, {"outline": {"class": "os.system", "fields": {}}}, diskcache.KIND)
    path.write_bytes({
        "cut": whole[:-7], "empty": b"", "flip": bytes(flipped), "header": b"\xff" * 8 + whole[8:],
        "pickle": pickle.dumps(Hostile()), "other": seal({}, {}, "something"), "unknown class": unknown,
    }[damage])  # fmt: skip
    assert equal(cache(first), expected)
    assert path.read_bytes() == whole and not canary.exists()


def test_bad_data_leave_no_cache(tmp_path):
    structures = copper(6)
    structures[3].calc.results["forces"] = np.zeros((1, 3))
    with pytest.raises(StructureError, match=r"structures\[3\]"):
        AtomsDataset(structures, diskcache=tmp_path / "cache")
    twins = copper(4)
    twins[2].positions[1] = twins[2].positions[0]
    data = AtomsDataset(twins, diskcache=tmp_path / "cache", n_train=3, n_val=1)
    with pytest.raises(StructureError, match=r"^structures\[2\]: .*coincide"):
        data[2]
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    data = AtomsDataset(copper(4), diskcache=tmp_path / "file")
    with pytest.raises(ResourceError, match=r"file: cannot be written.*choose another folder"):
        data[0]


def write(folder, structures, forever, started):
    """Body of a process: fill the cache once, or over and over."""
    torch.set_num_threads(1)  # the parent's threads are not there after a fork; to wait for them is to hang
    cache = DiskCache(folder, radius_graph)
    for atoms in structures:
        cache(atoms)
        started.set()
    while forever:
        for atoms in structures:
            cache.path(atoms).unlink(missing_ok=True)
            cache(atoms)


def start(folder, structures, forever):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=write, args=(folder, structures, forever, started), daemon=True)
    process.start()
    assert started.wait(60)
    return process


def test_a_kill_at_any_moment_leaves_whole_entries(tmp_path):
    structures, cache = copper(40, seed=1), DiskCache(tmp_path, radius_graph)
    for k in range(12):
        process = start(tmp_path, structures, forever=True)
        time.sleep(0.0137 * k)
        process.kill()
        process.join()
        present = [atoms for atoms in structures if cache.path(atoms).exists()]
        assert present  # it was at work
        for atoms in present:
            found = diskcache._load(cache.path(atoms))
            assert found is not None and equal(found[0], radius_graph(atoms))


def test_processes_that_write_the_same_entries_do_not_disturb_each_other(tmp_path):
    structures = copper(40, seed=1)
    processes = [start(tmp_path, structures, forever=False) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    cache = DiskCache(tmp_path, radius_graph)
    assert len(entries(tmp_path)) == 40  # and no temporary file
    assert all(diskcache._load(cache.path(atoms)) is not None for atoms in structures)


def test_ghosts_are_ghosts_again(tmp_path):
    cache = DiskCache(tmp_path, to_ghosts)
    (atoms,) = copper(1)
    cache(atoms)
    found = cache(atoms)
    assert isinstance(found, GhostAtoms) and torch.isinf(found.positions[found.owner < 0]).all()
    assert isinstance(DiskCache(tmp_path, to_ase)(atoms), ase.Atoms)
