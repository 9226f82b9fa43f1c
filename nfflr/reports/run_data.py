"""The data of a run: described for its record, read again as that says, and recognised in other data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import find_checkpoint, find_members, sources_of
from ..data.dataset import STORAGE, AtomsDataset
from ..data.quality.label_checks import short_fingerprint
from ..data.records import Record, read_records
from ..data.sources import ase_files
from ..data.targets import Target
from ..errors import NFFLrError
from ..quantities import Quantity, from_description
from .run_record import DataRecord, read_record

FILES = ("source", "test_source")
PARTS = {"train": "trained on", "val": "used to choose the weights"}  # of the parts of a run's data
MOST_FINGERPRINTS = 50_000  # structures; a megabyte of text
SPLITS = {"val": "Validation split", "test": "Test split"}


def described_data(dataset: AtomsDataset) -> DataRecord:
    """Where data are from, their digests, and the sizes of their splits."""
    origin = json.loads(json.dumps(dataset.origin, default=repr))
    few = len(dataset) <= MOST_FINGERPRINTS
    return DataRecord(
        origin=origin,
        sha256={name: _digests(origin[name]) for name in FILES if origin[name]},
        # By these, ``familiar`` recognises structures of the training.
        structures={p: list(map(short_fingerprint, dataset.part(p))) for p in PARTS if few},
        digest=dataset.digest(),
        split={name: len(indices) for name, indices in dataset.split.items()},
        elements=list(dataset.elements),
    )


def _digests(files: str | list[str]) -> str | list[str | None] | None:
    digests = [file_digest(Path(file)) for file in listed(files)]
    return digests if isinstance(files, list) else digests[0]


def listed(item: Any) -> list:
    """A list as it is, anything else in a list."""
    return item if isinstance(item, list) else [item]


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; None for a folder or a name that is no file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class RunData:
    """Data beside a run: the whole data set with its splits, or a file of which nothing more is known.

    Attributes:
        dataset: the data, or None where there are none.
        parts: name → indices, in the order of the page.
        message: what the page says about them.
    """

    dataset: AtomsDataset | None
    parts: Mapping[str, Sequence[int]]
    message: str


def run_data(metadata: dict, record: DataRecord, file: Path | None) -> RunData:
    """Data of a run: those of its record if they are still the same, else the file that is given.

    A file that is one of the run's sources (by its digest) stands for it, wherever it lies now.

    Raises:
        NFFLrError: the file cannot be used.
    """
    sources, digest = _sources(record, file), metadata.get("data_digest")
    if sources:
        try:
            dataset = AtomsDataset(**{**record.origin, **sources})
        except (NFFLrError, TypeError) as error:  # the record may be of another version
            if file is not None and isinstance(error, NFFLrError):
                raise
            return RunData(None, {}, f"The run's data cannot be read as its record says ({error}).")
        if dataset.digest() == digest or (record.digest == digest and _same_bytes(record, sources)):
            parts = {title: dataset.split[name] for name, title in SPLITS.items() if dataset.split[name]}
            return RunData(dataset, parts, "The data were read again and are those of the training.")
        if file is None:
            return RunData(None, {}, "The data changed since this run: their digest is another one.")
    if file is None:
        return RunData(None, {}, "The run's data are not at hand; give their file with --data.")
    options = {name: record.origin[name] for name in STORAGE if record.origin.get(name)}
    dataset = judged_dataset(file, metadata, options)
    message = "The file is not the run's data: its structures may be ones that the model was trained on."
    return RunData(dataset, {file.name: range(len(dataset))}, message)


# By how a quantity rotates: what its column is called, and what stands in it.
INVARIANTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "invariant": ("{}", np.asarray),
    "vector": ("|{}|", lambda values: np.linalg.norm(values, axis=-1)),
    "tensor": ("tr {}/3", lambda values: np.trace(values, axis1=-2, axis2=-1) / 3),
}


def summary(
    dataset: AtomsDataset, parts: Mapping[str, Sequence[int]]
) -> tuple[list[str], list[list[object]]]:
    """A table of splits: structures, atoms, and the ranges of what is labelled.

    Of a vector the table shows the length and of a tensor the mean of its diagonal, which no rotation of the
    structure changes.
    """
    headers = ["split", "structures", "atoms", "atoms per structure"]
    for q in dataset.quantities:
        name, (unit, _) = INVARIANTS[q.rotation][0].format(q.name), q.value_display
        headers.append(f"{name} ({unit})" if unit else name)
    rows: list[list[object]] = []
    for name, indices in parts.items():
        records = [dataset.records[k] for k in indices]
        sizes = [len(r.atoms) for r in records]
        ranges = [_labels_range(records, q) for q in dataset.quantities]
        rows.append([name, len(records), sum(sizes), _range(sizes), *ranges])
    return headers, rows


def _labels_range(records: Sequence[Record], q: Quantity) -> str:
    """The range in the unit of ``value_display``, or the number of labels of a class."""
    labelled = [r for r in records if q.name in r.labels]
    if q.classes is not None:
        return f"{len(labelled)} labelled, {len(q.classes)} classes"
    _, factor = q.value_display
    scales = [factor / (len(r.atoms) if q.extensive else 1) for r in labelled]
    invariant = INVARIANTS[q.rotation][1]
    labels = [invariant(np.asarray(r.labels[q.name])) for r in labelled]
    values = [np.ravel(label) * scale for label, scale in zip(labels, scales, strict=True)]
    return _range(np.concatenate(values) if values else ())


def _range(values) -> str:
    finite = [v for v in values if np.isfinite(v)]
    if not finite:
        return "–"
    low, high = f"{min(finite):.4g}", f"{max(finite):.4g}"
    return low if low == high else f"{low} to {high}"


def _sources(record: DataRecord, file: Path | None) -> dict[str, Any]:
    """Paths of the record's sources, ``file`` in the place of its equal; empty if one is missing."""
    digest = file_digest(file) if file is not None else None
    sources: dict[str, Any] = {}
    for name in FILES:
        if names := record.origin.get(name):
            paths = [Path(path) for path in names] if isinstance(names, list) else Path(names)
            is_equal = file is not None and record.sha256.get(name) == digest
            sources[name] = file if is_equal else paths
    every = [path for source in sources.values() for path in listed(source)]
    if "source" not in sources or not all(path.exists() for path in every):
        return {}
    if file is not None and file.resolve() not in [path.resolve() for path in every]:
        return {}  # the user asks about another file
    return sources


