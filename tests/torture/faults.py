"""Let every file operation of a training, and of each command that writes, fail once.

    python tests/torture/faults.py               # every operation
    python tests/torture/faults.py --every 10    # each tenth
    python tests/torture/faults.py md phonons    # these only

The n-th call that makes, writes, flushes or renames a file below the output folder fails: with ENOSPC, as do
all after it (the disk is full), and in another run with EIO, alone. The command must exit with 6 and one
line, and leave nothing under a final name; states that were saved must load; and the same command, with
--resume where it has that, must then give the files of a run without a fault, to the byte.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]  # run as a script, where pytest does not say where tests lie

from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from processes import Fault, Processes, assert_refused, assert_same, chosen, contents, failing_disk
from small_training import write_config

from nfflr.train.state import read_state, states

ERRORS = {"ENOSPC": (errno.ENOSPC, True), "EIO": (errno.EIO, False)}


@dataclass(frozen=True)
class Case:
    """A command on files in the folder in which the cases are prepared; ``{out}`` is its output folder."""

    arguments: tuple[str, ...]
    resumes: bool = False  # takes --resume
    final: tuple[str, ...] = field(default=("*",))  # patterns of names that a failure must not leave


def _simulate(name: str, structures: str, *options: str, resumes: bool = False) -> Case:
    arguments = (name, *structures.split(), "-m", "mlearn-si-fast", "-o", "{out}", *options)
    return Case(arguments, resumes, (f"*-{name}.*[!e]", "*.cif", "*.traj", "*.xyz"))


MD = ["--steps", "6", "--interval", "3", "--checkpoint", "3", "--rdf-cutoff", "3", "--ensemble", "npt"]
CELLS = ["--supercell", "1", "1", "1", "--mesh-length", "10"]
CASES = {
    "training": Case(("train", "{folder}/config.py", "--out", "{out}"), True, ()),
    "energy": _simulate("energy", "{folder}/si.cif"),
    "relax": _simulate("relax", "{folder}/pair.xyz", "--steps", "21", "--fmax", "1e-3", resumes=True),
    "md": _simulate("md", "{folder}/si.cif", *MD, resumes=True),
    "phonons": _simulate("phonons", "{folder}/si.cif", *CELLS, resumes=True),
    "gruneisen": _simulate("gruneisen", "{folder}/si.cif", *CELLS, resumes=True),
    "qha": _simulate("qha", "{folder}/si.cif", *CELLS, resumes=True),
    "eos": _simulate("eos", "{folder}/si.cif"),
    "elastic": _simulate("elastic", "{folder}/si.cif"),
    "surface": _simulate("surface", "{folder}/si.cif"),
    "vacancy": _simulate("vacancy", "{folder}/si.cif"),
    "neb": _simulate("neb", "{folder}/rattled.xyz {folder}/other.xyz", "--steps", "2"),
    "evaluate": Case(("evaluate", "--model", "mlearn-si-fast", "{folder}/labelled.xyz", "-o", "{out}")),
    "lr": Case(
        ("lr", "{folder}/config.py", "--out", "{out}", "--steps", "100", "--start", "1e-3", "--end", "10")
    ),
}


def prepare(folder: Path) -> None:
    """Write what the commands read."""
    write_config(folder, epochs=4)
    bulk("Si", a=5.431).write(folder / "si.cif")
    atoms = bulk("Si", a=5.431)
    atoms.rattle(0.05, seed=0)
    atoms.write(folder / "pair.xyz")
    for seed, name in enumerate(("rattled", "other")):
        atoms = bulk("Si", a=5.431, cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.write(folder / f"{name}.xyz")
    atoms = bulk("Si", a=5.431, cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-43.0, forces=atoms.positions * 0)
    atoms.write(folder / "labelled.xyz")


def inject(processes: Processes, folder: Path, name: str, every: int = 1) -> dict[str, int]:
    """Run a case with a fault in each ``every``-th operation; returns the number of faults by kind of call.

    Raises:
        AssertionError: a fault did not end as it should; names it.
    """
    case, whole, out = CASES[name], folder / f"{name}-whole", folder / f"{name}-out"
    done = processes.run(*_filled(case, folder, whole), fault=Fault(whole))
    assert done.code in (0, 5), done.stderr
    expected, total = contents(whole), sum(done.calls.values())
    tally = dict.fromkeys(ERRORS, 0)
    for k, (kind, (error, forever)) in enumerate(ERRORS.items()):
        for n in chosen(total, every, seed=k):
            try:
                _one(processes, case, folder, out, Fault(out, n, error, forever), expected, done.code)
            except AssertionError as wrong:
                raise AssertionError(f"{name}: {kind} in operation {n} of {total}: {wrong}") from wrong
            tally[kind] += 1
            shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(whole)
    return tally


def _one(processes, case: Case, folder: Path, out: Path, fault: Fault, expected: dict, code: int) -> None:
    assert_refused(processes.run(*_filled(case, folder, out), fault=fault), 6)
    left = [path.name for pattern in case.final for path in out.glob(pattern) if path.is_file()]
    assert not left, left
    for state in states(out / "state"):
        read_state(state)
    again = processes.run(*_filled(case, folder, out), *_options(case, out))
    assert again.code == code, (again.code, again.stderr)
    assert_same(contents(out), expected)


def _options(case: Case, out: Path) -> list[str]:
    """A training that saved no state is begun again; over the model, if it came to write that."""
    if case.arguments[0] == "train" and not states(out / "state"):
        return ["--overwrite"] if (out / "model.safetensors").exists() else []
    return ["--resume"] if case.resumes else []


def _filled(case: Case, folder: Path, out: Path) -> list[str]:
    return [argument.format(folder=folder, out=out) for argument in case.arguments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    if failing_disk() is None:
        sys.exit("a C compiler is needed")
    folder, total = Path(tempfile.mkdtemp()), 0
    prepare(folder)
    with Processes() as processes:
        for name in given.cases or CASES:
            tally = inject(processes, folder, name, given.every)
            total += sum(tally.values())
            told = ", ".join(f"{count} {kind}" for kind, count in tally.items())
            print(
                f"{name}: {sum(tally.values())} faults ({told}): all exit 6, what was saved loads, "
                "run again bit-identical",
                flush=True,
            )
    shutil.rmtree(folder)
    print(f"{total} faults injected, {total} exit 6, 0 states lost")


if __name__ == "__main__":
    main()
