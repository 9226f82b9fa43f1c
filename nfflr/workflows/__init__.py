"""Workflows: functions ``x(atoms, calculator) -> result``, each with its settings and its result.

``from nfflr.workflows import relax, RelaxSettings, RelaxResult``. Names load on first use: this import alone
brings neither torch nor phonopy.

A workflow of another package is an entry point ``name = "module:function"`` of the group ``nfflr.workflows``.
It gets a command, JSON, a table and validation tasks as those of this package do. What such a file needs is
here too: ``workflow``, ``Settings``, ``Result``, ``Array``, ``Unit``, ``Score``, ``Rule``, ``evaluate``, …
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..lazy import lazy_names

if TYPE_CHECKING:  # the names of the package
    from importlib.metadata import EntryPoint

    from ..units import Unit
    from .elasticity import ElasticResult, ElasticSettings, elastic
    from .equation_of_state import EosResult, EosSettings, eos
    from .framework.attributes import Rule, Treatment
    from .framework.contract import workflow
    from .framework.evaluations import evaluate
    from .framework.interface import (
        Array,
        Labelled,
        Progress,
        Settings,
        Table,
        Text,
        check_atoms,
        check_crystal,
        has_stress,
    )
    from .framework.progress_bar import progress_bar
    from .framework.results import Result, overlay
    from .framework.saved_results import read_result
    from .framework.scores import Score, field_score, relative_score
    from .gruneisen_parameters import GruneisenResult, GruneisenSettings, gruneisen
    from .molecular_dynamics import MdResult, MdSettings, md
    from .phonon_dispersion import PhononsResult, PhononsSettings, phonons
    from .quasi_harmonic import QhaResult, QhaSettings, qha
    from .reaction_path import NebResult, NebSettings, neb
    from .relaxation import RelaxResult, RelaxSettings, relax
    from .single_point import EnergyResult, EnergySettings, energy
    from .surfaces import SurfaceResult, SurfaceSettings, surface
    from .vacancies import VacancyResult, VacancySettings, vacancy

GROUP = "nfflr.workflows"
DECORATED = re.compile(r"^@workflow\ndef (\w+)\(", re.MULTILINE)
# Command and function → file here, as the files say it: a new workflow is a new file, and nothing else.
FILES = {
    name: path.stem
    for path in sorted(Path(__file__).parent.glob("*.py"))
    for name in DECORATED.findall(path.read_text(encoding="utf-8"))
}
_listed, __dir__, __all__ = lazy_names(__name__, __file__)


def __getattr__(name: str) -> Any:
    function = name.removesuffix("Settings").removesuffix("Result").lower()
    if name not in __all__ and function in FILES:  # a new file's, which editors do not know yet
        return getattr(importlib.import_module(f".{FILES[function]}", __name__), name)
    return _listed(name)


def workflow_names() -> list[str]:
    """Names of all workflows, those of other packages too. Imports none of them."""
    return sorted({*FILES, *_entry_points()})


def workflow_file(name: str) -> Path | None:
    """The source of a workflow, found without importing it; None if another package's cannot be found."""
    if name in FILES:
        return Path(__file__).with_name(f"{FILES[name]}.py")
    top, *inner = _entry_points()[name].module.split(".")
    try:  # of a package inside a package, this would import the outer one
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*inner).with_suffix(".py") if inner else Path(spec.origin)
    return path if path.is_file() else None


def load_workflow(name: str) -> tuple[Any, Any]:
    """The module and the function of a workflow; ``ConfigError`` if another package's cannot be imported."""
    if name in FILES:
        module = importlib.import_module(f".{FILES[name]}", __name__)
        return module, getattr(module, name)
    entry = _entry_points()[name]
    try:
        module = importlib.import_module(entry.module)
        return module, getattr(module, entry.attr or name)
    except Exception as error:  # whatever another package does when it is imported
        package = entry.dist.name if entry.dist else entry.module
        raise ConfigError(
            f"{name}: this workflow of the package {package} cannot be loaded ({error}); mend or remove it"
        ) from error


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    """Workflows of other packages by name; a name of this package's own is not taken over."""
    if not any(GROUP.encode() in content for content in _announcements()):
        return {}
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in FILES}


def _announcements() -> Iterator[bytes]:
    """Entry points of installed packages, found ten times as fast as by ``importlib.metadata``."""
    for folder in sys.path:
        for path in Path(folder or ".").glob("*-info/entry_points.txt"):
            yield path.read_bytes()
