"""What a potential meets in training: elements with bonds, compositions, and single structures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ase
import torch

from ..cards import Domain, domain_of
from ..checkpoint import find_checkpoint, find_members, sources_of
from ..data.dataset import AtomsDataset
from ..data.graph import Graph
from ..data.quality.label_checks import short_fingerprint
from ..data.records import read_records
from ..data.sources import ase_files
from ..errors import NFFLrError, StructureError
from ..models.base import Potential
from ..notes import note
from ..reports.run_record import file_digest, read_record
from .config import TrainingConfig


def check_elements_are_taught(
    model: Potential, graphs: Sequence[Graph], records_of_element: dict[str, list[str]]
) -> None:
    """See that every element of a new model that the data hold has neighbours in some training structure.

    One that they do not hold gets a note; the trained potential refuses it in use.

    Args:
        model: its elements are those that it will accept in use.
        graphs: of the training structures.
        records_of_element: for each element, names of the structures of the data set that hold it.

    Raises:
        StructureError: an element occurs only as isolated atoms.
    """
    bonded = set()
    for graph in graphs:
        bonded.update(model.species(graph.atoms.numbers[graph.dst[bonds(graph)].unique()]).tolist())
    for k, element in enumerate(model.elements):
        if k in bonded:
            continue
        names = records_of_element.get(element, [])
        if not names:
            note(
                f"model: element {element} is in no structure of the data set; the trained potential will "
                "refuse it; leave it out of elements, or add structures"
            )
            continue
        raise StructureError(
            f"{names[0]}: element {element} has a neighbour within the cutoff in no training structure, so "
            "nothing about its bonds can be learned; leave it out of elements and its structures out of the "
            "data, or add structures in which it has neighbours"
        )


def bonds(graph: Graph) -> torch.Tensor:
    """Which edges (E,) join atoms; those between padding atoms have no length."""
    return graph.vectors().square().sum(1) > 0


def trained_domain(config: TrainingConfig) -> Domain | None:
    """Compositions that a force field is trained on; None if it starts from a checkpoint that knows more."""
    dataset = config.dataset
    if not config.model.is_potential or config.init_from is not None or not config.model.fits_references:
        return None
    kinds: dict[tuple, ase.Atoms] = {}  # one of each composition in which atoms are bound
    symbols: set[str] = set()
    for k in dataset.split["train"]:
        atoms = dataset.records[k].atoms
        symbols |= atoms.symbols.species()
        kind = (atoms.get_chemical_formula(), bool(atoms.pbc.any()))
        if kind not in kinds and bonds(config.model.graph(dataset[k][0])).any():
            kinds[kind] = atoms
    untaught = tuple(element for element in config.model.elements if element not in symbols)
    return domain_of(kinds.values()).model_copy(update={"untaught": untaught})


PARTS = {"train": "trained on", "val": "used to choose the weights"}  # of the parts of a run's data


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
