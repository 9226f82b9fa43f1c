"""How far a potential looks: cutoffs between an atom and the farthest that changes its energy."""

from __future__ import annotations

import torch

from ...atoms import Atoms
from ...data.graph import Graph, periodic_radius_graph
from ...models.assemble import differentiate
from ...models.base import Potential
from ...models.evaluator import Evaluator

MOST = 12  # hops that can be told apart
SPACINGS = (0.45, 0.7)  # of the cutoff: with and without second neighbours


def hops(model: Evaluator) -> int:
    """Number of bonds, each as long as the cutoff at most, over which an atomic energy reaches.

    1 for a strictly local potential, and one or more for each layer of message passing. It is not taken from
    what a model says of itself: it is found from the bonds that have a part in the gradient of the energy
    at the end of a crumpled chain.

    Args:
        model: any potential; its weights should be trained ones, since a weight of zero passes nothing.
    """
    if model.parts:
        return max(map(hops, model.parts))
    assert isinstance(model, Potential)  # as all that take parts of space, and combine no others
    return max(_seen(model, _chain(model, spacing)) for spacing in SPACINGS)


def _chain(model: Potential, spacing: float) -> Graph:
    """A chain without straight or right angles, of all elements in turn."""
    n = 2 * MOST + 2
    random = torch.Generator().manual_seed(1)
    side = 0.25 * torch.rand(n, 2, generator=random, dtype=torch.float64) + 0.05
    side[::2] *= -1
    along = torch.arange(n, dtype=torch.float64)[:, None]
    positions = spacing * model.cutoff * torch.cat([along, side], dim=1)  # (n, 3)
    numbers = model.numbers.cpu().repeat(n)[:n]
    atoms = Atoms(
        positions, numbers, torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    )
    return periodic_radius_graph(atoms, model.cutoff).to(model.device)


def _seen(model: Potential, graph: Graph) -> int:
    with torch.inference_mode(False), torch.enable_grad():
        inputs = model.inputs(graph)
        inputs.vectors.requires_grad_()
        slopes = differentiate(model, inputs, n_local=1)[1]
    assert slopes is not None  # the model gives forces
    used = slopes.abs().sum(1) > 0  # (E,)
    farthest = max([1, *graph.src[used].tolist(), *graph.dst[used].tolist()])  # along the chain
    distance = {0: 0}  # breadth first; an atom's neighbours have the numbers around its own
    for atom in range(1, farthest + 1):
        near = graph.src[graph.dst == atom].tolist()
        distance[atom] = 1 + min((distance[j] for j in near if j in distance), default=0)
    return distance[farthest]
