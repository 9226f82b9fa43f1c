"""The one interface of whatever maps structures to quantities, and how several of them make one.

Potentials, sums, committees, models from elsewhere and compiled forms are evaluators. The calculator, engines
and validation ask an evaluator what they need to know; they never ask which class it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import ase
import torch
from ase.data import chemical_symbols
from torch import nn

from ..atoms import Atoms
from ..data.graph import Graph
from ..data.inputs import as_graph
from ..errors import ConfigError, StructureError
from ..quantities import Quantity

Input = Graph | Atoms | ase.Atoms | Sequence[Atoms | ase.Atoms]
NO_CUTOFF = 0.5  # Å, of a search for atoms that coincide, where a model takes no neighbours from us


class Evaluator:
    """What maps structures to quantities.

    Attributes:
        elements: chemical symbols that it covers; None where that is not known.
        cutoff: radius of a neighbourhood (Å); None if it takes no neighbours from us.
        dtype, device: in which precision it computes, and where.
        outputs: quantities that it returns, by name.
        key: what it is: a key of the registry, or as ``"sum(moment, lennard-jones)"``.
        parts: evaluators that it combines; none for a single model.
        metadata: what is known about its origin.
        is_potential: whether energies are among what it returns.
        takes_batches: whether it takes several structures at once.
        takes_candidates: whether it leaves out bonds beyond ``cutoff`` by itself, at little cost.
        takes_parts: whether it takes a part of space with ghosts (a graph with ``n_local``).
        compilable: whether its own computation can be compiled.
        shortest_distances: (n, n) Å, nothing nearer was in the training data, by pairs of ``elements``; None
            where that is not known.
        kind: ``"model"``, or of a compiled form ``"kernel"`` (hand-written), ``"graph"`` or ``"mixed"``.
        origin: of a compiled form, one line on where it came from and how long that took.
    """

    parts: Sequence[Evaluator] = ()
    metadata: ClassVar[dict] = {}
    is_potential: bool = True
    takes_batches: bool = True
    takes_candidates: bool = False
    takes_parts: bool = False
    compilable: bool = False
    kind: str = "model"
    origin: str = "not compiled"

    if TYPE_CHECKING:  # a subclass sets these as attributes, or defines them as properties

        @property
        def elements(self) -> tuple[str, ...] | None: ...
        @property
        def cutoff(self) -> float | None: ...
        @property
        def dtype(self) -> torch.dtype: ...
        @property
        def device(self) -> torch.device: ...
        @property
        def outputs(self) -> tuple[Quantity, ...]: ...
        @property
        def key(self) -> str: ...

        def __call__(self, x: Any, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
            """As ``Potential.forward``."""

    @property
    def shortest_distances(self) -> torch.Tensor | None:
        """As among the attributes."""
        return None

    def gives(self, name: str) -> bool:
        """Whether a quantity of this name is among the outputs."""
        return any(quantity.name == name for quantity in self.outputs)

    def species(self, numbers: torch.Tensor) -> torch.Tensor:
        """Something about each atomic number (N,), once it is certain that all elements are covered.

        Raises:
            StructureError: naming the elements that are not.
        """
        if self.elements is not None:
            refuse_missing(numbers, self.elements)
        return numbers

    def graph(self, x: Input) -> Graph:
        """Whatever describes the structures (see ``as_graph``), on the evaluator's device.

        Raises:
            StructureError: a graph does not reach as far as the cutoff.
        """
        reach = self.cutoff or NO_CUTOFF
        graph = as_graph(x, reach)
        if graph.cutoff < reach - 1e-9:
            raise StructureError(
                f"graph: bonds reach {graph.cutoff:g} Å, the model needs {reach:g} Å; build it for that"
            )
        return graph if graph.src.device == self.device else graph.to(self.device)

    def __add__(self, other: Evaluator) -> Sum:
        """The sum of both, see ``Sum``."""
        return Sum([*self.terms, *other.terms]) if isinstance(other, Evaluator) else NotImplemented

    @property
    def terms(self) -> Sequence[Evaluator]:
        """What it adds to a sum: itself."""
        return [self]


class Compiled(Evaluator):
    """Compiled code of a model, with its weights as they were, on one device in one precision."""

    def __init__(self, model: Evaluator):
        self.model = model

    elements = property(lambda self: self.model.elements)
    cutoff = property(lambda self: self.model.cutoff)
    dtype = property(lambda self: self.model.dtype)
    device = property(lambda self: self.model.device)
    outputs = property(lambda self: self.model.outputs)
    key = property(lambda self: self.model.key)

    def species(self, numbers: torch.Tensor) -> torch.Tensor:
        """As the model's."""
        return self.model.species(numbers)

    def graph(self, x: Input) -> Graph:
        """As the model's."""
        return self.model.graph(x)


