"""VASP's vasprun.xml and OUTCAR, also compressed: every ionic step, refused where the run has no end.

ASE's parsers convert stress to eV/Å³, tension positive. The energy is that of ASE (σ → 0 extrapolation);
``keys={"total_energy": "free_energy"}`` takes the free energy, whose derivative VASP's forces are.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from ase.io.formats import get_compression, open_with_compression

from ...errors import StructureError
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
    name = display_name(source)
    return [entry(atoms, k, name, wanted) for k, atoms in enumerate(read_structures(path))]


def _ending(path: Path) -> bytes | None:
    name, _ = get_compression(path.name)
    return next((ending for pattern, ending in ENDINGS.items() if fnmatch(name, pattern)), None)
