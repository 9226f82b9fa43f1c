"""Output of electronic structure codes, also compressed: every step whose electrons converged.

VASP's vasprun.xml and OUTCAR are refused where the run has no end. A step that stopped at NELM without
reaching EDIFF has no energy to learn: it is left out, and a note says so. The energy is that of ASE (σ → 0
extrapolation); ``keys={"total_energy": "free_energy"}`` takes the free energy, whose derivative VASP's forces
are. Output of FHI-aims, Quantum ESPRESSO, ABINIT, GPAW and ORCA is refused where a step did not converge; a
run without its end is read as far as its steps are whole, with a note.

ASE's parsers convert to eV, eV/Å, and eV/Å³ with tension positive.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

import ase
from ase.io.formats import open_with_compression

from ...errors import StructureError
from ...notes import note
from ...structures import formats
from ...structures.file_text import UNPACKING, cannot_unpack, plain_name
from ...structures.formats import code_output
from ...structures.readers import read_structures
from . import Entry, Wanted, display_name, file_of
from .ase_files import ENERGY_UNITS, KEYS, STRESS, entry

__all__ = ["ENERGY_UNITS", "KEYS", "STRESS", "opens", "read"]

ENDINGS = {"*vasp*.xml": b"</modeling>", "*OUTCAR*": b"General timing and accounting"}  # of VASP's files
TAIL = 8000  # bytes; OUTCAR's last section has about 1,000


def opens(source: object) -> bool:
    path = file_of(source)
    return path is not None and (_ending(path) is not None or formats.find(path) is code_output)


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    path, name = Path(source), display_name(source)
    ending = _ending(path)
    try:
        frames = _other_steps(path) if ending is None else _vasp_steps(path, ending)
    except UNPACKING as error:
        raise cannot_unpack(path, error) from error
    return [entry(atoms, k, name, wanted) for k, atoms in frames]


def _ending(path: Path) -> bytes | None:
    """What ends a file of VASP's; None for other programs."""
    name = plain_name(path).name
    return next((ending for pattern, ending in ENDINGS.items() if fnmatch(name, pattern)), None)


def _vasp_steps(path: Path, ending: bytes) -> list[tuple[int, ase.Atoms]]:
    """The ionic steps of VASP that converged, with their numbers."""
    with open_with_compression(str(path), "rb") as file:
        tail = b"".join(deque(iter(lambda: file.read(TAIL), b""), maxlen=2))
    if ending not in tail:
        raise StructureError(
            f"{path}: the last frame has no end (no {ending.decode()!r}); the run was cut off or is going "
            "on, give finished output"
        )
    frames = read_structures(path)
    steps = _converged_steps(path, len(frames), _outcar_flags if b"timing" in ending else _xml_flags)
    return [(k, frames[k]) for k in steps]


def _converged_steps(path: Path, number: int, flags_of: Callable[[IO[bytes]], Iterator[bool]]) -> list[int]:
    """The ionic steps, counted from 0, whose electrons converged; a note says which did not.

    Raises:
        StructureError: none did.
    """
    with open_with_compression(str(path), "rb") as file:
        flags = list(flags_of(file))
    if len(flags) != number:  # steps without electrons, as of a force field that VASP learns
        return list(range(number))
    lost = [str(k) for k, flag in enumerate(flags) if not flag]
    if not lost:
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


def _other_steps(path: Path) -> list[tuple[int, ase.Atoms]]:
    """The steps of another program, with their numbers."""
    program = code_output.program_of(path)
    ended = program is None or _has_ended(path, program)
    frames = read_structures(path)
    if program is not None and not ended:
        _check_last_step(frames, path, program)
    return list(enumerate(frames))


def _has_ended(path: Path, program: code_output.Program) -> bool:
    """Whether the run came to its end.

    Raises:
        StructureError: a step did not converge, or the file is cut inside a line.
    """
    ended, line = False, b""
    with open_with_compression(str(path), "rb") as file:
        for number, line in enumerate(file, start=1):
            ended |= program.end.search(line) is not None
            if program.failure.search(line):
                raise StructureError(
                    f"{path}: line {number}: self-consistency was not reached ({program.name}); converge "
                    "the calculation, or leave it out"
                )
    if not ended and line.strip() and not line.endswith(b"\n"):
        raise StructureError(f"{path}: ends inside a line; the run of {program.name} was cut off")
    return ended


def _check_last_step(frames: list[ase.Atoms], path: Path, program: code_output.Program) -> None:
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
