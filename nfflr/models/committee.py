"""Several potentials as one, whose disagreement is an estimate of the error.

Mean and standard deviation over the members, as of the deep ensembles of Lakshminarayanan et al., NeurIPS
2017; the samples of SWAG (Maddox et al., NeurIPS 2019) are members as well. The mean force is the force of
the mean energy, so that dynamics conserves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ..errors import ConfigError
from .base import Input, Potential


class Ensemble(nn.Module):
    """At least two potentials for the same elements; architectures, cutoffs and precisions may differ.

    It stands in for a ``Potential`` wherever one is only evaluated, as in ``NFFLrCalculator``.

    Raises:
        ConfigError: fewer than two members, one that is no potential, or members that differ in their
            elements or in whether they give forces.
    """

    is_potential = True

    def __init__(self, members: Sequence[Potential]):
        super().__init__()
        members = list(members)
        if len(members) < 2:
            raise ConfigError(f"ensemble: got {len(members)} members; a spread needs at least two")
        first = members[0]
        for k, member in enumerate(members):
            if not member.is_potential:
                raise ConfigError(f"ensemble: member {k} predicts a property; expected potentials")
            if member.elements != first.elements:
                raise ConfigError(
                    f"ensemble: member {k} knows {', '.join(member.elements)}, member 0 "
                    f"{', '.join(first.elements)}; expected the same elements"
                )
            if member.compute_forces != first.compute_forces:
                raise ConfigError(f"ensemble: members 0 and {k} differ in compute_forces")
        # A ModuleList does not say what its modules are.
        self.members = cast(Sequence[Potential], nn.ModuleList(members))

    @property
    def widest(self) -> Potential:
        """The member with the largest cutoff: its graph serves all, for longer bonds change nothing."""
        return max(self.members, key=lambda member: member.cutoff or 0.0)

    @property
    def cutoff(self) -> float:
        return self.widest.cutoff

    @property
    def elements(self) -> tuple[str, ...]:
        return self.members[0].elements

    @property
    def compute_forces(self) -> bool:
        return self.members[0].compute_forces

    @property
    def dtype(self) -> torch.dtype:
        """The highest precision among the members."""
        return max((member.dtype for member in self.members), key=lambda dtype: dtype.itemsize)

    @property
    def device(self) -> torch.device:
        return self.members[0].device

    @property
    def key(self) -> str:
        """Architectures of the members, as ``"ensemble(alignn, alignn)"``; not a key of the registry."""
        names = (getattr(member, "key", type(member).__name__) for member in self.members)
        return f"ensemble({', '.join(names)})"

    def species(self, numbers: torch.Tensor) -> torch.Tensor:
        """As ``Potential.species``."""
        return self.members[0].species(numbers)

    def forward(self, x: Input, stress: bool = True) -> dict[str, torch.Tensor]:
        """As ``Potential.forward``, with the means over the members, all in float64, and their spread.

        Returns:
            besides a potential's: ``energy_std`` () or (B,), eV, and with forces ``forces_std`` (N,), eV/Å,
            the root of the summed variances of the three components. They are sample standard deviations
            (the sum of squares divided by n − 1), and carry no gradient.
        """
        graph = self.widest.graph(x)
        return self.combine([member(graph, stress=stress) for member in self.members])

    @staticmethod
    def combine(outputs: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Means and spread of what the members returned; see ``forward``."""
        result = {}
        for name in (name for name in outputs[0] if all(name in output for output in outputs)):
            # Differences from the first member: equal members give its numbers, and zero spread, exactly.
            first = outputs[0][name].double()
            offsets = torch.stack([output[name].double() - first for output in outputs])  # (M, …)
            result[name] = first + offsets.mean(0)
            if name == "total_energy":
                result["energy_std"] = offsets.detach().std(0)
            elif name == "forces":
                result["forces_std"] = offsets.detach().var(0).sum(1).sqrt()
        return result
