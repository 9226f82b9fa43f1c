"""MACE (Batatia et al., NeurIPS 2022): models that ``mace_run_train`` or their pages give."""

from __future__ import annotations

from pathlib import Path

from ..foreign_calculator import Peer

PACKAGE, MODULE, EXTRA = "mace-torch", "mace", "mace"
MODELS, EXAMPLE = "https://github.com/ACEsuit/mace-foundations/releases", "mace-mpa-0-medium.model"
DTYPES = ("float32", "float64")


def load(argument: str, device: str, dtype: str | None) -> Peer:
    """A pickled model file."""
    import torch
    from ase.data import chemical_symbols
    from mace.calculators import MACECalculator

    model = torch.load(argument, map_location=device, weights_only=False)
    own = str(next(model.parameters()).dtype).removeprefix("torch.")
    calculator = MACECalculator(models=[model], device=device, default_dtype=dtype or own)
    return Peer(
        calculator,
        dtype=dtype or own,
        elements=tuple(chemical_symbols[int(number)] for number in model.atomic_numbers),
        cutoff=float(model.r_max),
        properties=("energy", "free_energy", "energies", "forces", "stress"),
        weights=(Path(argument),),
    )
