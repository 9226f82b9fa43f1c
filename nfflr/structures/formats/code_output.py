"""Text output of FHI-aims, Quantum ESPRESSO, ABINIT, GPAW and ORCA, recognised by its content.

ASE's parsers read it; they give eV, eV/Å, and eV/Å³ with tension positive. VASP's files are
read without this. CP2K's output is refused: ASE has no parser for it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.io

from ...errors import StructureError
from ..file_text import start_of, suffix_of

NAMES = re.compile(r"|\.(out|log|txt|abo|pwo|stdout|o\d+|out\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Program:
    """How the output of a program is told, which parser of ASE's reads it, and how it ends.

    Attributes:
        mark: what its beginning holds.
        end: what a run that came to its end writes.
        failure: what stands where self-consistency was not reached.
    """

    name: str
    kind: str
    mark: re.Pattern[bytes]
    end: re.Pattern[bytes]
    failure: re.Pattern[bytes]

    @classmethod
    def of(cls, name: str, kind: str, mark: bytes, end: bytes, failure: bytes) -> Program:
        return cls(name, kind, re.compile(mark), re.compile(end), re.compile(failure, re.IGNORECASE))


PROGRAMS = (
    Program.of(
        "FHI-aims",
        "aims-output",
        rb"Invoking FHI-aims|description geometry\.in|Begin self-consistency loop: |Total energy uncorrected",
        rb"Have a nice day",
        rb"self-consistency cycle not converged",
    ),
    Program.of(
        "Quantum ESPRESSO", "espresso-out", rb"Program PWSCF", rb"JOB DONE", rb"convergence NOT achieved"
    ),
    Program.of(
        "ABINIT",
        "abinit-out",
        rb"\.Version .* of ABINIT",
        rb"Calculation completed|END DATASET",
        rb"was not enough scf cycles to converge",
    ),
    Program.of("GPAW", "gpaw-out", rb"  ___ ___ ___ _ _ _", rb"^Total: .* 100\.0%", rb"did not converge"),
    Program.of(
        "ORCA",
        "orca-output",
        rb"\* O   R   C   A \*",
        rb"ORCA TERMINATED NORMALLY",
        rb"wavefunction not fully converged|SCF NOT CONVERGED",
    ),
)
CP2K = re.compile(rb"\bCP2K\|")


def opens(path: Path) -> bool:
    """Whether the file begins as the output of one of these programs."""
    if not NAMES.fullmatch(suffix_of(path)):
        return False
    return program_of(path) is not None or CP2K.search(start_of(path)) is not None


def program_of(path: Path) -> Program | None:
    """The program that wrote a file."""
    start = start_of(path)
    return next((program for program in PROGRAMS if program.mark.search(start)), None)


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
