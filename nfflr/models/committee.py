"""Several potentials as one, whose disagreement is an estimate of the error.

Mean and standard deviation over the members, as of the deep ensembles of Lakshminarayanan et al., NeurIPS
2017; the samples of SWAG (Maddox et al., NeurIPS 2019) are members as well. The mean force is the force of
the mean energy, so that dynamics conserves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ConfigError
from ..quantities import QUANTITIES, Quantity
from .evaluator import Combination, Evaluator

SPREAD = {"total_energy": "energy_std", "forces": "forces_std"}


class Committee(Combination):
    """At least two potentials for the same elements; architectures, cutoffs and precisions may differ.

    Results are means over the members, in float64, of what all of them give. With them come ``energy_std``
    () or (B,), eV, and, of members that give forces, ``forces_std`` (N,), eV/Å, the root of the summed
    variances of the three components. They are sample standard deviations (the sum of squares divided by
    n − 1), and carry no gradient.

    Raises:
        ConfigError: fewer than two members, one that is no potential, or members that differ in their
            elements or in whether they give forces.
    """

    noun = "committee"

    def __init__(self, members: Sequence[Evaluator]):
        super().__init__(members)
        first = members[0]
        for k, member in enumerate(members):
            if member.elements != first.elements:
                raise ConfigError(
                    f"committee: member {k} knows {', '.join(member.elements or ('all elements',))}, "
                    f"member 0 {', '.join(first.elements or ('all elements',))}; expected the same elements"
                )
            if member.gives("forces") != first.gives("forces"):
                raise ConfigError(f"committee: members 0 and {k} differ in compute_forces")
        self.elements = first.elements

    @property
    def outputs(self) -> tuple[Quantity, ...]:
        first, *others = self.parts
        means = tuple(q for q in first.outputs if all(other.gives(q.name) for other in others))
        return means + tuple(QUANTITIES[SPREAD[q.name]] for q in means if q.name in SPREAD)

    def species(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.parts[0].species(numbers)

    def combine(self, outputs: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
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
