"""LMDB: written whole, read on demand, damage named, nothing executed, usable from many processes."""

import pickle
import tempfile
import tracemalloc
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from builders import copper, radius_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from nfflr.data.dataset import AtomsDataset, collate
from nfflr.data.records import Reading, Record
from nfflr.data.sources import lmdb_store
from nfflr.data.sources.lmdb_store import write_lmdb
from nfflr.errors import ConfigError, ResourceError, StructureError

lmdb = pytest.importorskip("lmdb")
JARVIS = Path(__file__).parent / "jarvis"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "copper.lmdb"
    write_lmdb(path, copper(12))
    return path


def raw(path, change):
    """Change values by key, below this package's reach."""
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as t:
        change(t)


def test_a_round_trip_is_exact_and_lazy(path):
    memory, disk = AtomsDataset(copper(12)), AtomsDataset(path)
    assert isinstance(disk.records, Reading) and disk.split == memory.split
    for a, b in zip(memory.records, disk.records, strict=True):
        assert np.array_equal(a.atoms.positions, b.atoms.positions) and a.atoms == b.atoms
        assert {k: v.tobytes() for k, v in a.labels.items()} == {k: v.tobytes() for k, v in b.labels.items()}
    assert disk.records[3] is not disk.records[3]  # made anew, not held
    assert disk[3][0] is not disk[3][0]
    assert disk.elements == ("Cu",) and len(disk.part("val")) == 1


def test_records_of_a_data_set_round_trip_with_their_digest(tmp_path):
    source = JARVIS / "jarvis_records.json"
    targets = ("formation_energy_peratom", "optb88vdw_bandgap")
    first = AtomsDataset(source, targets, allow_missing=True)
    assert write_lmdb(tmp_path / "jarvis_records.json.lmdb", first.records) == 30
    second = AtomsDataset(tmp_path / "jarvis_records.json.lmdb", targets, allow_missing=True)
    assert second.quantities == first.quantities
    for a, b in zip(first.records, second.records, strict=True):
        assert a.atoms == b.atoms and a.id.partition("[")[2] == b.id.partition("[")[2]
        assert {k: float(v) for k, v in a.labels.items()} == {k: float(v) for k, v in b.labels.items()}


def test_classes_and_vectors_are_kept(tmp_path):
    structures = copper(6)
    for k, atoms in enumerate(structures):
        atoms.info.update(phase="fcc" if k % 2 else "liquid", dipole3=np.arange(3.0) * k, stable=k > 2)
    write_lmdb(tmp_path / "c.lmdb", structures)
    dataset = AtomsDataset(tmp_path / "c.lmdb", ("phase", "dipole3", "stable"), n_train=4, n_val=2)
    assert dataset.classes == {"phase": ("fcc", "liquid"), "stable": ("False", "True")}
    labels = dataset[4][1]
    assert (
        int(labels["phase"]) == 1 and labels["dipole3"].tolist() == [0, 4, 8] and int(labels["stable"]) == 1
    )


def test_a_generator_is_written_without_being_held(tmp_path):
    alive = []

    def structures():
        for k in range(1200):  # more than one transaction
            alive.append(k)
            yield copper_atoms.copy()

    copper_atoms = copper(1)[0]
    copper_atoms.calc = None
    assert write_lmdb(tmp_path / "many.lmdb", structures()) == 1200 and len(alive) == 1200
    assert len(lmdb_store.read(tmp_path / "many.lmdb")) == 1200


def test_more_room_is_made_when_the_map_is_full(tmp_path, monkeypatch):
    opened = lmdb.open
    monkeypatch.setattr(
        lmdb, "open", lambda *a, **k: opened(*a, **{**k, **({"map_size": 2**16} if "map_size" in k else {})})
    )
    assert write_lmdb(tmp_path / "c.lmdb", copper(60)) == 60
    assert len(AtomsDataset(tmp_path / "c.lmdb")) == 60


def test_a_failing_write_leaves_nothing(tmp_path):
    structures = copper(3)
    structures[1].positions[0] = np.nan
    with pytest.raises(StructureError, match="atom 0 has a coordinate that is not finite"):
        write_lmdb(tmp_path / "c.lmdb", structures)
    with pytest.raises(StructureError, match="no records to write"):
        write_lmdb(tmp_path / "c.lmdb", [])
    odd = Record("x[0]", "all", copper(1)[0], {"label": np.array(["a", "b"])})
    with pytest.raises(StructureError, match=r"x\[0\]: label is"):
        write_lmdb(tmp_path / "c.lmdb", [odd])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ResourceError, match="cannot be written"):
        write_lmdb(tmp_path / "none" / "c.lmdb", copper(1))
    with pytest.raises(ConfigError, match=r"ends in \.lmdb"):
        write_lmdb(tmp_path / "c.db", copper(1))


def test_a_failing_write_keeps_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(StructureError):
        write_lmdb(path, [])
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["copper.lmdb"]


