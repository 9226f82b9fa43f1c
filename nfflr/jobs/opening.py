"""The calculators of a run: loaded once, copied for every structure, by default chosen by its elements."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase
from ase.calculators.calculator import Calculator
from ase.formula import Formula
from ase.io.jsonio import encode

from ..adapters import installed_universal
from ..cards import bundled_calculators, read_card
from ..checkpoint_files import FILE, sources_of
from ..errors import ConfigError, StructureError
from ..notes import note
from ..storage.files import stem

VARIABLE = "OMP_NUM_THREADS"
PER_THREAD = 1000  # atoms; a kernel's second thread costs more than it gives for fewer


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(
    threads: int | None = None, *, configured: int | None = None, default: tuple[int, str] | None = None
) -> str:
    """Set the threads of this process; returns a line that says how many and why.

    Args:
        threads: of ``--threads``, which counts most.
        configured: of a training config, which counts more than the environment.
        default: a number and its reason. Without it there is one thread: the tensor operations of a model
            that is not compiled are small, so that threads hardly help, and on a busy machine do harm.
    """
    import torch

    variable = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    environment = int(variable) if variable.isdecimal() else None
    choices = ((threads, "--threads"), (configured, "threads of the config"), (environment, VARIABLE))
    number, reason = next(
        ((number, reason) for number, reason in choices if number), default or (1, "--threads N for more")
    )
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)
    return f"threads {number} of {cores()} ({reason})"


def threads_for(atoms: int | None, kernel: bool) -> tuple[int, str]:
    """How many threads help a calculator, and why: a kernel divides atoms among threads.

    The rule is the same in every run, and so is the rounding of the results.
    """
    if kernel and atoms:
        return max(1, min(cores(), atoms // PER_THREAD)), f"compiled kernel, {atoms} atoms"
    return 1, "not compiled; --threads N for more"


@contextmanager
def threads_restored() -> Iterator[None]:
    """Restore the number of threads when the block ends."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


ENOUGH = 10.0  # s of a model that is not compiled; to build its kernel takes some seconds


class Models:
    """The calculators of a run, the first of which is compared with the others; loaded once.

    Without any, each structure gets the bundled one that fits. With ``compile`` None the hand-written kernel
    of a model is evaluated if it is in the user's cache, or if a job is so long that building it pays.

    Args:
        calculators: names as ``open_calculator`` takes them, or calculators of ASE, of which each structure
            gets a copy.
        device, dtype, compile, trust: as ``open_calculator`` takes them.
        threads: of this process; None: no more than help.
        say: takes lines about what is loaded and how it is evaluated.

    Raises:
        ConfigError: a model is named twice, or not found.
        CheckpointError: a model is damaged.
    """

    def __init__(
        self,
        calculators: Sequence[str | Calculator],
        device: str = "cpu",
        dtype: str | None = None,
        compile: bool | None = None,
        trust: bool = False,
        threads: int | None = None,
        say: Callable[[str], object] = lambda line: None,
    ):
        self.sources = tuple(c if isinstance(c, str) else _name_of(c) for c in calculators)
        repeated = {source for source in self.sources if self.sources.count(source) > 1}
        if repeated:
            raise ConfigError(f"--model: {', '.join(sorted(repeated))} is given twice; give each model once")
        self.device, self.dtype, self.compile, self.trust = device, dtype, compile, trust
        self.threads, self.say = threads, say
        self._loaded = {
            s: c for s, c in zip(self.sources, calculators, strict=True) if not isinstance(c, str)
        }
        self._settled = set(self._loaded)  # models that stay as they are, compiled or not
        self._advised: set[str] = set()
        self._thread_line = ""  # the last one
        for source in self.sources:
            self._load(source)

    def sources_for(self, atoms: ase.Atoms) -> tuple[str, ...]:
        """Names of the models to use for a structure.

        Raises:
            StructureError: none was given and no bundled one covers the elements.
        """
        return self.sources or (choose_calculator(atoms),)

    def calculator(self, source: str, atoms: int | None = None, steps: int = 0, computes: bool = True) -> Any:
        """A copy of a calculator, so that nothing of one structure reaches the next.

        Args:
            source: its name.
            atoms: number of atoms of the structure that it is for.
            steps: least number of evaluations, as far as it is known.
            computes: False for questions about what it covers, which need no kernel.
        """
        calculator = self._load(source)
        if computes:
            if self.compile is None and source not in self._settled:
                self._take_kernel(source, calculator, steps * (8e-3 + 5e-5 * (atoms or 0)))
            compiled = getattr(calculator, "compiled", None)  # of any calculator of ASE
            is_kernel = compiled is not None and compiled.kind == "kernel"
            line = set_threads(self.threads, default=threads_for(atoms, is_kernel))
            if line != self._thread_line:
                self.say(f"  {line}")
                self._thread_line = line
        return copy.deepcopy(calculator)

    def _take_kernel(self, source: str, calculator: Any, work: float) -> None:
        """Use the kernel of a model where that saves time; ``work`` is in seconds without it."""
        ready = calculator.kernel_is_ready()
        if ready is None:  # no kernel
            self._settled.add(source)
        elif not ready and work < ENOUGH:
            if source not in self._advised:
                self.say("  not compiled; nff compile makes it faster once and for all, in some seconds")
                self._advised.add(source)
        else:
            self._settled.add(source)
            if not ready:
                self.say("  compiling the kernel of the model, once; takes some seconds")
            self._use_kernel(calculator)

    def _use_kernel(self, calculator: Any) -> None:
        if calculator.use_kernel():
            self.say(f"  compiled {calculator.compiled.kind}, {calculator.compiled.origin}")

    def _load(self, source: str) -> Any:
        from ..potentials import open_calculator

        if source not in self._loaded:
            calculator = open_calculator(
                source, device=self.device, dtype=self.dtype, compile=bool(self.compile), trust=self.trust
            )
            self.say(f"model {source} ({_in_brief(calculator)})")
            if compiled := getattr(calculator, "compiled", None):
                self.say(f"  compiled {compiled.kind}, {compiled.origin}")
            self._loaded[source] = calculator
        return self._loaded[source]


