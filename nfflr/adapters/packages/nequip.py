"""NequIP and Allegro (Batzner et al., Nat. Commun. 13, 2453, 2022): checkpoints, packaged or compiled."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError
from ..foreign_calculator import Peer

PACKAGE, MODULE, EXTRA = "nequip", "nequip", "nequip"
MODELS, EXAMPLE = "https://www.nequip.net", "model.nequip.pt2"
DTYPES = ("float32", "float64")  # a model has one of them


def load(argument: str, device: str, dtype: str | None) -> Peer:
    """``.nequip.pt2`` and ``.nequip.pth`` are compiled, ``.nequip.zip`` is packaged, others checkpoints."""
    from ase.data import chemical_symbols
    from nequip.integrations.ase import NequIPCalculator

    compiled = argument.endswith((".nequip.pt2", ".nequip.pth"))
    make = NequIPCalculator.from_compiled_model if compiled else NequIPCalculator._from_saved_model
    calculator = make(argument, device=device, chemical_species_to_atom_type_map=True)
    own = _dtype(calculator.model)
    if dtype not in (None, own):
        raise ConfigError(f"--dtype: nequip:{argument} is a {own} model; got {dtype}")
    mapper, neighbours = calculator.transforms[:2]
    return Peer(
        calculator,
        dtype=own,
        elements=tuple(s for s in mapper.model_type_names if s in chemical_symbols),
        cutoff=float(neighbours.r_max),
        properties=("energy", "free_energy", "energies", "forces", "stress"),
        weights=(Path(argument),),
    )


def _dtype(model) -> str:
    """The coarsest of its weights' (scales and shifts are kept in float64), or as compiled code says."""
    weights = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    if weights:
        return str(min(weights, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")
    return next(part for part in vars(model).values() if hasattr(part, "get_metadata")).get_metadata()[
        "model_dtype"
    ]
