"""Damaged and hostile files against every loader: each is refused, quickly, without memory, without harm.

    python tests/torture/fuzz_checkpoints.py [--seed 0] [--truncations 300] [--flips 300] [--edits 200]

prints one line. Damaged checkpoints and hostile pickles go to the loaders of checkpoints, training states,
data sets (LMDB too) and the disk cache, in this process, which has loaded what it needs; a sample goes
through ``nff``. The pickles make a canary file when they are unpickled. Memory is the growth of the peak of
resident memory during a call.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import functools
import gzip
import io
import lzma
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lmdb
import numpy as np
import torch
from builders import copper
from forgery import Hostile, split
from memory import peak, reset_peak

from nfflr.checkpoint import FILE, load_checkpoint, pack, save_checkpoint
from nfflr.cli.main import run
from nfflr.data.dataset import AtomsDataset
from nfflr.data.diskcache import DiskCache
from nfflr.data.graph import periodic_radius_graph
from nfflr.data.sources.lmdb_store import INDEX, write_lmdb
from nfflr.errors import NFFLrError
from nfflr.models.moment import MomentConfig, MomentNetwork
from nfflr.train.state import FORMAT, read_state

# What a refusal may take; of the processor, of which a quiet machine needs less than a tenth of a second.
SECONDS, MEMORY = 3.0, 200 * 2**20
CHECKPOINTS = [
    *(FILE, "member-0.safetensors", "model.pt", "model.pth", "model.pkl", "model.pickle", "model.ckpt"),
    *("model.bin", "model.npz", "model.zip", "best_model.tar"),
]
DATA = [
    *("data.xyz", "data.extxyz", "data.traj", "data.trj", "data.db", "data.json", "data.jsonl", "data.cif"),
    *("data.vasp", "data.pckl", "data.pkl", "data.pickle", "data.npz", "data.npy", "data.h5", "data.nc"),
    *("data.csv", "data.lmdb", "data.bundle", "data", "POSCAR", "OUTCAR", "vasprun.xml", "vasprun.xml.gz"),
    *("data.xyz.gz", "data.xyz.xz", "data.xyz.bz2", "data.json.gz", "data.json.xz"),
    *("folder/id_prop.csv", "folder/id_prop.json"),
]
PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


class Survived(AssertionError):
    """What should have been refused was not, or not as it should."""


@dataclass
class Meter:
    """The worst of all refusals, none of which may take more than ``seconds``."""

    seconds: float = SECONDS
    slowest: float = 0.0
    memory: int = 0
    count: int = 0

    def measure(self, call: Callable[[], object], what: str) -> object:
        base = reset_peak()
        start = time.process_time()  # other processes must not count
        result = call()
        taken = time.process_time() - start
        grown = peak() - base
        if taken > self.seconds or grown > MEMORY:
            raise Survived(f"{what}: took {taken:.2f} s and {grown / 2**20:.0f} MB")
        self.slowest, self.memory = max(self.slowest, taken), max(self.memory, grown)
        self.count += 1
        return result

    def refused(self, call: Callable[[], object], code: int, what: str) -> None:
        """See that ``call`` raises the one-line error of this exit code."""
        error = self.measure(functools.partial(_error, call), what)
        if not isinstance(error, NFFLrError) or error.exit_code != code or "\n" in str(error):
            raise Survived(f"{what}: {error!r}, expected a refusal with exit code {code}")

    def refused_by_nff(self, arguments: list, code: int) -> None:
        """The same of a command, whose last line on stderr tells it."""
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            found = self.measure(lambda: run([str(a) for a in arguments]), str(arguments))
        last = stderr.getvalue().strip().split("\n")[-1]
        if found != code or not last.startswith("error: ") or "Traceback" in stderr.getvalue():
            raise Survived(f"nff {arguments}: exit code {found}, {last!r}; expected {code}")


def _error(call: Callable[[], object]) -> object:
    try:
        return call()
    except Exception as error:  # whatever it is, the caller judges it
        return error


def sound_checkpoint(path: Path) -> bytes:
    save_checkpoint(path, MomentNetwork(MomentConfig(elements=("Cu",), channels=4, hidden=4)))
    return path.read_bytes()


def truncations(content: bytes, count: int) -> Iterator[bytes]:
    """Cut at the start, at each byte of the length, and evenly up to the last byte."""
    for end in np.unique(np.linspace(0, len(content) - 1, count).astype(int)):
        yield content[:end]


def bit_flips(content: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """A third each in the header's length or its first bytes, in the header, and in the tensors."""
    start = 8 + len(split(content)[0])
    for k in range(count):
        place = rng.randrange(*[(0, 16), (8, start), (start, len(content))][k % 3])
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        yield bytes(damaged)


