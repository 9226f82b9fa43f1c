"""CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031, 2023), whose weights are in its package."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError
from ..foreign_calculator import Peer

PACKAGE, MODULE, EXTRA, MODELS = "chgnet", "chgnet", "universal", None
DTYPES = ("float32",)
UNIVERSAL = True  # of most elements, by weights in the package
VERSIONS = ("0.3.0", "r2scan", "0.2.0")


def load(argument: str, device: str, dtype: str | None) -> Peer:
    """``chgnet``, or ``chgnet:r2scan`` for another of the models that the package holds."""
    import chgnet
    from ase.data import chemical_symbols
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    version = argument or VERSIONS[0]
    if version not in VERSIONS:
        raise ConfigError(f"chgnet:{version}: no such model; chgnet holds {', '.join(VERSIONS)}")
    model = CHGNet.load(model_name=version, use_device=device, verbose=False)
    calculator = CHGNetCalculator(model, use_device=device, on_isolated_atoms="ignore")
    return Peer(
        calculator,
        dtype="float32",
        elements=tuple(chemical_symbols[1:95]),  # the rows of its embedding, hydrogen to plutonium
        cutoff=float(model.graph_converter.atom_graph_cutoff),
        properties=("energy", "free_energy", "forces", "stress", "magmoms"),
        weights=tuple((Path(chgnet.__file__).parent / "pretrained" / version).glob("*.pth.tar")),
        closed=True,
    )
