"""Torture E: data that cannot be learned from are refused, naming structure and label."""

import json
import re
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from builders import copper, label
from processes import KILL, Fault
from workplace import CONFIG

from nfflr.checkpoint import FILE, load_checkpoint
from nfflr.cli.main import run
from nfflr.data.dataset import AtomsDataset
from nfflr.data.sources.lmdb_store import write_lmdb
from nfflr.errors import StructureError
from nfflr.structures.readers import read_structures

DATA = "copper.xyz"
LABELS = {"energy": "total_energy", "forces": "forces", "stress": "stress"}  # ASE's names and ours
READERS = [
    ["train", "config.py"],
    ["evaluate", "--model", FILE, DATA],
]  # commands that need labels without a fault
INIT = ["init", DATA, "-o", "out"]
BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def spoilt(key: str, value: float, k: int = 2) -> list[ase.Atoms]:
    structures = copper(6)
    results = structures[k].calc.results
    results[key] = value if key == "energy" else np.array(results[key])
    if key != "energy":
        results[key].flat[-1] = value
    return structures


# 60


@pytest.mark.parametrize("arguments", READERS, ids=lambda a: a[0])
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("key", LABELS)
def test_case_60_a_label_that_is_not_finite(fails, key, value, arguments):
    ase.io.write(DATA, spoilt(key, BAD[value]))
    fails(arguments, 3, f"{DATA}[2]", f"{LABELS[key]} is not finite")


@pytest.mark.parametrize("key", LABELS)
def test_case_60_in_memory_and_in_lmdb_too(tmp_path, key):
    structures = spoilt(key, np.nan, 4)
    with pytest.raises(StructureError, match=rf"^structures\[4\]: {LABELS[key]} is not finite"):
        AtomsDataset(structures)
    write_lmdb(tmp_path / "copper.lmdb", structures)
    with pytest.raises(StructureError, match=rf"^copper\.lmdb\[.*4\].*: {LABELS[key]} is not finite"):
        AtomsDataset(tmp_path / "copper.lmdb", energy_units="eV", stress_units="eV/Å^3", stress_sign=1)


def test_case_60_init_lists_it_and_writes_no_config(fails):
    ase.io.write(DATA, spoilt("energy", np.nan))
    fails(INIT, 3, f"{DATA}[2]", "total_energy is not finite")


# 61


def records(structures) -> list[dict]:
    """As JARVIS keeps them."""
    return [
        {
            "jid": f"copper-{k}",
            "atoms": {
                "lattice_mat": atoms.cell.array.tolist(),
                "coords": atoms.get_scaled_positions().tolist(),
                "elements": list(atoms.symbols),
                "cartesian": False,
            },
            "total_energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces().tolist(),
        }
        for k, atoms in enumerate(structures)
    ]


def json_config() -> None:
    text = CONFIG.replace('"copper.xyz"', '"copper.json"').replace("n_train", 'energy_units="eV", n_train')
    assert text.count("copper.json") == 1 and text.count("energy_units") == 1
    Path("config.py").write_text(text)


@pytest.mark.parametrize("change", [lambda f: f[:-1], lambda f: [*f, f[-1]], lambda f: f[:0]])
def test_case_61_forces_of_another_length(fails, change):
    found = records(copper(6))
    n, forces = len(found[3]["forces"]), change(found[3]["forces"])
    found[3]["forces"] = forces
    Path("copper.json").write_text(json.dumps(found))
    json_config()
    line = fails(["train", "config.py"], 3, "copper.json[3", "copper-3")
    assert f"({len(forces)}, 3), expected ({n}, 3)" in line or (not forces and "forces" in line)


def test_case_61_a_row_of_forces_of_another_length(fails):
    found = records(copper(6))
    found[3]["forces"][1] = [0.0, 0.0]
    Path("copper.json").write_text(json.dumps(found))
    json_config()
    fails(["train", "config.py"], 3, "copper.json[3", "forces")


def test_case_61_the_records_are_sound_without_that(place):
    Path("copper.json").write_text(json.dumps(records(copper(6))))
    json_config()
    assert run(["train", "config.py"]) == 0


@pytest.mark.parametrize("columns", [2, 4])
def test_case_61_columns_of_an_xyz_file_that_are_no_vectors(fails, columns):
    text = Path(DATA).read_text()
    assert text.count("forces:R:3") == 6
    first, second = text.split("forces:R:3", 1)
    Path(DATA).write_text(f"{first}forces:R:{columns}{second}")
    fails(["train", "config.py"], 3, DATA)


# 62


@pytest.mark.parametrize("command", [*READERS, INIT], ids=lambda a: a[0])
def test_case_62_an_empty_file(fails, command):
    Path(DATA).write_text("")
    fails(command, 3, DATA)


def lonely(count: int) -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    alone = [ase.Atoms("Cu2", [[0, 0, 0], [9 + x, 0, 0]], cell=[30] * 3) for x in rng.random(count)]
    return [label(atoms) for atoms in alone]


@pytest.mark.parametrize("pbc", [False, True])
def test_case_62_only_isolated_atoms(fails, pbc):
    structures = lonely(6)
    for atoms in structures:
        atoms.pbc = pbc
    ase.io.write(DATA, structures)
    fails(INIT, 3, DATA, "isolated")
    Path("config.py").write_text(CONFIG)
    assert run(["train", "config.py"]) == 3  # known only when the model has seen the graphs
    assert not list(Path("run").rglob(FILE))


# 63


