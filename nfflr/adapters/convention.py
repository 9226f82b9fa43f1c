"""How a model from elsewhere names and measures its results, and what they are in eV and Å."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..atoms import Atoms
from ..errors import ConfigError, NumericsError, did_you_mean
from ..models.assemble import stress_from_virial
from ..units import KINDS, factor

KEYS = {
    "energy": ("total_energy", "energy"),
    "energies": ("energies",),
    "forces": ("forces",),
    "stress": ("stress",),
    "virial": ("virial",),
}


class Convention:
    """Names, units and signs of a model's results; see ``nfflr.adapters.wrapped.Wrapped``.

    Raises:
        ConfigError: a name, unit or sign that is none.
    """

    def __init__(
        self,
        name: str,
        keys: Mapping[str, str | int | None],
        units: Mapping[str, str],
        signs: Mapping[str, int],
    ):
        self.name = name
        self.keys = _checked("keys", keys, KEYS)
        self.signs = _checked("signs", signs, ("stress", "virial"))
        if any(sign not in (1, -1) for sign in self.signs.values()):
            raise ConfigError(f"signs: got {self.signs}; expected 1 or -1")
        units = {kind: str(unit) for kind, unit in _checked("units", units, KINDS).items()}
        energy_unit = units.pop("energy", "eV")
        self.per_atom = energy_unit.endswith("/atom")
        energy = factor(energy_unit.removesuffix("/atom"), "energy")
        self.length = factor(units.pop("length", "Å"), "length")
        self.factors = {"energy": energy, "energies": energy, "virial": energy}
        self.factors |= {"forces": energy / self.length, "stress": energy / self.length**3}
        self.factors |= {kind: factor(unit, kind) for kind, unit in units.items()}

    def read(self, output: Any, atoms: Atoms, stress: bool) -> dict[str, torch.Tensor]:
        """``total_energy`` (), ``energies`` (N,), ``forces`` (N, 3), ``stress`` (3, 3), those that there are.

        Args:
            output: of the model.
            atoms: the structure, in Å.
            stress: whether it is looked for.

        Raises:
            ConfigError: there is no energy, a key is missing, or a virial has no sign.
            NumericsError: a shape is wrong.
        """
        if isinstance(output, torch.Tensor) and self.keys:
            output = (output,)
        if isinstance(output, tuple | list) and self.keys:
            output = dict(enumerate(output))
        if not isinstance(output, Mapping):
            raise ConfigError(
                f"{self.name}: returned a {type(output).__name__}; expected a dict with 'energy', or give "
                "keys= with the index of each result, as {'energy': 0}"
            )
        n, found = len(atoms), {}
        shapes = {"energy": (), "energies": (n,), "forces": (n, 3), "stress": (3, 3), "virial": (3, 3)}
        for name, shape in shapes.items():
            key = self._key(name, output)
            if key is not None and (stress or name not in ("stress", "virial")):
                found[name] = (
                    self._shaped(output[key], key, shape, atoms.positions.device) * self.factors[name]
                )
        if "energy" not in found:
            raise ConfigError(
                f"{self.name}: returned {sorted(map(str, output))}, no energy; give keys={{'energy': …}}"
            )
        result = {"total_energy": found["energy"] * (n if self.per_atom else 1)}
        result |= {name: found[name] for name in ("energies", "forces") if name in found}
        if "stress" in found:
            sigma = self.signs.get("stress", 1) * found["stress"]
            result["stress"] = (sigma + sigma.T) / 2
        elif "virial" in found:
            if "virial" not in self.signs:
                raise ConfigError(
                    f"{self.name}: returns a virial, of which there are two signs; give "
                    "signs={'virial': -1} if it is −V σ, 1 if V σ, or leave it out: keys={'virial': None}"
                )
            result["stress"] = self.signs["virial"] * stress_from_virial(found["virial"], atoms.cell)
        return result

    def _key(self, name: str, output: Mapping) -> str | int | None:
        if name not in self.keys:
            return next((key for key in KEYS[name] if key in output), None)
        key = self.keys[name]
        if key is not None and key not in output:
            raise ConfigError(
                f"{self.name}: returned no {key!r} for the {name}; it returned "
                f"{', '.join(sorted(map(str, output)))}"
            )
        return key

    def _shaped(
        self, value: Any, key: str | int, shape: tuple[int, ...], device: torch.device
    ) -> torch.Tensor:
        tensor = torch.as_tensor(value, device=device).double()
        exact = tuple(tensor.shape) in (shape, (1, *shape))
        if not exact and not (len(shape) < 2 and tensor.numel() == math.prod(shape)):
            raise NumericsError(f"{self.name}: {key!r} has the shape {tuple(tensor.shape)}; expected {shape}")
        return tensor.reshape(shape)


def _checked(option: str, given: Mapping, names: Sequence[str] | Mapping) -> dict:
    for name in given:
        if name not in names:
            raise ConfigError(
                f"{option}: no {name!r}; expected some of {', '.join(names)}{did_you_mean(str(name), names)}"
            )
    return dict(given)
