"""SevenNet (Park et al., J. Chem. Theory Comput. 20, 4857, 2024): checkpoints, its own too."""

from __future__ import annotations

from pathlib import Path

from ..foreign_calculator import Peer

PACKAGE, MODULE, EXTRA = "sevenn", "sevenn", "sevennet"
MODELS, EXAMPLE = "https://github.com/MDIL-SNU/SevenNet/releases", "checkpoint_sevennet_omat.pth"
DTYPES = ("float32",)
UNIVERSAL = True  # of most elements, by weights in the package
HELD = ("", "7net-0", "7net-l3i5")  # files of the package, so that nothing is downloaded


def load(argument: str, device: str, dtype: str | None) -> Peer:
    """A pickled checkpoint, or a name of ``HELD``."""
    from ase.data import chemical_symbols
    from sevenn.calculator import SevenNetCalculator
    from sevenn.util import pretrained_name_to_path

    file = pretrained_name_to_path(argument or HELD[1]) if argument in HELD else argument
    calculator = SevenNetCalculator(file, device=device)
    return Peer(
        calculator,
        dtype="float32",
        elements=tuple(chemical_symbols[number] for number in sorted(calculator.type_map)),
        cutoff=float(calculator.cutoff),
        properties=("energy", "free_energy", "energies", "forces", "stress"),
        weights=(Path(file),),
    )
