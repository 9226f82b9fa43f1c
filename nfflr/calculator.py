"""``NFFLrCalculator``: a trained model as an ASE calculator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from .atoms import check_structure
from .checkpoint import load_checkpoint
from .data.graph import periodic_radius_graph
from .data.verlet import VerletList
from .errors import ConfigError, NumericsError
from .models.base import Potential

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class NFFLrCalculator(Calculator):
    """ASE calculator for a model that maps structures to energy, forces and stress.

    Results: ``energy`` = ``free_energy`` (eV), ``energies`` (N,) eV, ``forces`` (N, 3) eV/Å and, where the
    cell has a volume and an axis is periodic, ``stress`` (6,) eV/Å³ in ASE's order and sign.

    Args:
        model: a ``Potential``.
        device: ``"cpu"``, ``"cuda"``, …; default: where the model is.
        dtype: ``"float32"`` or ``"float64"``; default: the model's.
        skin: Å by which the neighbour list reaches beyond the cutoff, so that it can be kept.
        metadata: what ``todict`` reports, as read from the checkpoint.

    Raises:
        ConfigError: unknown dtype or a device that is not there.
        StructureError: on attaching to a structure with an element that the model does not cover.
    """

    name = "nfflr"

    def __init__(
        self,
        model: Potential,
        *,
        device: str | None = None,
        dtype: str | None = None,
        skin: float = 0.5,
        metadata: dict | None = None,
    ):
        super().__init__()
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError(f"dtype: got {dtype!r}; expected one of {sorted(DTYPES)}")
        if skin < 0:
            raise ConfigError(f"skin: got {skin}; expected a length in Å, not negative")
        self.model = model.to(device=_device(device or model.device), dtype=DTYPES.get(dtype)).eval()
        self.metadata = metadata or {}
        self.implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
        self._neighbours = VerletList(model.cutoff, skin, self.model.device)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        skin: float = 0.5,
    ) -> NFFLrCalculator:
        """Calculator from a bundled name, a run folder, or a checkpoint file.

        Raises:
            ConfigError: there is no such checkpoint.
            CheckpointError: it is damaged or does not fit this version.
        """
        model, metadata = load_checkpoint(source)
        return cls(model, device=device, dtype=dtype, skin=skin, metadata={**metadata, "source": str(source)})

    def set_atoms(self, atoms: ase.Atoms) -> None:
        """Called by ASE when the calculator is attached: refuse elements the model does not cover."""
        self.model.species(torch.as_tensor(atoms.numbers, dtype=torch.int64, device=self.model.device))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """One evaluation gives all properties.

        Raises:
            StructureError: the structure cannot be treated (see ``check_structure``).
            NumericsError: the model returned something that is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        check_structure(self.atoms)
        graph = self._neighbours.graph(self.atoms)
        has_stress = _has_volume(self.atoms)
        output = self.model(graph, stress=has_stress)
        self.results = _results(output, has_stress)

    def get_property(self, name, atoms=None, allow_calculation=True):
        """As ASE's; a stress that does not exist is refused before anything is computed."""
        target = self.atoms if atoms is None else atoms
        if name == "stress" and target is not None and not _has_volume(target):
            raise PropertyNotImplementedError(
                "stress needs a periodic structure whose cell has a volume; this one has none"
            )
        return super().get_property(name, atoms, allow_calculation)

    def evaluate(self, structures: Sequence[ase.Atoms], max_edges: int = 100_000) -> list[dict]:
        """Results of many structures, evaluated as batches of at most ``max_edges`` neighbours.

        Returns:
            one dict per structure, as ``calculate`` leaves in ``results``.
        """
        results = []
        for chunk in _chunks(structures, max_edges, self.model.cutoff):
            output = self.model(periodic_radius_graph(chunk, r=self.model.cutoff))
            output = {name: value.cpu() for name, value in output.items()}
            sizes = [len(atoms) for atoms in chunk]
            forces, energies = output["forces"].split(sizes), output["energies"].split(sizes)
            for k, atoms in enumerate(chunk):
                single = {
                    "total_energy": output["total_energy"][k],
                    "energies": energies[k],
                    "forces": forces[k],
                    "stress": output["stress"][k],
                }
                results.append(_results(single, _has_volume(atoms)))
        return results

    def todict(self) -> dict:
        """JSON description: enough to know which numbers these are."""
        return {
            "name": self.name,
            "source": self.metadata.get("source"),
            "architecture": getattr(self.model, "key", type(self.model).__name__),
            "digest": self.metadata.get("sha256"),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "skin": self._neighbours.skin,
        }


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: got {name!r}; expected cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name} asked for, but torch finds no GPU; use --device cpu")
    return device


def _has_volume(atoms: ase.Atoms) -> bool:
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def _results(output: dict[str, torch.Tensor], has_stress: bool) -> dict:
    """The model's dict as ASE wants it: Python floats and contiguous float64 arrays.

    Raises:
        NumericsError: a value is not finite.
    """
    energy = float(output["total_energy"])
    results = {
        "energy": energy,
        "free_energy": energy,
        "energies": _array(output["energies"]),
        "forces": _array(output["forces"]),
    }
    if has_stress:
        results["stress"] = full_3x3_to_voigt_6_stress(_array(output["stress"]))
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise NumericsError(f"structure: the model's {name} is not finite; check the geometry")
    return results


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def _chunks(structures: Sequence[ase.Atoms], max_edges: int, cutoff: float) -> Iterator[list[ase.Atoms]]:
    """Runs of structures whose expected number of neighbours stays within ``max_edges``."""
    chunk, load = [], 0.0
    for k, atoms in enumerate(structures):
        check_structure(atoms, f"structure {k}")
        volume = (
            atoms.cell.volume if _has_volume(atoms) else np.prod(np.ptp(atoms.positions, axis=0) + cutoff)
        )
        edges = len(atoms) ** 2 * 4.19 * cutoff**3 / max(volume, 1.0)
        if chunk and load + edges > max_edges:
            yield chunk
            chunk, load = [], 0.0
        chunk.append(atoms)
        load += edges
    if chunk:
        yield chunk