class Combination(nn.Module, Evaluator):
    """Several evaluators as one: a subclass says what it covers and how results are combined.

    Each part is given the bonds within its own cutoff, of one graph with the largest.

    Raises:
        ConfigError: fewer than two parts, or one that predicts a property.
    """

    noun: ClassVar[str]
    elements: tuple[str, ...] | None

    def __init__(self, parts: Sequence[Evaluator]):
        super().__init__()
        if len(parts) < 2:
            raise ConfigError(f"{self.noun}: got {len(parts)} members; expected at least two")
        for k, part in enumerate(parts):
            if not part.is_potential:
                raise ConfigError(f"{self.noun}: member {k} predicts a property; expected potentials")
        # A ModuleList does not say what its modules are, and not every evaluator is one.
        self.parts = list(parts)
        self.members = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))

    cutoff = property(lambda self: max((p.cutoff for p in self.parts if p.cutoff), default=None))
    takes_batches = property(lambda self: all(p.takes_batches for p in self.parts))
    takes_parts = property(lambda self: all(p.takes_parts for p in self.parts))

    @property
    def dtype(self) -> torch.dtype:
        """The highest precision among the parts."""
        return max((part.dtype for part in self.parts), key=lambda dtype: dtype.itemsize)

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    @property
    def key(self) -> str:
        return f"{self.noun}({', '.join(part.key for part in self.parts)})"

    def forward(self, x: Input, stress: bool = True, virials: bool = False) -> dict[str, torch.Tensor]:
        """The combined results; see ``combine``."""
        return self.evaluate(self.parts, self.graph(x), stress, virials)

    def evaluate(
        self, forms: Sequence[Evaluator], graph: Graph, stress: bool, virials: bool = False
    ) -> dict[str, torch.Tensor]:
        """As ``forward``, by other forms of the parts, such as compiled ones."""
        return self.combine([form(within(graph, form), stress, virials) for form in forms])

    def combine(self, outputs: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """One dict of what the parts returned."""
        raise NotImplementedError


def within(graph: Graph, evaluator: Evaluator) -> Graph:
    """The bonds that an evaluator may see: those within its own cutoff."""
    reach = evaluator.cutoff or NO_CUTOFF
    longer = graph.cutoff > reach + 1e-9 and not evaluator.takes_candidates
    return graph.shorter_than(reach) if longer else graph


def refuse_missing(numbers: torch.Tensor, elements: Sequence[str]) -> None:
    """Refuse atomic numbers (N,) that ``elements`` do not cover.

    Raises:
        StructureError: naming them.
    """
    present = {chemical_symbols[n] if 0 <= n < len(chemical_symbols) else f"Z={n}" for n in numbers.tolist()}
    if missing := sorted(present - set(elements)):
        raise StructureError(
            f"structure: element {', '.join(missing)} is not covered by this model; "
            f"it knows {', '.join(elements)}"
        )


SPREADS = ("energy_std", "forces_std")  # of a committee, which a sum of several does not have


class Sum(Combination):
    """The sum of at least two evaluators; ``a + b`` makes one.

    Quantities that follow from the energy (``Quantity.additive``) add up in float64, if every term gives
    them. Any other quantity is that of the only term that gives it; spreads of several committees are left
    out. A term sees the bonds within its own cutoff. The sum covers the elements that all terms cover.

    Raises:
        ConfigError: fewer than two terms, terms without a common element, or two terms that predict the same
            quantity which does not add up.

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
        for name, quantity in _offered(terms).items():
            if not quantity.additive and name not in SPREADS and sum(t.gives(name) for t in terms) > 1:
                raise ConfigError(f"sum: several terms predict {name}, which does not add up; expected one")
        order = max((t.elements for t in terms if t.elements is not None), key=len, default=None)
        common = set.intersection(*covered) if covered else set()
        self.elements = None if order is None else tuple(e for e in order if e in common)

    @property
    def terms(self) -> Sequence[Evaluator]:
        return self.parts

    @property
    def outputs(self) -> tuple[Quantity, ...]:
        return tuple(
            quantity
            for name, quantity in _offered(self.parts).items()
            if sum(part.gives(name) for part in self.parts) == (len(self.parts) if quantity.additive else 1)
        )

    @property
    def shortest_distances(self) -> torch.Tensor | None:
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
        for quantity in self.outputs:
            values = [output[quantity.name] for output in outputs if quantity.name in output]
            if quantity.additive and len(values) == len(outputs):
                result[quantity.name] = torch.stack([value.double() for value in values]).sum(0)
            elif not quantity.additive and values:
                (result[quantity.name],) = values
        if all("virials" in output for output in outputs):  # given on request, and no output by default
            result["virials"] = torch.stack([output["virials"].double() for output in outputs]).sum(0)
        return result


def _offered(parts: Sequence[Evaluator]) -> dict[str, Quantity]:
    """All quantities that some part gives, by name."""
    return {quantity.name: quantity for part in parts for quantity in part.outputs}
