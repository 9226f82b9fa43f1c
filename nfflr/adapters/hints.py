"""What somebody may want who gives a name that is none of a potential: ``mace-mp-0``, ``CHGNet``, ``emt``."""

from __future__ import annotations

import re

from ase.calculators.calculator import get_calculator_class
from ase.calculators.names import names as calculators

from ..errors import did_you_mean
from .packages import adapter, names

ALIASES = {"7net": "sevennet", "m3gnet": "matgl", "tensornet": "matgl", "allegro": "nequip"}


def hint(source: str) -> str:
    """How the potential is given that a name resembles, as the end of a message; else an empty string."""
    word = source.lower()
    for start, name in {**{name: name for name in names()}, **ALIASES}.items():
        if re.match(rf"{start}([^a-z]|$)", word):
            kind = adapter(name)
            if kind.MODELS is None:
                return f"; did you mean {name!r}?"
            return f"; potentials of {name} are files from {kind.MODELS}, given as {name}:FILE"
    return _of_ase(word) or did_you_mean(source, names())


def _of_ase(word: str) -> str:
    """The calculator of ASE's with this name."""
    if word not in calculators:
        return ""
    try:
        found = get_calculator_class(word)
    except ImportError:  # it needs another package
        return ""
    return f"; did you mean 'ase:{found.__module__}:{found.__name__}'?"
