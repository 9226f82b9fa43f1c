"""The calculators of one command: loaded once, a fresh one for every structure."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import ase
import click

from ..errors import ConfigError


class Models:
    """The models a command was given, the subject first, or the bundled one that fits each structure.

    Raises:
        ConfigError: a model is given twice, or is not to be found.
        CheckpointError: one is damaged.
    """

    def __init__(
        self,
        sources: Sequence[str],
        device: str,
        dtype: str | None,
        compile: bool = False,
        trust: bool = False,
    ):
        twice = {s for s in sources if sources.count(s) > 1}
        if twice:
            raise ConfigError(f"--model: {', '.join(sorted(twice))} is given twice; give each model once")
        self.sources, self.device, self.dtype = tuple(sources), device, dtype
        self.compile, self.trust = compile, trust
        self._loaded: dict = {}
        for source in self.sources:
            self._load(source)

    def sources_for(self, atoms: ase.Atoms) -> tuple[str, ...]:
        """Names of the models to use for a structure.

        Raises:
            StructureError: none was given and no bundled one covers the elements.
        """
        from .select import choose_calculator

        return self.sources or (choose_calculator(atoms),)

    def calculator(self, source: str):
        """A calculator of its own: what one structure leaves in it must not reach the next."""
        return copy.deepcopy(self._load(source))

    def _load(self, source: str):
        from ..potentials import open_calculator

        if source not in self._loaded:
            loaded = open_calculator(
                source, device=self.device, dtype=self.dtype, compile=self.compile, trust=self.trust
            )
            click.echo(f"model {source} ({describe(loaded)})")
            if compiled := getattr(loaded, "compiled", None):
                click.echo(f"  compiled {compiled.kind}, {compiled.origin}")
            self._loaded[source] = loaded
        return self._loaded[source]


def describe(calculator) -> str:
    """``Si; float32``, or the package, its version and the number of elements too."""
    known = calculator.todict()
    elements = list(getattr(calculator, "model", calculator).elements or ())
    shown = ", ".join(elements) if len(elements) < 13 else f"{len(elements)} elements"
    package = f"{known['package']} {known['version']}" if known.get("package") else ""
    return "; ".join(part for part in (package, shown, known["dtype"]) if part)
