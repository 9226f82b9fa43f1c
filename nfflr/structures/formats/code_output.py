"""Output of electronic structure codes: what ASE does not recognise, and which steps converged.

Text output of FHI-aims, Quantum ESPRESSO, ABINIT, GPAW and ORCA is recognised by its content. ASE's parsers
read it; they give eV, eV/Å, and eV/Å³ with tension positive. VASP's files are read without this. CP2K's
output is refused: ASE has no parser for it.

As training data, VASP's vasprun.xml and OUTCAR are refused where the run has no end. A step that stopped at
NELM without reaching EDIFF has no energy to learn: it is left out, and a note says so. Output of the other
codes is refused where a step did not converge; a run without its end is read as far as its steps are whole,
with a note.
"""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, NamedTuple

import ase
import ase.io
from ase.io.formats import open_with_compression

from ...errors import StructureError
from ...notes import note
from . import UNPACKING, cannot_unpack, plain_name, start_of, suffix_of

NAMES = re.compile(r"|\.(out|log|txt|abo|pwo|stdout|o\d+|out\d+)", re.IGNORECASE)


class Program(NamedTuple):
    """How the output of a program is recognised, which parser of ASE's reads it, and how it ends."""

    name: str
    kind: str
    mark: bytes  # stands in its beginning
    end: bytes  # stands in the file if the run came to its end
    failure: bytes  # stands there if self-consistency was not reached


PROGRAMS = (
    Program(
        "FHI-aims",
        "aims-output",
        rb"Invoking FHI-aims|description geometry\.in|Begin self-consistency loop: |Total energy uncorrected",
        rb"Have a nice day",
        rb"(?i)self-consistency cycle not converged",
    ),
    Program(
        "Quantum ESPRESSO", "espresso-out", rb"Program PWSCF", rb"JOB DONE", rb"(?i)convergence NOT achieved"
    ),
    Program(
        "ABINIT",
        "abinit-out",
        rb"\.Version .* of ABINIT",
        rb"Calculation completed|END DATASET",
        rb"(?i)was not enough scf cycles to converge",
    ),
    Program("GPAW", "gpaw-out", rb"  ___ ___ ___ _ _ _", rb"^Total: .* 100\.0%", rb"(?i)did not converge"),
    Program(
        "ORCA",
        "orca-output",
        rb"\* O   R   C   A \*",
        rb"ORCA TERMINATED NORMALLY",
        rb"(?i)wavefunction not fully converged|SCF NOT CONVERGED",
    ),
)
CP2K = re.compile(rb"\bCP2K\|")
# The last sections of VASP's files, by their names.
ENDINGS = {"*vasp*.xml": b"</modeling>", "*OUTCAR*": b"General timing and accounting"}
TAIL = 8000  # bytes; OUTCAR's last section has about 1,000


def opens(path: Path) -> bool:
    """Whether the file begins as the output of one of these programs."""
    if not NAMES.fullmatch(suffix_of(path)):
        return False
    return program_of(path) is not None or CP2K.search(start_of(path)) is not None


def program_of(path: Path) -> Program | None:
    """The program that wrote a file."""
    start = start_of(path)
    return next((program for program in PROGRAMS if re.search(program.mark, start)), None)


def read(path: Path) -> Iterator[ase.Atoms]:
    """The structures of the file, each with its results.

    Raises:
        StructureError: CP2K wrote it.
        Exception: whatever ASE's parser raises.
    """
    program = program_of(path)
    if program is None:
        raise StructureError(
            f"{path}: output of CP2K is not read; convert it with dpdata to extended XYZ or deepmd/npy, or "
            "give its trajectory as .xyz"
        )
    with warnings.catch_warnings():  # ASE announces where its parsers will move
        warnings.simplefilter("ignore")
        frames = list(
            ase.io.iread(str(path.absolute()), index=":", format=program.kind, do_not_split_by_at_sign=True)
        )
    yield from frames


def is_output(path: Path) -> bool:
    """Whether a code wrote the file, VASP among them."""
    return _ending(path) is not None or opens(path)


def converged_steps(
    path: Path, read_frames: Callable[[Path], list[ase.Atoms]]
) -> list[tuple[int, ase.Atoms]]:
    """The steps whose electrons converged, with their numbers from 0.

    Raises:
        StructureError: the run was cut off or did not converge.
    """
    ending, program = _ending(path), program_of(path)
    try:
        if ending is not None:
            _check_end(path, ending)
            frames = read_frames(path)
            flags_of = _outcar_flags if b"timing" in ending else _xml_flags
            return [(k, frames[k]) for k in _converged(path, len(frames), flags_of)]
        ended = program is None or _has_ended(path, program)
        frames = read_frames(path)
    except UNPACKING as error:
        raise cannot_unpack(path, error) from error
    if program is not None and not ended:
        _check_last_step(frames, path, program)
    return list(enumerate(frames))


