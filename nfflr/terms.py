"""Evaluators by name: checkpoints, committees ``a,b``, sums ``a + b``, and what may be a term of a sum."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .adapters import is_foreign, open_foreign
from .adapters.ase_evaluator import AseEvaluator
from .adapters.wrapped import Wrapped, is_program, load_program
from .checkpoint import load_model, sources_of, terms_of
from .models.evaluator import Evaluator, Sum
from .models.registry import architecture, keys


def open_evaluator(
    source: str | Path | Sequence[str | Path],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    trust: bool = False,
    **wrapping: Any,
) -> tuple[Evaluator, dict]:
    """An evaluator on the CPU, and what is known about it.

    Args:
        source: a bundled name, run folder, checkpoint or program; a committee ``"a,b,c"``, or several
            sources; or a sum ``"a + b"``. A term of a sum may also be parameters of a classical model as
            ``lennard-jones:FILE.yaml``, or another package's potential as ``chgnet``.
        device, dtype: of another package's potential.
        trust: agree that programs, and files of other packages, may run code that they hold.
        wrapping: how a program names its results, as for ``Wrapped``.

    Raises:
        ConfigError: nothing has this name, or terms do not fit together.
        CheckpointError: a file is damaged, does not fit this version, or has to be trusted.
    """
    names = terms_of(source)
    if len(names) > 1:
        opened = [_open_term(name, device, dtype, trust) for name in names]
        descriptions = [metadata for _, metadata in opened]
        members = [member for metadata in descriptions for member in metadata.get("members", [metadata])]
        digests = [digest for metadata in descriptions for digest in _digests(metadata)]
        return Sum([term for term, _ in opened]), {"members": members, "sha256": digests, "source": source}
    if not isinstance(source, str | Path):
        return _of_checkpoints(source)
    if is_program(source):
        module, digest = load_program(str(source), trust)
        program = Wrapped(module, origin=digest, **wrapping)
        return program, {**program.metadata, "source": str(source)}
    path = parameters_of(str(source))
    return _of_checkpoints(source) if path is None else _of_parameters(str(source), path)


def _open_term(name: str, device: str, dtype: str | None, trust: bool) -> tuple[Evaluator, dict]:
    """As ``open_evaluator``, and another package's potential."""
    if not is_foreign(name):
        return open_evaluator(name, trust=trust)
    calculator = open_foreign(name, device, dtype, trust)
    return AseEvaluator(calculator), {"sha256": calculator.todict()["digest"], "source": name}


def _of_checkpoints(source: str | Path | Sequence[str | Path]) -> tuple[Evaluator, dict]:
    model, metadata = load_model(source)
    members = sources_of(source)
    return model, {**metadata, "source": members[0] if len(members) == 1 else members}


def _of_parameters(name: str, path: Path) -> tuple[Evaluator, dict]:
    key = name.partition(":")[0].replace("_", "-")
    model = architecture(key).from_file(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return model, {"architecture": key, "sha256": digest, "source": name}


def parameters_of(name: str) -> Path | None:
    """The file in ``lennard-jones:FILE.yaml`` or ``lennard_jones:FILE.yaml``; None if it is no such name."""
    key, colon, path = name.partition(":")
    is_key = bool(colon) and key.replace("_", "-") in keys()
    return Path(path) if is_key and not Path(name).exists() else None


def absolute(source: str) -> str:
    """The same name with whole paths of files and folders, for a process that runs in another folder."""
    terms = terms_of(source)
    if len(terms) > 1:
        return " + ".join(map(absolute, terms))
    if path := parameters_of(source):
        return f"{source.partition(':')[0]}:{path.resolve()}"
    members = sources_of(source)
    if len(members) > 1:
        return ",".join(map(absolute, members))
    return str(Path(source).resolve()) if Path(source).exists() else source


def _digests(metadata: dict) -> list:
    digest = metadata.get("sha256")
    return digest if isinstance(digest, list) else [digest]
