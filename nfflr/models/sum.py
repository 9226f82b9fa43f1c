"""Sums of potentials: a network and a core repulsion, a dispersion correction, another package's model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import ConfigError
from ..quantities import Quantity
from .evaluator import Combination, Evaluator

ADDITIVE = ("total_energy", "energies", "forces", "stress", "virials")


class Sum(Combination):
    """The sum of at least two evaluators; ``a + b`` makes one.

    Energies, forces, stress and atomic virials add up in float64, those that every term gives. Any other
    quantity is that of the only term that gives it. A term sees the bonds within its own cutoff. The sum
    covers the elements that all terms cover.

    Raises:
        ConfigError: fewer than two terms, or terms without a common element.

    Example:
        >>> from nfflr.models.classical.lennard_jones import LennardJones, LennardJonesConfig
        >>> argon = LennardJones(LennardJonesConfig.argon())
        >>> (argon + argon).cutoff  # Å
        8.5
    """

    noun = "sum"

    def __init__(self, terms: Sequence[Evaluator]):
        super().__init__(terms)
        covered = [set(term.elements) for term in terms if term.elements is not None]
        if covered and not set.intersection(*covered):
            lists = " and ".join(", ".join(term.elements) for term in terms if term.elements is not None)
            raise ConfigError(f"sum: its terms have no element in common; they cover {lists}")
        order = max((t.elements for t in terms if t.elements is not None), key=len, default=None)
        common = set.intersection(*covered) if covered else set()
        self.elements = None if order is None else tuple(e for e in order if e in common)

    @property
    def terms(self) -> Sequence[Evaluator]:
        return self.parts

    @property
    def outputs(self) -> tuple[Quantity, ...]:  # type: ignore[override]
        offered = {q.name: q for part in self.parts for q in part.outputs}
        return tuple(
            quantity for name, quantity in offered.items() if self._count(name) in self._counts(name)
        )

    def _count(self, name: str) -> int:
        return sum(part.gives(name) for part in self.parts)

    def _counts(self, name: str) -> tuple[int, ...]:
        """How many terms have to give a quantity."""
        return (len(self.parts),) if name in ADDITIVE else (1,)

    @property
    def shortest_distances(self) -> torch.Tensor | None:  # type: ignore[override]
        """The largest of what the terms know."""
        if self.elements is None:
            return None
        tables = []
        for part in self.parts:
            if part.shortest_distances is not None and part.elements is not None:
                index = torch.tensor([part.elements.index(e) for e in self.elements])
                tables.append(part.shortest_distances[index][:, index].double())
        return torch.stack(tables).amax(0) if tables else None

    def combine(self, outputs: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        result: dict[str, torch.Tensor] = {}
        for name in dict.fromkeys(name for output in outputs for name in output):
            values = [output[name] for output in outputs if name in output]
            if name in ADDITIVE and len(values) == len(outputs):
                result[name] = torch.stack([value.double() for value in values]).sum(0)
            elif name not in ADDITIVE and len(values) == 1:
                result[name] = values[0]
        return result
