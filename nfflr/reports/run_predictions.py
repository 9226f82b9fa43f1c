"""The data of a finished run, read again as its record says, and what the checkpoint predicts on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import AtomsDataset
from ..data.records import Record
from ..data.targets import Target
from ..errors import NFFLrError
from ..quantities import Quantity, from_description
from ..train.evaluation import predict
from ..units import GPA
from .curves import parity
from .run_record import file_digest

UNITS = ("energy_units", "force_units", "force_sign", "stress_units", "stress_sign", "stress_order")
SPLITS = {"val": "Validation split", "test": "Test split"}


@dataclass(frozen=True)
class RunData:
    """Data beside a run: the whole data set with its splits, or a file of which nothing more is known.

    Attributes:
        dataset: the data, or None where there are none.
        parts: name → indices, in the order of the page.
        said: what the page says about them.
    """

    dataset: AtomsDataset | None
    parts: Mapping[str, Sequence[int]]
    said: str


def run_data(metadata: dict, record: dict | None, given: Path | None) -> RunData:
    """Data of a run: those of its record if they are still the same, else the file that is given.

    A given file that is one of the run's sources (by its digest) stands for it, wherever it lies now.

    Raises:
        NFFLrError: the given file cannot be used.
    """
    known, digest = (record or {}).get("data") or {}, metadata.get("data_digest")
    sources = _sources(known, given)
    if sources:
        try:
            dataset = _rebuilt(known["origin"], sources)
        except (NFFLrError, KeyError, TypeError) as error:  # the record may be of another version
            if given is not None and isinstance(error, NFFLrError):
                raise
            return RunData(None, {}, f"The run's data cannot be read as its record says ({error}).")
        if dataset.digest() == digest or (known.get("digest") == digest and _same_bytes(known, sources)):
            parts = {title: dataset.split[name] for name, title in SPLITS.items() if dataset.split[name]}
            return RunData(dataset, parts, "The data were read again and are those of the training.")
        if given is None:
            return RunData(None, {}, "The data changed since this run: their digest is another one.")
    if given is not None:
        dataset = _alone(given, metadata, known.get("origin") or {})
        said = "The file is not the run's data: its structures may be ones that the model was trained on."
        return RunData(dataset, {given.name: range(len(dataset))}, said)
    return RunData(None, {}, "The run's data are not at hand; give their file with --data.")


def predicted(model, dataset: AtomsDataset, indices: Sequence[int], title: str):
    """Errors by metric, and the parity figure."""
    predictions = predict(model, dataset, indices)
    return predictions.errors(), parity(predictions, title)


def summary(
    dataset: AtomsDataset, parts: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[list[object]]]:
    """A table of splits: structures, atoms, and the ranges of what is labelled."""
    headers = ["split", "structures", "atoms", "atoms per structure"]
    headers += [SPECIAL[q.name][0] if q.name in SPECIAL else _header(q) for q in dataset.quantities]
    rows: list[list[object]] = []
    for name, indices in parts.items():
        records = [dataset.records[k] for k in indices]
        sizes = [len(r.atoms) for r in records]
        rows.append([name, len(records), sum(sizes), _range(sizes)])
        rows[-1] += [_labels_range(records, q) for q in dataset.quantities]
    return headers, rows


# Headers and numbers of the force field's labels, which are not shown component by component.
SPECIAL: dict[str, tuple[str, Callable[[Record], float]]] = {
    "total_energy": ("energy (eV/atom)", lambda r: float(r.labels["total_energy"]) / len(r.atoms)),
    "forces": ("largest force (eV/Å)", lambda r: float(np.linalg.norm(r.labels["forces"], axis=1).max())),
    "stress": ("pressure (GPa)", lambda r: -float(np.trace(r.labels["stress"])) / 3 / GPA),
}


def _header(q: Quantity) -> str:
    return f"{q.name} ({q.unit})" if q.unit else q.name


def _labels_range(records: Sequence[Record], q: Quantity) -> object:
    labelled = [r for r in records if q.name in r.labels]
    if q.classes is not None:
        return f"{len(labelled)} labelled, {len(q.classes)} classes"
    if q.name in SPECIAL:
        values = [SPECIAL[q.name][1](r) for r in labelled]
        return max(values, default=None) if q.name == "forces" else _range(values)
    return _range([v for r in labelled for v in np.ravel(r.labels[q.name]).tolist()])


def _range(values) -> str:
    finite = [v for v in values if np.isfinite(v)]
    if not finite:
        return "–"
    low, high = f"{min(finite):.4g}", f"{max(finite):.4g}"
    return low if low == high else f"{low} to {high}"


def _sources(known: dict, given: Path | None) -> dict[str, Path | list[Path]] | None:
    """Files of the record that exist, the given one in the place of its equal; None if one is missing."""
    origin, digests = known.get("origin") or {}, known.get("sha256") or {}
    if not origin.get("source"):
        return None
    given_digest = file_digest(given) if given is not None else None
    found: dict[str, Path | list[Path]] = {}
    for name in ("source", "test_source"):
        if origin.get(name):
            same = given is not None and digests.get(name) == given_digest
            listed = isinstance(origin[name], list)
            own = [Path(path) for path in origin[name]] if listed else Path(origin[name])
            found[name] = given if given is not None and same else own
    paths = [path for source in found.values() for path in _paths(source)]
    if given is not None and given.resolve() not in [p.resolve() for p in paths]:
        return None  # another file: what it holds is what was asked for
    return found if all(path.exists() for path in paths) else None


def _paths(source: Path | list[Path]) -> list[Path]:
    return source if isinstance(source, list) else [source]


def _same_bytes(known: dict, sources: dict[str, Path | list[Path]]) -> bool:
    """Whether files are those of the record, whatever their names (which the data's digest is over too)."""
    recorded = known.get("sha256") or {}
    for name, source in sources.items():
        digests = recorded.get(name)
        digests = digests if isinstance(digests, list) else [digests]
        if not all(digests) or [file_digest(path) for path in _paths(source)] != digests:
            return False
    return True


def _rebuilt(origin: dict, sources: dict[str, Path | list[Path]]) -> AtomsDataset:
    options = {k: v for k, v in origin.items() if k not in ("source", "test_source", "target")}
    test = sources.get("test_source")
    return AtomsDataset(sources["source"], origin["target"], test_source=test, **options)


def _alone(given: Path, metadata: dict, origin: dict) -> AtomsDataset:
    """All structures of a file, its labels in the units of the run's."""
    return judged_dataset(given, metadata, {n: origin[n] for n in (*UNITS, "keys") if origin.get(n)})


def judged_dataset(source: Any, metadata: dict, options: dict[str, Any]) -> AtomsDataset:
    """All structures of a source, with those labels that a checkpoint predicts, as far as they are there.

    Args:
        source: as ``AtomsDataset`` takes it.
        metadata: of the checkpoint.
        options: of ``AtomsDataset``; those that do not concern the labels are left out.
    """
    targets: list[Target] = list(metadata.get("targets") or ["energy_and_forces"])
    if "targets" not in metadata:
        options = {name: value for name, value in options.items() if value is not None}
        members = metadata.get("members") or [metadata]
        targets += [from_description(output) for output in members[0].get("outputs") or ()]
    elif "total_energy" not in targets:
        options = {name: value for name, value in options.items() if name in ("energy_units", "keys")}
    described = (metadata.get("targets") or {}).items()
    return AtomsDataset(
        source,
        targets,
        n_train=1.0,
        n_val=0.0,
        allow_missing=True,
        allow_duplicates=True,
        classes={name: tuple(t["classes"]) for name, t in described if t["kind"] == "class"},
        **options,
    )
