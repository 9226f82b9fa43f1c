"""Torture C: whatever a file claims to be, it executes nothing, imports nothing and takes no memory."""

import json
import os
import pickle
import shutil
import sys
from functools import partial
from itertools import product
from pathlib import Path

import ase.io
import lmdb
import pytest
import torch
from ase.build import bulk
from builders import copper
from forgery import Hostile, edited, signed, split
from fuzz_checkpoints import Meter, fuzz_pickles, hostile_pickles, sound_checkpoint

from nfflr.checkpoint import FILE, load_checkpoint, save_checkpoint
from nfflr.cli.main import run
from nfflr.data import diskcache
from nfflr.data.dataset import AtomsDataset
from nfflr.data.diskcache import DiskCache
from nfflr.data.graph import periodic_radius_graph
from nfflr.data.sources.lmdb_store import INDEX, INDEX_KIND, KIND, write_lmdb
from nfflr.errors import CheckpointError, StructureError
from nfflr.models.registry import architecture, architectures
from nfflr.storage.sealed import seal, unseal

GIGABYTES = 10 * 2**30
CONFIG = """
from pathlib import Path
from nfflr.data.dataset import AtomsDataset
from nfflr.models.moment import MomentConfig, MomentNetwork

here = Path(__file__).parent
dataset = AtomsDataset(here / "{data}", n_train=4, n_val=2)
model = MomentNetwork(MomentConfig(elements=("Cu",), channels=4, hidden=4, cutoff=3.5))
output_dir = here / "run"
progress, epochs, batch_size, warmup_steps, validate_every = False, 2, 2, 0, 1
{more}
"""


@pytest.fixture
def canary(tmp_path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def fails(capsys):
    """Runs ``nff``; it must end with this exit code and one line, which has the words. Returns the line."""

    def check(arguments: list, code: int, *words) -> str:
        assert run([str(a) for a in arguments]) == code
        stderr = capsys.readouterr().err.strip().splitlines()
        assert stderr[-1].startswith("error: ") and "Traceback" not in "\n".join(stderr)
        for word in words:
            assert str(word) in stderr[-1]
        return stderr[-1]

    return check


def train_config(folder: Path, data="copper.xyz", more="") -> Path:
    config = folder / "config.py"
    config.write_text(CONFIG.format(data=data, more=more))
    return config


# 47


def test_case_47_the_pickles_of_these_tests_are_hostile(canary):
    for kind, content in hostile_pickles(canary).items():
        if kind.startswith("protocol"):
            pickle.loads(content)
            assert canary.exists()
            canary.unlink()


@pytest.mark.parametrize("kind", hostile_pickles(Path("unused")))
@pytest.mark.parametrize("name", [FILE, "member-0.safetensors", "model.pt"])
def test_case_47_a_pickle_named_like_a_checkpoint(fails, tmp_path, canary, name, kind):
    hostile, structure = tmp_path / name, tmp_path / "cu.xyz"
    hostile.write_bytes(hostile_pickles(canary)[kind])
    bulk("Cu").write(structure)
    fails(["info", hostile], 4, hostile, "not a checkpoint", "never loaded")
    out = tmp_path / "out"
    fails(["relax", structure, "-m", hostile, "-o", out], 4, hostile, "not a checkpoint")
    assert not canary.exists() and not out.exists()


def test_case_47_a_pickle_to_start_training_from(fails, tmp_path, canary):
    ase.io.write(tmp_path / "copper.xyz", copper(6))
    hostile = tmp_path / "best.pt"
    torch.save({"model": Hostile(canary)}, hostile)
    fails(["train", train_config(tmp_path), "--init-from", hostile], 4, hostile, "not a checkpoint")
    assert not canary.exists() and not (tmp_path / "run" / FILE).exists()


# 48


def test_cases_47_48_each_pickle_under_each_name_a_loader_takes(tmp_path):
    assert fuzz_pickles(Meter(), tmp_path) > 350


@pytest.mark.parametrize("name", ["data.xyz", "data.db", "data.traj", "data.pckl", "data.json"])
def test_case_48_a_pickle_in_place_of_a_data_set(fails, tmp_path, canary, name):
    hostile = tmp_path / name
    hostile.write_bytes(pickle.dumps(Hostile(canary)))
    sound_checkpoint(tmp_path / FILE)
    out = tmp_path / "out"
    evaluate = ["evaluate", "--model", tmp_path / FILE, hostile, "-o", out, "--energy-units", "eV"]
    fails(evaluate, 3, name)
    fails(["relax", hostile, "-m", tmp_path / FILE, "-o", out], 3, name)
    assert not canary.exists() and not out.exists()


def put(path: Path, key: bytes, content: bytes) -> None:
    with lmdb.open(str(path), subdir=False, lock=False) as store, store.begin(write=True) as change:
        change.put(key, content)


@pytest.mark.parametrize("key", [INDEX, (2).to_bytes(8, "big")], ids=["index", "record"])
def test_case_48_a_pickle_inside_a_data_set(fails, tmp_path, canary, key):
    write_lmdb(tmp_path / "copper.lmdb", copper(6))
    put(tmp_path / "copper.lmdb", key, pickle.dumps(Hostile(canary)))
    config = train_config(tmp_path, "copper.lmdb")
    fails(["train", config], 3, "copper.lmdb", "of another kind")
    assert not canary.exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["pickle", "class", "class of torch"])
