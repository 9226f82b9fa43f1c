"""The calculators of one command: loaded once, a fresh one for every structure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import ase
import click

from ..errors import ConfigError
from .threads import set_threads

ENOUGH = 10.0  # s of a model that is not compiled; to build its kernel takes some seconds


class Models:
    """The models a command was given, the subject first, or the bundled one that fits each structure.

    With ``compile`` None the hand-written kernel of a model is evaluated if it is in the user's cache, or if
    a job is so long that to build it pays. Threads of this process are set for each structure; see
    ``threads``.

    Raises:
        ConfigError: a model is given twice, or is not to be found.
        CheckpointError: one is damaged.
    """

    def __init__(
        self,
        sources: Sequence[str],
        device: str,
        dtype: str | None,
        compile: bool | None = None,
        trust: bool = False,
    ):
        twice = {s for s in sources if sources.count(s) > 1}
        if twice:
            raise ConfigError(f"--model: {', '.join(sorted(twice))} is given twice; give each model once")
        self.sources, self.device, self.dtype = tuple(sources), device, dtype
        self.compile, self.trust = compile, trust
        self._loaded: dict = {}
        self.say: Callable[[str], object] = click.echo  # of how it is evaluated
        self._decided: set[str] = set()  # of which models it is settled whether they are compiled
        self._hinted: set[str] = set()
        self._threads = ""  # the line that was printed last
        for source in self.sources:
            self._load(source)

    def sources_for(self, atoms: ase.Atoms) -> tuple[str, ...]:
        """Names of the models to use for a structure.

        Raises:
            StructureError: none was given and no bundled one covers the elements.
        """
        from .select import choose_calculator

        return self.sources or (choose_calculator(atoms),)

    def calculator(self, source: str, atoms: int | None = None, steps: int = 0, computes: bool = True):
        """A calculator of its own: what one structure leaves in it must not reach the next.

        Args:
            source: its name.
            atoms: of the structure it is for.
            steps: evaluations that will be made at least, as far as that is known.
            computes: False where it is only asked what it covers; a kernel is compared with its model, which
                takes an evaluation, when computing begins.
        """
        loaded = self._load(source)
        if not computes:
            return copy.deepcopy(loaded)
        if self.compile is None and source not in self._decided:
            self._take_kernel(source, loaded, steps * (8e-3 + 5e-5 * (atoms or 0)))
        compiled = loaded.compiled
        line = set_threads(atoms, kernel=compiled is not None and compiled.kind == "kernel")
        if line != self._threads:
            self.say(f"  {line}")
            self._threads = line
        return copy.deepcopy(loaded)

    def _take_kernel(self, source: str, loaded, work: float) -> None:
        """Have the kernel of a model evaluated where that saves time; ``work`` is in seconds without it."""
        ready = loaded.kernel_is_ready()
        if ready is None:  # there is none
            self._decided.add(source)
        elif not ready and work < ENOUGH:
            if source not in self._hinted:
                self.say("  not compiled; nff compile makes it faster once and for all, in some seconds")
                self._hinted.add(source)
        else:
            self._decided.add(source)
            if not ready:
                self.say("  compiling the kernel of the model, once; takes some seconds")
            self._use_kernel(loaded)

    def _use_kernel(self, loaded) -> None:
        if loaded.use_kernel():
            self.say(f"  compiled {loaded.compiled.kind}, {loaded.compiled.origin}")

    def _load(self, source: str):
        from ..potentials import open_calculator

        if source not in self._loaded:
            loaded = open_calculator(
                source, device=self.device, dtype=self.dtype, compile=bool(self.compile), trust=self.trust
            )
            click.echo(f"model {source} ({describe(loaded)})")
            if compiled := loaded.compiled:
                click.echo(f"  compiled {compiled.kind}, {compiled.origin}")
            self._loaded[source] = loaded
        return self._loaded[source]


def describe(calculator) -> str:
    """``Si; float32``, or the package, its version and the number of elements too."""
    known = calculator.todict()
    elements = calculator.elements
    shown = ", ".join(elements) if len(elements) < 13 else f"{len(elements)} elements"
    package = f"{known['package']} {known['version']}" if known.get("package") else ""
    return "; ".join(part for part in (package, shown, known["dtype"]) if part)
