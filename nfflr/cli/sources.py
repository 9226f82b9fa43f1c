"""What may stand for a calculator on the command line, and what its files are called."""

from __future__ import annotations

from pathlib import Path

from ..files import stem

SEALED = ".safetensors"


def source_name(source: str) -> str:
    """``mlearn-si``, the name of a run folder, of a model's file, or of a class in small letters."""
    prefix, colon, argument = source.partition(":")
    if colon and not Path(source).exists():
        # The class of ase:module:Class, the file of mace:file, the variant of chgnet:variant.
        return argument.split(":")[1].lower() if prefix == "ase" else f"{prefix}-{Path(argument).stem}"
    path = Path(source)
    name = stem(path.absolute()) if path.suffix == SEALED else path.absolute().name
    return path.absolute().parent.name if name == "model" else name
