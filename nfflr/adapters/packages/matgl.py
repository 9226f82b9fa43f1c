"""MatGL (Ko et al., npj Comput. Mater. 11, 253, 2025): folders that its ``save`` writes."""

from __future__ import annotations

from pathlib import Path

from ..foreign_calculator import Peer

PACKAGE, MODULE, EXTRA = "matgl", "matgl", "matgl"
MODELS, EXAMPLE = "https://huggingface.co/materialyze", "TensorNet-MatPES-PBE-v2025.1-PES"
DTYPES = ("float32",)


def load(argument: str, device: str, dtype: str | None) -> Peer:
    """A folder with ``model.json``, ``model.pt`` and ``state.pt``, or the path of its ``model.json``."""
    import matgl
    from matgl.ext.ase import PESCalculator

    # Its loader imports the classes that model.json names, which is why it has to be trusted.
    folder = Path(argument).parent if Path(argument).is_file() else Path(argument)
    potential = matgl.load_model(folder.resolve()).to(device)
    calculator = PESCalculator(potential, stress_unit="eV/A3", use_voigt=True)
    computed = {
        "stress": potential.calc_stresses,
        "magmoms": potential.calc_magmom,
        "charges": potential.calc_charge,
    }
    return Peer(
        calculator,
        dtype="float32",
        elements=tuple(calculator.element_types),
        cutoff=float(calculator.cutoff),
        properties=("energy", "free_energy", "forces", *(name for name in computed if computed[name])),
        weights=tuple(folder / name for name in ("model.pt", "state.pt")),
        closed=True,  # it treats a slab as a molecule
    )