def with_test(*more: str) -> None:
    options = ", ".join(['test_source=here / "test.xyz"', *more])
    text = CONFIG.replace("n_train=4", f"{options}, n_train=4")
    assert "test_source" in text
    Path("config.py").write_text(text)


def moved(atoms: ase.Atoms, how: str) -> ase.Atoms:
    """The same structure, told otherwise."""
    other = atoms.copy()
    if how == "in another order":
        other = other[::-1]
    elif how == "by lattice vectors":
        other.positions += atoms.cell.array[0] - 2 * atoms.cell.array[2]
    return label(other)


@pytest.mark.parametrize("how", ["as it is", "by lattice vectors"])
def test_case_63_the_same_structure_in_train_and_test(fails, how):
    train = AtomsDataset(copper(6), n_train=4, n_val=2).split["train"]
    ase.io.write("test.xyz", [copper(1, seed=7)[0], moved(copper(6)[train[1]], how)])
    with_test()
    fails(["train", "config.py"], 3, "test.xyz[1]", f"{DATA}[{train[1]}]", "allow_duplicates")
    with_test("allow_duplicates=True")
    assert run(["train", "config.py"]) == 0


def test_case_63_other_structures_are_no_copies(place):
    ase.io.write("test.xyz", copper(3, seed=7))
    with_test()
    assert run(["train", "config.py"]) == 0


# 64


def test_case_64_truncated_anywhere_names_the_frame_or_loses_only_whole_ones(tmp_path):
    ase.io.write(tmp_path / DATA, copper(3))
    whole = (tmp_path / DATA).read_bytes()
    frames = [len(part) for part in re.split(rb"(?<=\n)(?=\d+\n)", whole)]
    assert len(frames) == 3
    starts = np.cumsum([0, *frames])  # bytes at which a frame begins, and the end
    path = tmp_path / "cut.xyz"
    for end in [
        *range(0, len(whole), 7),
        *range(starts[1] - 40, starts[1] + 40),
        *range(len(whole) - 60, len(whole)),
    ]:
        path.write_bytes(whole[:end])
        k = int(np.searchsorted(starts, end, side="right")) - 1
        if end > 0 and (end in starts or end + 1 in starts):  # a frame, without its newline at the end
            assert len(read_structures(path)) == k + (end + 1 in starts)
            continue
        with pytest.raises(StructureError, match=rf"^{re.escape(str(path))}: ") as caught:
            read_structures(path)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
        assert f"frame {k} " in str(caught.value) or (end == 0 and "no structure" in str(caught.value))


@pytest.mark.parametrize("arguments", [*READERS, INIT], ids=lambda a: a[0])
@pytest.mark.parametrize("bytes_lost", [3, 40, 200])
def test_case_64_a_truncated_file_as_nff_tells_it(fails, arguments, bytes_lost):
    Path(DATA).write_bytes(Path(DATA).read_bytes()[:-bytes_lost])
    fails(arguments, 3, DATA, "frame 5")


# 65


def cached_config(cutoff: float, out: str, cache: bool = True) -> list[str]:
    text = CONFIG.replace("cutoff=3.5", f"cutoff={cutoff}").replace('"run"', f'"{out}"')
    if cache:
        text = text.replace("n_train=4", 'diskcache=here / "cache", n_train=4')
        assert "diskcache" in text
    path = Path(f"{out}.py")
    path.write_text(text)
    return ["train", str(path)]


def weights(out: str) -> dict[str, np.ndarray]:
    model, _ = load_checkpoint(out)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_same_weights(first: str, second: str) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_case_65_a_cache_from_other_settings_is_not_used(place):
    assert run(cached_config(3.0, "short")) == 0
    short = set(Path("cache").rglob("*.safetensors")) or set(Path("cache").rglob("*"))
    assert run(cached_config(4.0, "long")) == 0
    assert run(cached_config(4.0, "plain", cache=False)) == 0
    assert_same_weights("long", "plain")
    assert len(set(Path("cache").rglob("*")) - short) >= len(copper(6))


def test_case_65_a_cache_of_structures_that_changed_is_not_used(place):
    assert run(cached_config(3.5, "before")) == 0
    ase.io.write(DATA, copper(6, seed=1))
    assert run(cached_config(3.5, "after")) == 0
    assert run(cached_config(3.5, "plain", cache=False)) == 0
    assert_same_weights("after", "plain")


@pytest.mark.parametrize("damage", ["cut", "empty", "flip"])
def test_case_65_a_damaged_cache_is_made_again(place, damage):
    assert run(cached_config(3.5, "first")) == 0
    entries = [path for path in Path("cache").rglob("*") if path.is_file()]
    whole = {path: path.read_bytes() for path in entries}
    for path, content in whole.items():
        flipped = bytearray(content)
        flipped[-9] ^= 4
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "flip": bytes(flipped)}[damage])
    assert run(cached_config(3.5, "second")) == 0
    assert_same_weights("first", "second")
    assert {path: path.read_bytes() for path in entries} == whole


def test_case_65_killed_in_any_write_of_the_cache(place, processes, disk):
    assert run(cached_config(3.5, "plain", cache=False)) == 0
    Path("cache").mkdir()
    killed = 0
    for n in range(1, 20, 2):
        cached_config(3.5, "killed")
        ended = processes.run(
            "train", place / "killed.py", "--overwrite", fault=Fault(place / "cache", n, KILL)
        )
        killed += ended.code == -9
        if ended.code == 0:
            break
    assert killed >= 3
    assert run([*cached_config(3.5, "killed"), "--overwrite"]) == 0
    assert_same_weights("killed", "plain")