def _in_brief(calculator: Any) -> str:
    """As ``Si; float32``, with package and version if there is one."""
    description = calculator.todict()
    symbols = list(getattr(calculator, "model", calculator).elements or ())
    elements = ", ".join(symbols) if len(symbols) < 13 else f"{len(symbols)} elements"
    package = f"{description['package']} {description['version']}" if description.get("package") else ""
    return "; ".join(part for part in (package, elements, description["dtype"]) if part)


def calculator_record(calculator: Any) -> dict:
    """A calculator in the JSON of results: its own description, or the class and its parameters."""
    description = calculator.todict()
    if "digest" in description:
        return description
    return {"source": _name_of(calculator), "parameters": json.loads(encode(description))}


def _name_of(calculator: Any) -> str:
    """The source of a calculator of this package, the class of any other."""
    source = calculator.todict().get("source")
    return str(source) if source else f"{type(calculator).__module__}.{type(calculator).__qualname__}"


def source_name(source: str) -> str:
    """The name of result files: ``mlearn-si``, or the name of a run folder, a model's file, or a class.

    Names of the parts of a sum or a committee are joined by ``+``.
    """
    parts = [source] if Path(source).exists() else re.split(r"\s+\+\s+", source)
    parts = sources_of(source) if len(parts) == 1 else parts
    if len(parts) > 1:
        return "+".join(map(source_name, parts))
    prefix, colon, argument = source.partition(":")
    if colon and not Path(source).exists():
        if prefix == "ase":  # module:Class:{…}
            return [*argument.split(":", 2), ""][1].lower() or prefix
        return f"{prefix}-{Path(argument).stem}"
    path = Path(source).absolute()
    name = stem(path) if path.suffix == ".safetensors" else path.name
    return path.parent.name if name == "model" else name


def choose_calculator(atoms: ase.Atoms) -> str:
    """The bundled calculator with the fewest elements that covers the structure.

    Without one, it is an installed universal potential of another package, and a note says so.

    Raises:
        StructureError: there is neither; names the elements that are missing.
    """
    needed, covered = set(atoms.symbols), _elements_covered(atoms)
    fitting = [name for name, elements in covered.items() if needed <= elements]
    if fitting:
        return min(fitting, key=lambda name: (len(covered[name]), name))
    universal = installed_universal()
    if universal:
        formula = atoms.symbols.formula.format("hill")
        note(
            f"{formula}: no bundled potential covers it; {universal[0]}, a universal potential that is "
            "installed, is used; give --model to choose another"
        )
        return universal[0]
    nearest = max(covered, key=lambda name: len(needed & covered[name]), default="")
    missing = ", ".join(sorted(needed - covered.get(nearest, set())))
    bundled = "; ".join(f"{name}: {', '.join(sorted(elements))}" for name, elements in covered.items())
    raise StructureError(
        f"structure: no bundled calculator covers {missing} (bundled: {bundled or 'none'}); "
        'give --model with a checkpoint, or pip install "nfflr[universal]" and --model chgnet'
    )


def _elements_covered(atoms: ase.Atoms) -> dict[str, set[str]]:
    """Elements of each bundled calculator that is not for one compound, or for this one."""
    composition = atoms.symbols.formula.count()
    cards = {
        name: read_card(folder) for name, folder in bundled_calculators().items() if (folder / FILE).is_file()
    }
    return {
        name: set(card.elements)
        for name, card in cards.items()
        if card.formula is None or Formula(card.formula).count() == composition
    }