def header_edits(content: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """Overwritten, deleted, repeated or shuffled characters; the length is made to fit."""
    header, body = split(content)
    while count:
        text = bytearray(header)
        at, n = rng.randrange(len(text)), rng.randrange(1, 12)
        kind = rng.choice(["overwrite", "delete", "repeat", "shuffle"])
        if kind == "overwrite":
            text[at : at + n] = rng.choices(b' {}[]":,0123456789ae\\', k=n)
        elif kind == "delete":
            del text[at : at + n]
        elif kind == "repeat":
            text[at:at] = text[at : at + n]
        else:
            part = list(text[at : at + n])
            rng.shuffle(part)
            text[at : at + n] = bytes(part)
        if text != header:
            count -= 1
            yield len(text).to_bytes(8, "little") + bytes(text) + body


def hostile_pickles(canary: Path) -> dict[str, bytes]:
    """Bytes that make the canary file wherever they are unpickled, by kind."""
    bomb = Hostile(canary)
    kinds = {f"protocol {k}": pickle.dumps(bomb, protocol=k) for k in (0, 2, 5)}
    for name, zipped in (("torch.save", True), ("old torch.save", False)):
        file = io.BytesIO()
        torch.save({"model": bomb}, file, _use_new_zipfile_serialization=zipped)
        kinds[name] = file.getvalue()
    array = np.empty(1, dtype=object)
    array[0] = bomb
    for name, save in (("npy", np.save), ("npz", np.savez)):
        file = io.BytesIO()
        save(file, array)
        kinds[name] = file.getvalue()
    kinds["old trajectory"] = b"PickleTrajectory" + kinds["protocol 2"]
    return kinds


def fuzz_damage(
    meter: Meter, folder: Path, n_truncations: int, n_flips: int, n_edits: int, rng: random.Random
) -> None:
    """Every damaged checkpoint goes to the loader, every fiftieth to ``nff info`` too."""
    path = folder / FILE
    content = sound_checkpoint(path)
    load_checkpoint(path)  # sound, and everything that a refusal needs is imported
    damaged = [
        *truncations(content, n_truncations),
        *bit_flips(content, n_flips, rng),
        *header_edits(content, n_edits, rng),
    ]
    if len(damaged) != n_truncations + n_flips + n_edits:
        raise Survived(f"made {len(damaged)} damaged files; the checkpoint is too short for so many")
    for k, whole in enumerate(damaged):
        path.write_bytes(whole)
        meter.refused(lambda: load_checkpoint(path), 4, f"damaged file {k}")
        if k % 50 == 0:
            meter.refused_by_nff(["info", path], 4)


def fuzz_pickles(meter: Meter, folder: Path) -> int:
    """Each pickle under each name that a loader takes; returns how many."""
    canary = folder / "executed"
    kinds, before = hostile_pickles(canary), meter.count
    pickle.loads(kinds["protocol 0"])
    if not canary.exists():
        raise Survived("the pickles are harmless, so they test nothing")
    canary.unlink()
    sample = folder / "sound"
    sample.mkdir()
    sound_checkpoint(sample / FILE)
    entries = Entries(folder)
    for kind, content in kinds.items():
        for name in CHECKPOINTS:
            path = _put(folder / "checkpoint" / name, content)
            meter.refused(lambda path=path: load_checkpoint(path), 4, f"{kind} as {name}")
        meter.refused_by_nff(["info", path], 4)
        for name in DATA:
            path = _put(folder / "data" / name, PACKERS.get(Path(name).suffix, bytes)(content))
            path = path.parent if path.parent.name == "folder" else path
            meter.refused(lambda path=path: AtomsDataset(path, energy_units="eV"), 3, f"{kind} as {name}")
            path.unlink() if path.is_file() else [p.unlink() for p in path.iterdir()]
        path = _put(folder / "data" / "data.xyz", content)
        meter.refused_by_nff(["evaluate", "--model", sample, path, "-o", folder / "out"], 3)
        path = _put(folder / "step-1" / "state.safetensors", content)
        meter.refused(lambda path=path: read_state(path.parent), 4, f"{kind} as a state")
        entries.lmdb(meter, content, kind)
        entries.cache(meter, content, kind)
        if canary.exists():
            raise Survived(f"{kind}: was executed")
    tensors = {"payload": torch.frombuffer(bytearray(kinds["protocol 2"]), dtype=torch.uint8)}
    path = _put(folder / "checkpoint" / FILE, pack(tensors, {}))
    meter.refused(lambda: load_checkpoint(path), 4, "a pickle in a tensor")
    path = _put(folder / "checkpoint" / FILE, pack(tensors, {}, FORMAT))
    meter.refused(lambda: load_checkpoint(path), 4, "a pickle in the tensor of a state")
    if canary.exists() or (folder / "out").exists():
        raise Survived("a pickle was executed, or a refused command left a folder")
    return meter.count - before


def _put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return path


class Entries:
    """Pickles in place of single entries: of an LMDB file, and of the disk cache."""

    def __init__(self, folder: Path):
        self.folder, self.structures = folder, copper(4)
        write_lmdb(folder / "sound.lmdb", self.structures)
        self.sound = (folder / "sound.lmdb").read_bytes()
        self.graphs = DiskCache(folder / "cache", functools.partial(periodic_radius_graph, r=4.0))
        self.expected = self.graphs(self.structures[0])

    def lmdb(self, meter: Meter, content: bytes, kind: str) -> None:
        for key in (INDEX, (2).to_bytes(8, "big")):
            path = self.folder / "hostile.lmdb"
            path.write_bytes(self.sound)
            with lmdb.open(str(path), subdir=False, lock=False) as store, store.begin(write=True) as change:
                change.put(key, content)
            meter.refused(lambda path=path: AtomsDataset(path), 3, f"{kind} in LMDB at {key!r}")
            path.unlink()

    def cache(self, meter: Meter, content: bytes, kind: str) -> None:
        path = self.graphs.path(self.structures[0])
        whole = path.read_bytes()
        path.write_bytes(content)
        again = meter.measure(lambda: self.graphs(self.structures[0]), f"{kind} in the cache")
        if not torch.equal(again.vectors(), self.expected.vectors()) or path.read_bytes() != whole:
            raise Survived(f"{kind}: the cache was not made again")


def fuzz(n_truncations: int = 300, n_flips: int = 300, n_edits: int = 200, seed: int = 0) -> str:
    """Do it all; the line to print.

    Raises:
        Survived: something was not refused as it should be.
    """
    meter = Meter()
    with tempfile.TemporaryDirectory() as name:
        fuzz_damage(meter, Path(name), n_truncations, n_flips, n_edits, random.Random(seed))
        pickles = fuzz_pickles(meter, Path(name))
    return (
        f"{n_truncations} truncations, {n_flips} bit flips, {n_edits} header edits, "
        f"{pickles} hostile pickles: all refused; slowest {meter.slowest:.3f} s, "
        f"most memory {meter.memory / 2**20:.0f} MB, canary untouched"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, count in (("truncations", 300), ("flips", 300), ("edits", 200), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    given = parser.parse_args()
    print(fuzz(given.truncations, given.flips, given.edits, given.seed))


if __name__ == "__main__":
    main()