def test_case_48_a_pickle_or_a_class_inside_a_cache_is_replaced(tmp_path, canary, kind):
    structure = copper(1)[0]
    cache = DiskCache(tmp_path / "cache", partial(periodic_radius_graph, r=4.0))
    graph = cache(structure)
    path = cache.path(structure)
    whole = path.read_bytes()
    name = {"class": "os.system", "class of torch": "torch.nn.modules.linear.Linear"}.get(kind)
    fields = {"command": {"value": f"touch {canary}"}}
    outline = {"class": name, "fields": fields}
    forged = seal({}, {"outline": outline}, diskcache.KIND)
    path.write_bytes(pickle.dumps(Hostile(canary)) if kind == "pickle" else forged)
    assert torch.equal(cache(structure).vectors(), graph.vectors())
    assert path.read_bytes() == whole and not canary.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with config, data and a run that can be resumed."""
    folder = tmp_path_factory.mktemp("trained")
    ase.io.write(folder / "copper.xyz", copper(6))
    assert run(["train", str(train_config(folder))]) == 0
    return folder


def test_case_48_a_pickle_in_place_of_the_training_state(fails, tmp_path, trained, canary):
    shutil.copytree(trained, tmp_path / "copy")
    out = tmp_path / "copy" / "run"
    files = sorted(out.glob("state/step-*/state.safetensors"))
    assert len(files) >= 1
    for file in files:
        file.write_bytes(pickle.dumps(Hostile(canary)))
    before = (out / FILE).read_bytes()
    fails(["train", tmp_path / "copy" / "config.py", "--resume"], 4, out / "state", "not a")
    assert not canary.exists() and (out / FILE).read_bytes() == before


JUNK = [None, True, 0, -1, 10**30, 0.5, "", "x", "a\nb", [], {}, {"a": None}, ...]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_case_48_signed_junk_in_lmdb_is_refused_or_harmless(tmp_path, junk):
    """The digest proves nothing about intent."""
    path = tmp_path / "copper.lmdb"
    write_lmdb(path, copper(4))
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as store, store.begin() as look:
        tensors, head = unseal(look.get(bytes(8)), KIND)
    head = {key: value for key, value in head.items() if key not in ("format", "version", "sha256")}
    whole, changes = path.read_bytes(), [(INDEX, {}, {"count": junk}, INDEX_KIND)]
    changes += [(bytes(8), tensors, {**head, key: junk}, KIND) for key in head]
    wrong = torch.full((5,), torch.nan) if junk is None else torch.tensor(-7)
    names = [*tensors] if junk in (None, True, ...) else []
    without = {name: {n: t for n, t in tensors.items() if n != name} for name in names}
    changes += [
        (bytes(8), part if junk is ... else {**part, n: wrong}, head, KIND) for n, part in without.items()
    ]
    refused = 0
    for k, (key, parts, metadata, kind) in enumerate(changes):
        forged = tmp_path / f"{k}.lmdb"
        forged.write_bytes(whole)
        kept = {name: value for name, value in metadata.items() if value is not ...}
        put(forged, key, seal(parts, kept, kind))
        try:
            records = AtomsDataset(forged, n_train=3, n_val=1).records
        except StructureError as error:
            refused += 1
            assert f"{k}.lmdb" in str(error)
        else:
            assert str(records[0].atoms.symbols) == "Cu4" and isinstance(records[0].group, str)
    assert refused  # of the count at least


# 49


@pytest.mark.parametrize(
    "key", ["os.system", "../../x", "/etc/passwd", "evil", "evil.run", "evil:run", "", "moment\n", "__main__"]
)
def test_case_49_an_architecture_that_names_a_class_or_a_path(fails, path, content, key, monkeypatch):
    (path.parent / "evil.py").write_text("from pathlib import Path; Path('executed').touch()")
    (path.parent / "x").mkdir()
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.chdir(path.parent / "x")
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("os.system was called"))
    path.write_bytes(edited(content, architecture=key))
    run(["info", str(path)])  # what the command itself needs is loaded
    before = set(sys.modules)
    fails(["info", path], 4, path, "unknown architecture")
    assert set(sys.modules) == before and "evil" not in sys.modules
    assert os.listdir(path.parent / "x") == []


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"elements": ["Cu"], "__class__": "os.system"},
        {"elements": ["os.system"]},
        {"elements": ["Cu"], "cutoff": {"py/object": "os.system"}},
        {"elements": ["Cu"], "channels": "__import__('os').system('touch executed')"},
        {"elements": ["Cu"], "colour": "../../x"},
    ],
    ids=lambda value: "-".join(value),
)
def test_case_49_hyper_parameters_that_name_a_class_or_a_path(
    fails, path, content, hyperparameters, monkeypatch
):
    monkeypatch.chdir(path.parent)
    path.write_bytes(edited(content, hyperparameters=hyperparameters))
    fails(["info", path], 4, path, "hyper-parameter")
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "weights/../../x"])
def test_case_49_a_tensor_named_like_a_path_is_but_a_name(fails, path, content, name):
    def add(header):
        header[name] = header.pop("scale")

    path.write_bytes(edited(content, add))
    before = sorted(path.parent.rglob("*"))
    fails(["info", path], 4, path, "'scale' is missing" if name > "scale" else name)
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['touch executed']", "fmax: !!python/name:os.system ''"]
)
def test_case_49_a_settings_file_that_names_a_function(fails, path, content, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    path.write_bytes(content)
    bulk("Cu").write(tmp_path / "cu.xyz")
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    fails(["relax", "cu.xyz", "-m", path, "-o", "out", "--config", settings], 2, settings, "not valid YAML")
    assert not Path("executed").exists() and not Path("out").exists()


# 50


def frugal(fails, arguments: list, code: int, *words) -> None:
    """The command fails as told, in under a second and 200 MB."""
    Meter().measure(lambda: fails(arguments, code, *words), str(arguments))


@pytest.fixture
def warm(path, content, fails):
    """What ``nff info`` needs is loaded, so that a measurement is of the refusal alone."""
    path.write_bytes(content)
    assert run(["info", str(path)]) == 0


@pytest.mark.parametrize("length", [GIGABYTES, 2**63 - 1, 2**64 - 1])
def test_case_50_a_header_that_declares_gigabytes(fails, warm, path, content, length):
    path.write_bytes(length.to_bytes(8, "little") + content[8:])
    frugal(fails, ["info", path], 4, path, "not a checkpoint")


def test_case_50_a_header_that_declares_them_in_a_file_that_has_them(fails, warm, path, content):
    """A sparse file: 10 GB long, and nothing on the disk."""
    path.write_bytes((GIGABYTES - 8).to_bytes(8, "little") + content[8:])
    os.truncate(path, GIGABYTES)
    frugal(fails, ["info", path], 4, path)


@pytest.mark.parametrize("shape", [[2**20, 2**20], [2**62, 4], [10**18]], ids=str)
def test_case_50_a_tensor_that_declares_gigabytes(fails, warm, path, content, shape):
    def enlarge(header):
        header["scale"]["shape"] = shape

    path.write_bytes(edited(content, enlarge))
    frugal(fails, ["info", path], 4, path)


@pytest.mark.parametrize("name", ["channels", "hidden", "layers", "n_radial"])
@pytest.mark.parametrize("size", [2**21, 10**17])
def test_case_50_hyper_parameters_that_ask_for_gigabytes(fails, warm, path, content, name, size):
    good = json.loads(json.loads(split(content)[0])["__metadata__"]["nfflr"])["hyperparameters"]
    path.write_bytes(edited(content, hyperparameters={**good, name: size}))
    frugal(fails, ["info", path], 4, path)


@pytest.mark.parametrize("key", sorted(architectures()))
def test_case_50_no_number_in_a_header_makes_a_model_of_gigabytes(path, key):
    """Each number of each architecture: refused, or of no consequence, as a cutoff is."""
    cls = architecture(key)
    more = {"epsilon": {"Cu": 0.3}, "sigma": {"Cu": 2.0}} if key == "lennard-jones" else {}
    save_checkpoint(path, cls(cls.Config(elements=("Cu",), **more)))
    content, (_, metadata) = path.read_bytes(), load_checkpoint(path)
    good, meter = metadata["hyperparameters"], Meter()
    numbers = [n for n, value in good.items() if type(value) in (int, float)]
    for name, size in product(numbers, [2**21, 10**17, 1e300]):
        path.write_bytes(edited(content, hyperparameters={**good, name: size}))
        meter.measure(lambda: refused_or_loaded(path), f"{name} = {size}")


def refused_or_loaded(path: Path) -> None:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_case_50_a_header_of_brackets_does_not_overflow_the_stack(fails, warm, path, depth):
    deep = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    path.write_bytes(len(deep).to_bytes(8, "little") + deep)
    frugal(fails, ["info", path], 4, path, "not a checkpoint")


# 51


def test_case_51_duplicate_keys_in_header_and_metadata(fails, path, content):
    header, body = split(content)
    start = header.index(b'"scale"')
    entry = header[start : header.index(b"}", start) + 1]
    inner = rb"\"dtype\": \"float32\""
    assert header.count(inner) == 1
    twice = header.replace(inner, inner + rb", \"dtype\": \"float64\"")
    for forged in (header[:1] + entry + b"," + header[1:], twice):
        path.write_bytes(signed(forged, body))
        fails(["info", path], 4, path, "not a checkpoint")


@pytest.mark.parametrize(
    "offsets",
    [[0, 8], [-8, 0], [8, 0], [0, 2**63], [2**64, 2**64 + 8], [0], "0-8", None],
    ids=["overlapping", "negative", "reversed", "far", "farther", "one", "text", "none"],
)
def test_case_51_overlapping_or_impossible_offsets(fails, path, content, offsets):
    def move(header):
        header["scale"]["data_offsets"] = offsets

    path.write_bytes(edited(content, move))
    fails(["info", path], 4, path)


def test_case_51_a_gap_between_tensors_hides_nothing(fails, path, content):
    header, body = split(content)
    longer = signed(header, body + b"hidden payload  ")
    path.write_bytes(longer)
    fails(["info", path], 4, path)


def test_case_51_the_forger_makes_sound_files_too(path, content):
    """Otherwise the refusals above might be for the wrong reason."""
    path.write_bytes(edited(content))
    load_checkpoint(path)


# Beyond the list: formats whose parsers in ASE start a program, or never end


@pytest.mark.parametrize("name", ["si.cell", "si.restart"])
def test_a_format_whose_parser_is_not_safe_is_refused(fails, path, content, tmp_path, name, monkeypatch):
    program = tmp_path / "bin" / "castep.serial"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'executed'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CASTEP_COMMAND", str(program))
    path.write_bytes(content)
    (tmp_path / name).write_text(
        "%BLOCK LATTICE_CART\n4 0 0\n0 4 0\n0 0 4\n%ENDBLOCK LATTICE_CART\n&FORCE_EVAL\n"
    )
    fails(["energy", tmp_path / name, "-m", path], 3, name, "convert it to CIF")
    assert not (tmp_path / "executed").exists()