def _ending(path: Path) -> bytes | None:
    """What ends a file of VASP's; None for other programs."""
    name = plain_name(path).name
    return next((ending for pattern, ending in ENDINGS.items() if fnmatch(name, pattern)), None)


def _check_end(path: Path, ending: bytes) -> None:
    with open_with_compression(str(path), "rb") as file:
        tail = b"".join(deque(iter(lambda: file.read(TAIL), b""), maxlen=2))
    if ending not in tail:
        raise StructureError(
            f"{path}: the last frame has no end (no {ending.decode()!r}); the run was cut off or is going "
            "on, give finished output"
        )


def _converged(path: Path, number: int, flags_of: Callable[[IO[bytes]], Iterator[bool]]) -> list[int]:
    """The ionic steps, counted from 0, whose electrons converged; a note says which did not."""
    with open_with_compression(str(path), "rb") as file:
        flags = list(flags_of(file))
    lost = [str(k) for k, flag in enumerate(flags) if not flag]
    if not lost or len(flags) != number:  # steps without electrons, as of a force field that VASP learns
        return list(range(number))
    listed = ", ".join(lost[:8]) + (", …" if lost[8:] else "")
    text = f"{path}: {len(lost)} of {number} ionic steps stopped at NELM without reaching EDIFF ({listed})"
    if len(lost) == number:
        raise StructureError(f"{text}; none is left, converge them with a larger NELM or another ALGO")
    note(f"{text}; they are left out")
    return [k for k, flag in enumerate(flags) if flag]


def _xml_flags(file: IO[bytes]) -> Iterator[bool]:
    """Whether each ionic step of a vasprun.xml converged."""
    limits: dict[str, float] = {}
    for _, element in ET.iterparse(file):
        name = element.get("name", "").upper()
        if element.tag == "i" and name in ("NELM", "EDIFF"):
            limits[name] = _number(element.text)
        elif element.tag == "calculation":
            energies = [_number(e.text) for e in element.findall("scstep/energy/i[@name='e_fr_energy']")]
            change = abs(energies[-1] - energies[-2]) if len(energies) > 1 else 0.0
            ended = len(energies) >= limits.get("NELM", float("inf"))
            yield not (ended and not change <= limits.get("EDIFF", float("inf")))
            element.clear()


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:  # VASP writes stars for what does not fit
        return float("nan")


def _outcar_flags(file: IO[bytes]) -> Iterator[bool]:
    """Whether each ionic step of an OUTCAR converged."""
    most, steps, ended = float("inf"), 0, b""
    for line in file:
        if match := re.match(rb"\s*NELM\s*=\s*(\d+)", line):
            most = int(match[1])
        elif b" Iteration " in line and (match := re.search(rb"\(\s*(\d+)\)", line)):
            steps = int(match[1])
        elif b"aborting loop" in line:
            ended = line
        elif b"FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:  # ends an ionic step, as ASE sees it
            stopped = b"not reached" in ended or b"hard stop" in ended
            yield b"is reached" in ended or not (stopped or steps >= most > 1)
            steps, ended = 0, b""


def _has_ended(path: Path, program: Program) -> bool:
    """Whether the run came to its end; refuses steps that did not converge and a line that is cut."""
    ended, line = False, b""
    end, failure = re.compile(program.end), re.compile(program.failure)
    with open_with_compression(str(path), "rb") as file:
        for number, line in enumerate(file, start=1):
            ended |= end.search(line) is not None
            if failure.search(line):
                raise StructureError(
                    f"{path}: line {number}: self-consistency was not reached ({program.name}); converge "
                    "the calculation, or leave it out"
                )
    if not ended and line.strip() and not line.endswith(b"\n"):
        raise StructureError(f"{path}: ends inside a line; the run of {program.name} was cut off")
    return ended


def _check_last_step(frames: list[ase.Atoms], path: Path, program: Program) -> None:
    """Keep the steps of a run that was cut off or goes on where the last is whole, and say so."""
    labels = [set(atoms.calc.results) if atoms.calc is not None else set() for atoms in frames]
    missing = set.union(*labels) - labels[-1]
    if missing or "energy" not in labels[-1]:
        lacking = ", ".join(sorted(missing)) or "energy"
        raise StructureError(
            f"{path}: the last frame has no {lacking}; the run of {program.name} was cut off or is going on, "
            "give finished output"
        )
    note(f"{path}: the run of {program.name} has no end; its {len(frames)} complete steps are read")
