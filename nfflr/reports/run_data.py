"""The data of a run: described for its record, read again as that says, and recognised in other data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import find_checkpoint, find_members, sources_of
from ..data.dataset import AtomsDataset
from ..data.quality.label_checks import short_fingerprint
from ..data.records import Record, read_records
from ..data.sources import ase_files
from ..data.targets import Target
from ..errors import NFFLrError
from ..quantities import Quantity, from_description
from ..units import GPA
from .run_record import DataRecord, read_record

UNITS = ("energy_units", "force_units", "force_sign", "stress_units", "stress_sign", "stress_order")
PARTS = {"train": "trained on", "val": "used to choose the weights"}  # of the parts of a run's data
MOST_FINGERPRINTS = 50_000  # structures; a megabyte of text
SPLITS = {"val": "Validation split", "test": "Test split"}


def described_data(dataset: AtomsDataset) -> DataRecord:
    """Where data are from, their digests, and the sizes of their splits."""
    origin = json.loads(json.dumps(dataset.origin, default=_plain))
    files = {name: origin[name] for name in ("source", "test_source") if origin[name]}
    few = len(dataset) <= MOST_FINGERPRINTS
    return DataRecord(
        origin=origin,
        sha256={name: _digests(file) for name, file in files.items()},
        # By these the structures that training sees are known again.
        structures={p: list(map(short_fingerprint, dataset.part(p))) for p in ("train", "val") if few},
        digest=dataset.digest(),
        split={name: len(indices) for name, indices in dataset.split.items()},
        elements=list(dataset.elements),
    )


def _digests(files: str | list[str]) -> str | list[str | None] | None:
    return (
        [file_digest(Path(file)) for file in files] if isinstance(files, list) else file_digest(Path(files))
    )


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; None for a folder or a name that is no file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value):
    return value.item() if isinstance(value, np.generic) else repr(value)


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


@dataclass(frozen=True)
class Familiar:
    """How many structures of a data set a model has met in training.

    Attributes:
        counts: by ``train``, ``val``; empty if none is known.
        message: what to say about them; empty likewise.
    """

    counts: dict[str, int] = field(default_factory=dict)
    message: str = ""

    def __bool__(self) -> bool:
        return bool(self.message)

    def __str__(self) -> str:
        return self.message

    @property
    def record(self) -> dict:
        """What a JSON result says about it."""
        return {"in_training": self.counts} if self.counts else {}


def familiar(checkpoint: str, dataset: AtomsDataset, files: Sequence[str]) -> Familiar:
    """Look up the structures of a data set among those that a checkpoint was trained on.

    Known are those of the record of the run (``run.json``) beside the checkpoint, and of a bundled potential
    those of its ``train.xyz.xz``. A file of the run's that has changed its place is recognised by its digest.

    Args:
        checkpoint: as ``nfflr.checkpoint.load_model`` takes it.
        dataset, files: the data, and where they are from.
    """
    counts: dict[str, int] = {}
    whole = False
    own = {short_fingerprint(record) for record in dataset.records}
    for folder in _folders(checkpoint):
        fingerprints, digests = _trained_on(folder)
        whole |= bool(digests & {file_digest(Path(file)) for file in files})
        for part, trained in fingerprints.items():
            counts[part] = max(counts.get(part, 0), len(own & trained))
    counts = {part: count for part, count in counts.items() if count}
    consequence = "their errors say little about new structures"
    if counts:
        parts = " and ".join(f"{count} were {PARTS[part]}" for part, count in counts.items())
        return Familiar(counts, f"of the {len(own)} structures {parts}; {consequence}")
    if whole:
        return Familiar({}, f"this file is what the model was trained on, by its digest; {consequence}")
    return Familiar()


def _folders(checkpoint: str) -> list[Path]:
    """Folders of the files behind a checkpoint or an ensemble."""
    folders = []
    for source in sources_of(checkpoint):
        with suppress(NFFLrError):
            members = find_members(source)
            folders += [path.parent for path in members] or [find_checkpoint(source).parent]
    return list(dict.fromkeys(folders))


def _trained_on(folder: Path) -> tuple[dict[str, set[str]], set[str]]:
    """Fingerprints of structures that were trained on, by part, and digests of files."""
    with suppress(NFFLrError):
        record = read_record(folder)
        digest = record.data.sha256.get("source") if record else None
        digests = {d for d in (digest if isinstance(digest, list) else [digest]) if d is not None}
        if record and (record.data.structures or digests):
            return {part: set(record.data.structures.get(part, ())) for part in PARTS}, digests
        train = folder / "train.xyz.xz"
        if ase_files.opens(train):
            return {"train": {short_fingerprint(record) for record in read_records(train, ())}}, set()
    return {}, set()
