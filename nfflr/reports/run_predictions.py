"""The data of a finished run, read again as its record says, and what the checkpoint predicts on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import AtomsDataset
from ..errors import NFFLrError
from ..train.evaluation import predict
from ..train.properties import predict_properties
from ..units import GPA
from .curves import parity, property_parity
from .run_record import file_digest

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
    if dataset.is_force_field:
        pairs = predict(model, dataset, indices)
        return pairs.errors(), parity(pairs, title)
    properties = predict_properties(model, dataset, indices)
    return properties.errors(), property_parity(properties, dataset.classes, title)


def summary(
    dataset: AtomsDataset, parts: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[list[object]]]:
    """A table of splits: structures, atoms, and the ranges of what is labelled."""
    force_field = dataset.is_force_field
    headers = ["split", "structures", "atoms", "atoms per structure"]
    headers += ["energy (eV/atom)", "largest force (eV/Å)", "pressure (GPa)"] if force_field else []
    headers += [p.name for p in dataset.properties]
    rows = []
    for name, indices in parts.items():
        records = [dataset.records[k] for k in indices]
        sizes = [len(r.atoms) for r in records]
        row = [name, len(records), sum(sizes), _range(sizes)]
        row += _force_field_ranges(records) if force_field else []
        rows.append([*row, *(_property_range(records, p) for p in dataset.properties)])
    return headers, rows


def _force_field_ranges(records) -> list[object]:
    energy = [float(r.labels["total_energy"]) / len(r.atoms) for r in records if "total_energy" in r.labels]
    force = [np.linalg.norm(r.labels["forces"], axis=1).max() for r in records if "forces" in r.labels]
    pressure = [-np.trace(r.labels["stress"]) / 3 / GPA for r in records if "stress" in r.labels]
    return [_range(energy), float(np.max(force)) if force else None, _range(pressure)]


def _property_range(records, target) -> str:
    values = [r.labels[target.name] for r in records if target.name in r.labels]
    if target.classes is not None:
        return f"{len(values)} labelled, {len(target.classes)} classes"
    return _range(np.concatenate([np.ravel(v) for v in values]).tolist() if values else [])


def _range(values) -> str:
    known = [v for v in values if np.isfinite(v)]
    if not known:
        return "–"
    low, high = f"{min(known):.4g}", f"{max(known):.4g}"
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
    target = origin["target"] if isinstance(origin["target"], str) else tuple(origin["target"])
    return AtomsDataset(sources["source"], target, test_source=sources.get("test_source"), **options)


def _alone(given: Path, metadata: dict, origin: dict) -> AtomsDataset:
    """All structures of a file, its labels in the units of the run's."""
    targets = metadata.get("targets") or {}
    names = (
        "energy_units",
        "force_units",
        "force_sign",
        "stress_units",
        "stress_sign",
        "stress_order",
        "keys",
    )
    options: dict[str, Any] = {name: origin[name] for name in names if origin.get(name)}
    classes = {k: tuple(t["classes"]) for k, t in targets.items() if t["kind"] == "class"}
    return AtomsDataset(
        given,
        tuple(targets) or "energy_and_forces",
        n_train=1.0,
        n_val=0.0,
        allow_missing=True,
        allow_duplicates=True,
        classes=classes or None,
        **options,
    )
