"""What may stand for a calculator on the command line, and what its files are called."""

from __future__ import annotations

import re
from pathlib import Path

from ..checkpoint_files import sources_of
from ..storage.files import stem

SEALED = ".safetensors"


def source_name(source: str) -> str:
    """``mlearn-si``, the name of a run folder, of a model's file, or of a class in small letters.

    Names of the parts of a sum or a committee are joined by ``+``.
    """
    parts = [source] if Path(source).exists() else re.split(r"\s+\+\s+", source)
    parts = sources_of(source) if len(parts) == 1 else parts
    if len(parts) > 1:
        return "+".join(map(source_name, parts))
    prefix, colon, argument = source.partition(":")
    if colon and not Path(source).exists():
        if prefix == "ase":  # module:Class:{…}
            return [*argument.split(":", 2), ""][1].lower() or prefix
        return f"{prefix}-{Path(argument).stem}"
    path = Path(source)
    name = stem(path.absolute()) if path.suffix == SEALED else path.absolute().name
    return path.absolute().parent.name if name == "model" else name
