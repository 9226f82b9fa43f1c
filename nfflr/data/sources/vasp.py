"""VASP's vasprun.xml and OUTCAR, also compressed: every ionic step that converged; refused where the run has
no end.

An ionic step whose electrons did not converge (NELM steps without reaching EDIFF) has no energy to learn: it
is left out, and a note says so.

ASE's parsers convert stress to eV/Å³, tension positive. The energy is that of ASE (σ → 0 extrapolation);
``keys={"total_energy": "free_energy"}`` takes the free energy, whose derivative VASP's forces are.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from ase.io.formats import get_compression, open_with_compression

from ...errors import StructureError
from ...notes import note
from ...structures.readers import read_structures
from . import Entry, Wanted, display_name
from .ase_files import ENERGY_UNITS, KEYS, STRESS, entry

__all__ = ["ENERGY_UNITS", "KEYS", "STRESS", "opens", "read"]

ENDINGS = {"*vasp*.xml": b"</modeling>", "*OUTCAR*": b"General timing and accounting"}
TAIL = 8000  # bytes; OUTCAR's last section has about 1,000


def opens(source: object) -> bool:
    return isinstance(source, str | Path) and Path(source).is_file() and _ending(Path(source)) is not None


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    path, ending = Path(source), _ending(Path(source))
    try:
        with open_with_compression(str(path), "rb") as file:
            tail = b""
            while block := file.read(2**20):
                tail = (tail + block)[-TAIL:]
    except (OSError, EOFError, ValueError) as error:  # lzma and zlib raise their own kinds of these
        raise StructureError(f"{path}: cannot be unpacked ({error}); the file is truncated") from error
    assert ending is not None  # opens() has seen it
    if ending not in tail:
        raise StructureError(
            f"{path}: the last frame has no end (no {ending.decode()!r}); the run was cut off or is going "
            "on, give finished output"
        )
    name, frames = display_name(source), read_structures(path)
    sound = _converged_steps(path, len(frames), _outcar_flags if b"timing" in ending else _xml_flags)
    return [entry(frames[k], k, name, wanted) for k in sound]


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


def _ending(path: Path) -> bytes | None:
    name, _ = get_compression(path.name)
    return next((ending for pattern, ending in ENDINGS.items() if fnmatch(name, pattern)), None)
