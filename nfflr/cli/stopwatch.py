"""Where the processor time of ``NFFLrCalculator`` goes: the neighbour list, and the model."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..calculator import NFFLrCalculator


class Stopwatch:
    """Adds up processor seconds by part while a calculator works; called, it says how many so far.

    It looks at the calculator from outside and changes nothing in what it computes.
    """

    def __init__(self, calculator: NFFLrCalculator):
        self.totals = {"neighbours": 0.0, "model": 0.0}
        neighbours = calculator._neighbours
        search = "candidates" if getattr(calculator.compiled, "takes_candidates", False) else "graph"
        setattr(neighbours, search, self._timed("neighbours", getattr(neighbours, search)))
        if calculator.compiled is not None:
            calculator._compiled = _Watched(calculator.compiled, self._timed("model", calculator.compiled))
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


class _Watched:
    """A compiled potential and its timed call; all else is the potential's."""

    def __init__(self, compiled, call: Callable):
        self.compiled, self.call = compiled, call

    def __getattr__(self, name: str):
        return getattr(self.compiled, name)

    def __call__(self, *args, **kwargs):
        return self.call(*args, **kwargs)
