"""Compressed files of formats that ASE reads only from a plain file: databases and trajectories.

They are unpacked into a temporary folder, which goes when they are read.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ase
from ase.io.formats import get_compression, open_with_compression

from ...errors import StructureError
from ..ase_formats import read_with_ase
from ..json_text import UNPACKING, start_of

PLAIN_ONLY = (".db", ".traj", ".nc")
ASE_JSON = re.compile(rb'\s*\{\s*"(?:\d+|ids|nextid)"\s*:')


def opens(path: Path) -> bool:
    """Whether a compressed file has a name of one of these formats."""
    name, compression = get_compression(path.name)
    if compression is None:
        return False
    suffix = Path(name).suffix
    return suffix in PLAIN_ONLY or (suffix == ".json" and ASE_JSON.match(start_of(path)) is not None)


def read(path: Path) -> Iterator[ase.Atoms]:
    """The structures of the file inside.

    Raises:
        StructureError: it cannot be unpacked.
        Exception: whatever ASE's parser raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / Path(get_compression(path.name)[0]).name
        try:
            with open_with_compression(str(path), "rb") as source, open(plain, "wb") as target:
                shutil.copyfileobj(source, target)
        except UNPACKING as error:
            raise StructureError(
                f"{path}: cannot be unpacked ({error}); it is truncated, copy it again"
            ) from error
        yield from read_with_ase(plain)
