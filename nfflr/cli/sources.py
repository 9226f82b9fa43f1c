"""What may stand for a calculator on the command line, and what its files are called."""

from __future__ import annotations

from pathlib import Path

from ..storage.files import stem

SEALED = ".safetensors"


def source_name(source: str) -> str:
    """``mlearn-si``, the name of a run folder, of a model's file, or of a class in small letters."""
    prefix, colon, argument = source.partition(":")
    if colon and not Path(source).exists():
        if prefix == "ase":  # module:Class:{…}
            return [*argument.split(":", 2), ""][1].lower() or prefix
        return f"{prefix}-{Path(argument).stem}"
    path = Path(source)
    name = stem(path.absolute()) if path.suffix == SEALED else path.absolute().name
    return path.absolute().parent.name if name == "model" else name