def test_the_same_file_may_be_opened_twice_and_replaced(path):
    first = AtomsDataset(path)
    second = AtomsDataset(path, n_train=6, n_val=6)
    assert len(first) == len(second) == 12
    write_lmdb(path, copper(5))
    assert len(AtomsDataset(path)) == 5
    with pytest.raises(StructureError, match="was replaced while in use"):
        first.records[0]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused_and_kills_nobody(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StructureError, match=r"copper\.lmdb") as caught:
        AtomsDataset(path)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_record_names_it(path):
    key = (7).to_bytes(8, "big")

    def flip(transaction):
        content = bytearray(transaction.get(key))
        content[len(content) // 2] ^= 16
        transaction.put(key, bytes(content))

    raw(path, flip)
    with pytest.raises(StructureError, match=r"copper\.lmdb: record 7"):
        AtomsDataset(path)


def test_a_missing_record_a_missing_index_and_another_programs_file(path, tmp_path):
    raw(path, lambda t: t.delete((3).to_bytes(8, "big")))
    with pytest.raises(StructureError, match="does not hold the 12 records it promises"):
        AtomsDataset(path)
    bare = tmp_path / "bare.lmdb"
    write_lmdb(bare, copper(2))
    raw(bare, lambda t: t.delete(b"nfflr"))
    with pytest.raises(StructureError, match="index is missing; expected a file made by nfflr's write_lmdb"):
        AtomsDataset(bare)
    (tmp_path / "text.lmdb").write_text("nonsense" * 2000)
    with pytest.raises(StructureError, match=r"text\.lmdb"):
        AtomsDataset(tmp_path / "text.lmdb")


def test_a_pickle_inside_is_never_executed(path, tmp_path):
    canary = tmp_path / "executed"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (canary,))

    raw(path, lambda t: t.put((2).to_bytes(8, "big"), pickle.dumps(Hostile())))
    with pytest.raises(StructureError, match="record 2 is of another kind"):
        AtomsDataset(path)
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same_batches(path, context):
    dataset = AtomsDataset(path, transform=radius_graph)
    expected = [collate([dataset[k] for k in range(s, s + 4)]) for s in (0, 4, 8)]
    dataset = pickle.loads(pickle.dumps(dataset))  # as other processes get it
    loader = DataLoader(dataset, 4, collate_fn=collate, num_workers=2, multiprocessing_context=context)
    for (graph, labels), (graph2, labels2) in zip(loader, expected, strict=True):
        assert graph.shift.equal(graph2.shift) and labels["forces"].equal(labels2["forces"])


def test_memory_does_not_grow_with_the_set(tmp_path, monkeypatch):
    path = tmp_path / "big.lmdb"
    monkeypatch.setattr(lmdb_store, "CHUNK", 10)
    tracemalloc.start()
    write_lmdb(path, (copper_cells(k) for k in range(200)))
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    dataset = AtomsDataset(path)
    dataset.digest(), dataset.elements, sum(len(r.atoms) for r in dataset.part("train"))
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = path.stat().st_size
    assert len(dataset) == 200 and size > 6e6
    assert read < size / 3  # the splits, checks and digest hold no structure
    assert written < size / 3


def copper_cells(k):
    """A big cell that differs from all others, with labels that pass every check."""
    from ase.build import bulk
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = bulk("Cu", cubic=True).repeat((5, 5, 5))
    atoms.positions += 0.05 * np.random.default_rng(k).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5 * len(atoms), forces=np.zeros((len(atoms), 3)))
    return atoms


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
KINDS = st.sampled_from(["<f8", ">f8", "<f4", ">f4", ">i4", "<i8", ">i2", "u1", "?", "<f2"])


@st.composite
def laid_out(draw) -> np.ndarray:
    """An array of any layout in memory: transposed, reversed, with steps, in either byte order."""
    kind, shape = np.dtype(draw(KINDS)), draw(SHAPES)
    numbers = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 100, (*shape, 2)).astype(kind)
    array = numbers[..., draw(st.integers(0, 1))]  # steps of two
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    for axis in range(array.ndim):
        if draw(st.booleans()):
            array = np.flip(array, axis)
    return np.asfortranarray(array) if draw(st.booleans()) else array


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["forces", "magmoms", "x", "born_charges"]),
        st.one_of(
            laid_out(), st.floats(allow_nan=False), st.booleans(), st.text(max_size=5), st.integers(-9, 9)
        ),
        max_size=3,
    ),
    laid_out(),
)
def test_values_of_any_layout_round_trip(values, extra):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.lmdb"
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.positions = np.asfortranarray(atoms.positions)[::-1]
        write_lmdb(path, [Record("a", "g", atoms, {**values, "extra": extra})])
        (entry,) = lmdb_store.read(path)
        np.testing.assert_array_equal(entry.atoms.positions, atoms.positions)
        assert entry.values.keys() == {*values, "extra"}
        for name, value in {**values, "extra": extra}.items():
            stored = entry.values[name]
            np.testing.assert_array_equal(stored, value)
            if isinstance(value, np.ndarray):
                assert stored.shape == value.shape and stored.dtype == value.dtype.newbyteorder("=")


@pytest.mark.parametrize("name", ["mlearn-si", "ethanol"])
def test_extended_xyz_as_ase_reads_it_is_stored(name, tmp_path):
    """ASE leaves forces as columns of a wider table, which no tensor takes as they lie."""
    source = Path(__file__).parents[2] / "calculators" / name / "test.xyz.xz"
    frames = ase.io.read(source, index=":20")
    write_lmdb(tmp_path / "a.lmdb", frames)
    write_lmdb(tmp_path / "b.lmdb", AtomsDataset(frames, n_train=1.0, n_val=0.0).records)
    for file in ("a.lmdb", "b.lmdb"):
        for record, atoms in zip(AtomsDataset(tmp_path / file).records, frames, strict=True):
            np.testing.assert_array_equal(record.labels["forces"], atoms.get_forces())
            assert float(record.labels["total_energy"]) == atoms.get_potential_energy()
            if "stress" in atoms.calc.results:
                np.testing.assert_allclose(record.labels["stress"], atoms.get_stress(voigt=False), atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(Path(__file__).parents[2].glob("calculators/*/t*.xyz.xz")), ids=str)
def test_every_bundled_set_is_stored(source, tmp_path):
    frames = ase.io.read(source, index=":")
    assert write_lmdb(tmp_path / "a.lmdb", frames) == len(frames) == len(lmdb_store.read(tmp_path / "a.lmdb"))
