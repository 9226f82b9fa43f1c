"""What a file is, by its name and first bytes, so that an error can say what was given in the wrong place.

The table of endings is here, since this module loads neither ASE nor numpy.
"""

from __future__ import annotations

import json
from pathlib import Path

START = 4096  # bytes that are looked at
CHECKPOINT, CONFIG, DATA, STRUCTURE = "a checkpoint", "a Python file", "a file of structures", "a structure"
RESULT, SETTINGS, PICTURE = "a result of nff", "a YAML file", "a picture"
STATE, FOREIGN = "the state of a training", "a model file of another program"
BY_SUFFIX = {".py": CONFIG, ".yaml": SETTINGS, ".yml": SETTINGS}
BY_SUFFIX |= dict.fromkeys((".png", ".pdf", ".svg", ".jpg", ".jpeg"), PICTURE)
BY_SUFFIX |= dict.fromkeys((".pt", ".pth", ".pt2", ".model", ".ckpt", ".pkl", ".pickle"), FOREIGN)
XYZ, POSCAR = (".xyz", ".extxyz", ".exyz"), (".vasp", ".poscar")
# What counts as a structure in a folder that is given whole: one structure per file, no results of ours.
STRUCTURES = {*XYZ, *POSCAR, ".cif", ".gen", ".pdb", ".res", ".xsf"}
STRUCTURE_NAMES = ("POSCAR*", "CONTCAR*")
SINGLE = {*POSCAR, ".cif", ".gen", ".pdb", ".xsf", ".mol", ".cml"}  # hold no labels
# What counts as labelled data in a folder that is given whole.
LABELLED = {*XYZ, ".db", ".traj", ".lmdb", ".aselmdb", ".npz"}
LABELLED_NAMES = ("*OUTCAR*", "*vasprun*.xml*")
OTHERS = {  # kinds that hold no structure, and what they are for
    CHECKPOINT: "give it to --model, and a structure here",
    CONFIG: "a config is for nff train, give a structure here",
    SETTINGS: "settings go to --config, give a structure here",
    RESULT: "give a structure, such as the one that the command wrote too",
    STATE: "it is for --resume, give a structure here",
    FOREIGN: "give it to --model as PACKAGE:FILE, and a structure here",
    PICTURE: "give a structure",
}
LARGEST = 2**22  # bytes of a result that is looked into


def kind_of(path: str | Path, structures: bool = True) -> str | None:
    """``"a checkpoint"``, ``"a Python file"``, ``"a file of structures"``, …; None if it is none of these.

    A file that does not exist, or cannot be read, is none of them. Nothing is run. Without ``structures``
    it is not looked into for those, which takes longer.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            start = file.read(START)
    except (OSError, ValueError):  # a name that no file can have
        return None
    if 0 < int.from_bytes(start[:8], "little") < 2**32 and start[8:9] == b"{":  # a header and its length
        if b"nfflr-checkpoint" in start:
            return CHECKPOINT
        return STATE if b"nfflr-" in start else FOREIGN
    if start.startswith(b"\x89PNG"):
        return PICTURE
    suffix = path.suffix.lower()
    if suffix == ".json" and _is_result(path):
        return RESULT
    return BY_SUFFIX.get(suffix) or (_of_structures(path) if structures else None)


def _is_result(path: Path) -> bool:
    """Whether a JSON file was written by a command of nff."""
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"command", "versions"} <= record.keys()


def _of_structures(path: Path) -> str | None:
    if path.suffix.lower() in SINGLE or path.name.startswith(("POSCAR", "CONTCAR")):
        return STRUCTURE
    import ase.io.formats  # imported here, since both take time

    from . import formats

    if formats.find(path) is not None:
        return DATA
    ioformat = ase.io.formats.ioformats.get(formats.ase_format(path) or "")
    return DATA if ioformat is not None and ioformat.can_read else None
