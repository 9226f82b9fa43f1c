"""The one door to a potential: ours by name, folder or file, and those of other packages by prefix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .adapters import hint, is_foreign, open_foreign
from .adapters.foreign_calculator import ForeignCalculator
from .calculator import NFFLrCalculator, find_device
from .errors import ConfigError


def open_calculator(
    source: str | Path | Sequence[str | Path],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    compile: bool = False,
    trust: bool = False,
) -> NFFLrCalculator | ForeignCalculator:
    """An ASE calculator from what may stand after ``--model``.

    Args:
        source: a bundled name, run folder or checkpoint; a committee ``a,b``, a sum ``a + b``; or ``chgnet``,
            ``mace:<file>``, ``matgl:<folder>``, ``sevennet:<file>``, ``nequip:<file>``, ``orb:<name>``,
            ``ase:<module>:<Class>[:json arguments]``.
        device: ``"cpu"``, ``"cuda"``, …
        dtype: ``"float32"`` or ``"float64"``; default: the model's.
        compile: evaluate a compiled form, which only NFFLr's own models have.
        trust: agree that reading a program, or another package's file, may run code that it holds. Our own
            checkpoints never do.

    Raises:
        ConfigError: nothing has this name, a package is not installed, or an option does not go with it.
        CheckpointError: a file is missing, damaged, or not trusted.

    Example:
        >>> from ase.build import bulk
        >>> copper = bulk("Cu", a=3.6)
        >>> copper.calc = open_calculator("ase:ase.calculators.emt:EMT")
        >>> abs(copper.get_potential_energy()) < 0.01  # eV, from the crystal at rest
        True
    """
    if isinstance(source, str) and is_foreign(source):
        if compile:
            raise ConfigError(f"--compile: {source} is not NFFLr's own model; leave --compile out")
        return open_foreign(source, str(find_device(device)), dtype, trust)
    try:
        return NFFLrCalculator.load(source, device=device, dtype=dtype, compile=compile, trust=trust)
    except ConfigError as error:
        if not isinstance(source, str) or Path(source).exists() or "did you mean" in str(error):
            raise
        raise ConfigError(f"{error}{hint(source)}") from error
