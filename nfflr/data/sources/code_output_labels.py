"""Output of FHI-aims, Quantum ESPRESSO, ABINIT, GPAW and ORCA: every step, if all of them converged.

A run without its end is read as far as its steps are whole, with a note.

ASE's parsers convert to eV, eV/Å, and eV/Å³ with tension positive.
"""

from __future__ import annotations

from pathlib import Path

import ase
from ase.io.formats import open_with_compression

from ...errors import StructureError
from ...notes import note
from ...structures import formats
from ...structures.file_text import UNPACKING, cannot_unpack
from ...structures.formats import code_output
from ...structures.readers import read_structures
from . import Entry, Wanted, display_name
from .ase_files import ENERGY_UNITS, KEYS, STRESS, entry

__all__ = ["ENERGY_UNITS", "KEYS", "STRESS", "opens", "read"]


def opens(source: object) -> bool:
    if not isinstance(source, str | Path) or not Path(source).is_file():
        return False
    return formats.find(Path(source)) is code_output


def read(source: str | Path, wanted: Wanted = None) -> list[Entry]:
    path = Path(source)
    program = code_output.program_of(path)
    ended = program is None or _has_ended(path, program)
    frames = read_structures(path)
    if program is not None and not ended:
        _check_last_step(frames, path, program)
    name = display_name(source)
    return [entry(atoms, k, name, wanted) for k, atoms in enumerate(frames)]


def _has_ended(path: Path, program: code_output.Program) -> bool:
    """Whether the run came to its end.

    Raises:
        StructureError: a step did not converge, or the file is cut inside a line.
    """
    ended, line = False, b""
    try:
        with open_with_compression(str(path), "rb") as file:
            for number, line in enumerate(file, start=1):
                ended |= program.end.search(line) is not None
                if program.failure.search(line):
                    raise StructureError(
                        f"{path}: line {number}: self-consistency was not reached ({program.name}); converge "
                        "the calculation, or leave it out"
                    )
    except UNPACKING as error:
        raise cannot_unpack(path, error) from error
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