def _same_bytes(record: DataRecord, sources: dict[str, Any]) -> bool:
    """Whether files are those of the record, whatever their names (which the data's digest is over too)."""
    for name, source in sources.items():
        digests = listed(record.sha256.get(name))
        if not all(digests) or [file_digest(path) for path in listed(source)] != digests:
            return False
    return True


def judged_dataset(source: Any, metadata: dict, options: dict[str, Any]) -> AtomsDataset:
    """All structures of a source, with those labels that a checkpoint predicts, as far as they are there.

    ``metadata`` is that of the checkpoint; ``options`` are those of ``AtomsDataset`` that concern labels.
    """
    described: dict[str, dict] = metadata.get("targets") or {}
    targets: list[Target] = list(described or ["energy_and_forces"])
    if "targets" not in metadata:
        members = metadata.get("members") or [metadata]
        targets += [from_description(output) for output in members[0].get("outputs") or ()]
    elif "total_energy" not in targets:
        options = {name: value for name, value in options.items() if name in ("energy_units", "keys")}
    return AtomsDataset(
        source,
        targets,
        n_train=1.0,
        n_val=0.0,
        allow_missing=True,
        allow_duplicates=True,
        classes={name: tuple(t["classes"]) for name, t in described.items() if t["kind"] == "class"},
        **options,
    )


@dataclass(frozen=True)
class Familiar:
    """How many structures of a data set a model has met in training and validation, in words too."""

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

    They are known by the record of the run (``run.json``) beside the checkpoint, or by the ``train.xyz.xz``
    of a bundled potential. A file of the run is recognised by its digest.

    Args:
        checkpoint: as ``nfflr.checkpoint.load_model`` takes it.
        dataset, files: the data, and where they are from.
    """
    counts: Counter[str] = Counter()
    digests: set[str] = set()
    own = {short_fingerprint(record) for record in dataset.records}
    for folder in _folders(checkpoint):
        fingerprints, sources = _trained_on(folder)
        digests |= sources
        counts |= Counter({part: len(own & trained) for part, trained in fingerprints.items()})
    counts = +counts
    consequence = "their errors say little about new structures"
    if counts:
        parts = " and ".join(f"{count} were {PARTS[part]}" for part, count in counts.items())
        return Familiar(dict(counts), f"of the {len(own)} structures {parts}; {consequence}")
    if digests & {file_digest(Path(file)) for file in files}:
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
        digests = {d for d in listed(record.data.sha256.get("source")) if d} if record else set()
        if record and (record.data.structures or digests):
            return {part: set(record.data.structures.get(part, ())) for part in PARTS}, digests
        train = folder / "train.xyz.xz"
        if ase_files.opens(train):
            return {"train": {short_fingerprint(record) for record in read_records(train, ())}}, set()
    return {}, set()
