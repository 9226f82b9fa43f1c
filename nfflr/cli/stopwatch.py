"""Where the processor time of ``NFFLrCalculator`` goes: the neighbour list, and the model."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..calculator import NFFLrCalculator
from ..models.evaluator import Compiled


class Stopwatch:
    """Adds up processor seconds by part while a calculator works; called, it says how many so far.

    It looks at the calculator from outside and changes nothing in what it computes.
    """

    def __init__(self, calculator: NFFLrCalculator):
        self.totals = {"neighbours": 0.0, "model": 0.0}
        neighbours = calculator._neighbours
        compiled = calculator.compiled
        search = "candidates" if compiled is not None and compiled.takes_candidates else "graph"
        setattr(neighbours, search, self._timed("neighbours", getattr(neighbours, search)))
        if compiled is not None:
            calculator._compiled = _Watched(compiled, self._timed("model", compiled))
        else:
            vars(calculator.model)["forward"] = self._timed("model", calculator.model.forward)

    def __call__(self) -> dict[str, float]:
        return dict(self.totals)

    def _timed(self, part: str, work: Callable) -> Callable:
        def timed(*args, **kwargs):
            start = time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                self.totals[part] += time.process_time() - start

        return timed


class _Watched(Compiled):
    """A compiled potential and its timed call; all else is the potential's."""

    def __init__(self, compiled: Compiled, call: Callable):
        super().__init__(compiled)
        self.call, self.takes_candidates = call, compiled.takes_candidates
        self.kind, self.origin, self.takes_batches = compiled.kind, compiled.origin, compiled.takes_batches

    def __call__(self, *args, **kwargs):
        return self.call(*args, **kwargs)
