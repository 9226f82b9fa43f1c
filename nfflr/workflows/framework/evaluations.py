"""Evaluations of many structures, as batches where the calculator can."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.io.jsonio import encode

from ...errors import NFFLrError, NumericsError
from ...storage.archives import Archive, description_of
from .interface import has_stress

BLOCK = 2048  # atoms in one call of calculator.evaluate: what a kill may lose, and what saturates a core


def evaluate(
    calculator: Calculator,
    structures: Iterable[ase.Atoms],
    properties: Sequence[str] | None = None,
    *,
    archive: Archive = Archive(),
    finished: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict]:
    """Properties of independent structures, in their order.

    A calculator with an ``evaluate`` method gets them as blocks of some thousand atoms, any other one by one.
    A block is also what an archive keeps: the cut depends on the sizes alone, so that a run that was killed
    and resumed evaluates the same batches. It gets the same bits if the calculator has no memory:
    ``NFFLrCalculator.evaluate`` has none, the neighbour list of ASE's EMT is one.

    Args:
        calculator: any ASE calculator.
        structures: left as they are. Forces are raw: constraints do not act.
        properties: ASE names; default: energy, forces, the stress where there is one, and what else a batch
            gives.
        archive: keeps finished blocks, which belong to the structures and to ``calculator.todict()`` alone.
        finished: called after each block with the number of structures done, and of all.

    Returns:
        one dict per structure: ``energy`` (float, eV), ``forces`` (N, 3) eV/Å, ``stress`` (6,) eV/Å³, …

    Raises:
        NumericsError: a property is not finite; names the structure by its position.
        StructureError: as the calculator does.
    """
    structures = list(structures)
    results: list[dict] = []
    for block in _blocks(calculator, structures):
        name = f"batch-{digest(calculator, block, *(properties or ()))}"
        record = archive.load(name)
        if record is None:
            computed = enumerate(_compute(calculator, block, properties, first=len(results)))
            record = {f"{k}-{key}": np.asarray(value) for k, r in computed for key, value in r.items()}
            archive.save(name, record)
        results += _unpack(record, len(block))
        finished(len(results), len(structures))
    return results


def _blocks(calculator: Calculator, structures: Sequence[ase.Atoms]) -> Iterator[list[ase.Atoms]]:
    """Runs of at most ``BLOCK`` atoms, or of one structure."""
    room = BLOCK if hasattr(calculator, "evaluate") else 0
    block: list[ase.Atoms] = []
    for atoms in structures:
        if block and sum(map(len, block)) + len(atoms) > room:
            yield block
            block = []
        block.append(atoms)
    if block:
        yield block


def _compute(
    calculator: Calculator, block: list[ase.Atoms], properties: Sequence[str] | None, first: int
) -> list[dict]:
    """Results of a block whose first structure has the position ``first``."""
    try:
        if hasattr(calculator, "evaluate"):
            results: list[dict] = calculator.evaluate(block)
        else:
            results = [_single(calculator, atoms, properties) for atoms in block]
    except NFFLrError as error:
        # The calculator counts within the block.
        message = re.sub(r"^structure (\d+)", lambda m: f"structure {int(m[1]) + first}", str(error))
        raise type(error)(message) from error
    if properties is not None:
        results = [{name: result[name] for name in properties} for result in results]
    for k, result in enumerate(results):
        for name, value in result.items():
            if not np.isfinite(value).all():
                raise NumericsError(f"structure {first + k}: {name} is not finite; check the geometry")
    return results


def _single(calculator: Calculator, atoms: ase.Atoms, properties: Sequence[str] | None) -> dict:
    if properties is None:
        stress = has_stress(atoms) and "stress" in calculator.implemented_properties
        properties = ("energy", "forces", *(("stress",) if stress else ()))
    return {name: calculator.get_property(name, atoms) for name in properties}


def digest(calculator: Calculator, structures: Sequence[ase.Atoms], *what: str) -> str:
    """Hexadecimal digest of what results depend on: calculator, structures, and ``what`` is asked of them."""
    kind = f"{type(calculator).__module__}.{type(calculator).__qualname__}"
    # Where a model was read from may change; what it is may not.
    model = {name: value for name, value in description_of(calculator).items() if name != "source"}
    text = encode([kind, json.dumps(model, sort_keys=True), what, [atoms.todict() for atoms in structures]])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _unpack(record: dict[str, np.ndarray], count: int) -> list[dict]:
    results: list[dict] = [{} for _ in range(count)]
    for key, value in record.items():
        k, name = key.split("-", 1)
        results[int(k)][name] = float(value) if value.ndim == 0 else value
    return results
